"""Checkpoints small enough to be made for each test run."""

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import llm_blocks
import llm_quant
from llm_cli import LLM
from llm_model_llama import llama, mistral
from llm_model_phi import phi3
from llm_tokenizer import Tokenizer

SPECIAL = ["<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SHAPE = {
    "model_type": "llama",
    "vocab_size": 264,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}

DEEPSEEK = {
    "num_key_value_heads": 4,
    "moe_intermediate_size": 48,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
}
OF_V3 = {"n_group": 2, "topk_group": 1, "scoring_func": "sigmoid", "topk_method": "noaux_tc", "norm_topk_prob": True}
OWN = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
MIXTURES: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 6, "num_experts_per_tok": 2},
    "qwen2_moe": {**OWN, "shared_expert_intermediate_size": 48},
    "qwen3_moe": {**OWN, "head_dim": 8, "norm_topk_prob": True},
    "phimoe": {"num_local_experts": 6, "num_experts_per_tok": 2},
    "deepseek_v2": DEEPSEEK,
    "deepseek_v3": DEEPSEEK | OF_V3 | {"routed_scaling_factor": 2.5},
}


def write_tokenizer(folder: Path, *, template: bool) -> None:
    """A tokenizer whose tokens are the 256 bytes, so that any text comes back as the same ids."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *alphabet])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens([tokenizers.AddedToken(token, special=True) for token in SPECIAL])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    if template:
        config["chat_template"] = TEMPLATE
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 5]}))


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a small random Llama with a tokenizer of bytes; the weights are wide enough apart for clear choices."""

    def make(
        *, template: bool = True, tokenizer: bool = True, dtype: torch.dtype = torch.float32, **shape: Any
    ) -> Path:
        folder = tmp_path_factory.mktemp("checkpoint")
        config = llm_blocks.find("llama").Config.from_hf(SHAPE | shape)
        model = llm_blocks.new_model(config, seed=1, std=0.3, dtype=dtype)
        files: list[Path] = []
        if tokenizer:
            write_tokenizer(folder / "tokenizer", template=template)
            files = sorted((folder / "tokenizer").iterdir())
        llm_blocks.save(model, folder / "model", copy=files)
        return folder / "model"

    return make


@pytest.fixture(scope="session")
def make_mixture(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a small mixture of experts with random weights, of one of the types of MIXTURES."""

    def make(model_type: str, dtype: torch.dtype = torch.bfloat16) -> Path:
        raw = SHAPE | {"model_type": model_type} | MIXTURES[model_type]
        folder = tmp_path_factory.mktemp("mixture") / "model"
        config = llm_blocks.find(model_type).Config.from_hf(raw)
        llm_blocks.save(llm_blocks.new_model(config, seed=1, std=0.2, dtype=dtype), folder)
        return folder

    return make


@pytest.fixture(scope="session")
def same_numbers() -> Callable[..., int]:
    """Counts the quantized layers of a model, whose weights are those of another one; but for a layer to `skip`."""

    def count(one: nn.Module, other: nn.Module, skip: str = "nothing") -> int:
        layers = {
            name: layer
            for name, layer in one.named_modules()
            if isinstance(layer, llm_quant.QuantizedLinear) and name != skip
        }
        for name, layer in layers.items():
            found: Any = other.get_submodule(name).weight
            for key, tensor in vars(layer.weight).items():
                assert torch.equal(getattr(found, key), tensor), (name, key)
        return len(layers)

    return count


@pytest.fixture(scope="session")
def instruct(make_checkpoint: Callable[..., Path]) -> Path:
    """A checkpoint with a chat template."""
    return make_checkpoint()


@pytest.fixture(scope="session")
def base(make_checkpoint: Callable[..., Path]) -> Path:
    """A checkpoint without a chat template."""
    return make_checkpoint(template=False)


@pytest.fixture(scope="session")
def llm(instruct: Path) -> LLM:
    """The checkpoint with a chat template, in fp32 on the CPU."""
    return load_fp32(instruct)


@pytest.fixture(scope="session")
def base_llm(base: Path) -> LLM:
    return load_fp32(base)


def load_fp32(folder: Path) -> LLM:
    llm = LLM.load(folder, distribute=None)
    llm.distribute(accelerator="cpu", precision="32-true")
    return llm


@pytest.fixture(scope="session")
def byte_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, template=True)
    return Tokenizer.load(folder)


class ScriptedModel(nn.Module):
    """Says the ids of a script, one after the other, after a prompt of any `prompt_tokens` ids; then 0 forever."""

    def __init__(self, script: list[int], prompt_tokens: int) -> None:
        super().__init__()
        self.config = llm_blocks.find("llama").Config.from_hf(SHAPE)
        self.weight = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.script, self.prompt_tokens = script, prompt_tokens

    def forward(
        self, x: Tensor, cache: llm_blocks.KVCache, *, counts: list[int] | None = None, last_only: bool = False
    ) -> Tensor:
        counts = counts or [x.shape[1]] * x.shape[0]
        cache.lengths[:] = [length + count for length, count in zip(cache.lengths, counts, strict=True)]
        said = [length - self.prompt_tokens for length in cache.lengths]
        ids = torch.tensor([self.script[i] if 0 <= i < len(self.script) else 0 for i in said])
        return nn.functional.one_hot(ids, self.config.vocab_size)[:, None].float() * 100

    def new_cache(self, batch: int, length: int) -> llm_blocks.KVCache:
        return llm_blocks.KVCache(
            [0], batch=batch, num_kv_heads=1, length=length, head_dim=1, dtype=torch.float32, device="cpu"
        )


@pytest.fixture
def scripted() -> type[ScriptedModel]:
    return ScriptedModel


@pytest.fixture(scope="session")
def test_data() -> Path:
    if "LLM_TEST_DATA" not in os.environ:
        pytest.skip("LLM_TEST_DATA is not set")
    return Path(os.environ["LLM_TEST_DATA"])


@pytest.fixture(scope="session")
def stories(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained model stories260K, written as a Hugging Face folder with its sentencepiece tokenizer."""
    source = test_data / "models" / "stories260K"
    folder = tmp_path_factory.mktemp("stories") / "stories260K"
    model = llm_blocks.load(source / "stories260K.bin")
    tokenizer = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    tokenizer.write_bytes((source / "tok512.model").read_bytes())
    llm_blocks.save(model, folder, copy=[tokenizer])
    return folder


@pytest.fixture(scope="session")
def greedy_ids(test_data: Path) -> list[int]:
    """What stories260K says after BOS, greedily and in fp32."""
    return json.loads((test_data / "models" / "stories260K" / "greedy.json").read_text())["greedy_ids"]


META_NAMES = {
    "model.": "",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "embed_tokens": "tok_embeddings",
    "lm_head": "output",
}
META_CUTS = {"wo": 1, "w2": 1, "tok_embeddings": 1, "norm": None, "attention_norm": None, "ffn_norm": None}


@pytest.fixture(scope="session")
def as_meta() -> Callable[..., Path]:
    """Writes a Hugging Face Llama as Meta does: other names, other order of rows, cut into shards."""

    def write(source: Path, target: Path, *, shards: int = 2, dtype: torch.dtype = torch.float32) -> Path:
        c = llm_blocks.find("llama").Config.from_hf(llm_blocks.read_config(source))
        parts: list[dict[str, Tensor]] = [{} for _ in range(shards)]
        for name, tensor in load_file(source / "model.safetensors").items():
            for theirs, ours in META_NAMES.items():
                name = name.replace(theirs, ours)
            if name.endswith(("wq.weight", "wk.weight")):
                tensor = tensor.unflatten(0, (-1, 2, c.head_dim // 2)).transpose(1, 2).reshape(tensor.shape)
            dim = META_CUTS.get(name.split(".")[-2], 0)
            for part, cut in zip(parts, [tensor] * shards if dim is None else tensor.chunk(shards, dim), strict=True):
                part[name] = cut.to(dtype).clone()
        target.mkdir()
        for i, part in enumerate(parts):
            torch.save(part, target / f"consolidated.{i:02d}.pth")
        params = {"dim": c.dim, "n_layers": c.num_layers, "n_heads": c.num_heads, "n_kv_heads": c.num_kv_heads}
        params |= {"norm_eps": c.norm_eps, "vocab_size": -1, "multiple_of": 8, "max_seq_len": c.max_positions}
        (target / "params.json").write_text(json.dumps(params))
        return target

    return write


def _small_configs() -> dict[str, Any]:
    """Three layers each, and texts of up to 2,048 ids; what depends on a text's length changes at 300."""
    sizes = {"vocab_size": 97, "dim": 32, "hidden_dim": 48, "num_layers": 3, "num_heads": 4, "num_kv_heads": 4}
    sizes |= {"head_dim": 8, "max_positions": 2048}
    factors = {"short_factor": (1.0,) * 4, "long_factor": (3.0,) * 4}
    long = llm_blocks.Rope(kind="longrope", factor=4.0, original_max_positions=300, **factors)
    dynamic = llm_blocks.Rope(kind="dynamic", factor=2.0, original_max_positions=300)
    return {
        "plain": llama.Config(**sizes),
        "window": mistral.Config(**sizes, sliding_window=100),
        "longrope": phi3.Config(**sizes, rope=long),
        "dynamic": llama.Config(**sizes, rope=dynamic),
    }


@pytest.fixture(scope="session")
def small_model() -> Callable[[str], Any]:
    """A model with random weights of a kind: plain, window, longrope, dynamic."""
    configs = _small_configs()
    return functools.cache(lambda kind: llm_blocks.new_model(configs[kind], std=0.1).eval())

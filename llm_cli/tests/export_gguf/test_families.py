"""Every family's file: the same numbers as the checkpoint's, and the same logits when llama.cpp runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize
from safetensors.torch import load_file
from torch import Tensor

import llm_blocks

BASE: dict[str, Any] = {
    "vocab_size": 2080,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "layer_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0, 1.2, 1.3, 1.5, 1.5, 1.6, 1.8, 2.0]}
LONGROPE |= {"long_factor": [1.0, 2.0, 3.0, 5.0, 8.0, 9.0, 11.0, 14.0]}
GEMMA: dict[str, Any] = {"head_dim": 32, "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": True}
WINDOWS: dict[str, Any] = {"sliding_window": 16, "query_pre_attn_scalar": 32}
TOP2: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LATENT: dict[str, Any] = {"kv_lora_rank": 32, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32}
LATENT |= {"num_key_value_heads": 4, "rms_norm_eps": 1e-6, "q_lora_rank": 48}
ROUTED: dict[str, Any] = {"n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2}
ROUTED |= {"moe_intermediate_size": 32, "first_k_dense_replace": 1, "routed_scaling_factor": 1.5}
FALCON: dict[str, Any] = {"alibi": False, "bias": False, "parallel_attn": True}
PHIMOE: dict[str, Any] = {"num_local_experts": 4, "attention_bias": True, "lm_head_bias": True}

# model_type, llama.cpp's architecture, what is otherwise than BASE (None takes a key out)
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("llama", "llama", {}),
    "llama 3, one kv head, biases, tied": (
        "llama",
        "llama",
        {
            "rope_parameters": {**LLAMA3, "rope_theta": 10000.0, "original_max_position_embeddings": 32},
            "attention_bias": True,
            "mlp_bias": True,
            "num_key_value_heads": 1,
            "head_dim": 32,
            "tie_word_embeddings": True,
        },
    ),
    "llama, yarn": ("llama", "llama", {"rope_parameters": {**YARN, "rope_theta": 1e4}}),
    "llama, yarn with a factor": (
        "llama",
        "llama",
        {"rope_parameters": {**YARN, "rope_theta": 1e4, "attention_factor": 1.3}},
    ),
    "llama, linear": ("llama", "llama", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
    "mistral": ("mistral", "llama", {"sliding_window": None, "head_dim": 32}),
    "mixtral": ("mixtral", "llama", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2, tied": ("qwen2", "qwen2", {"tie_word_embeddings": True}),
    "qwen2_moe": ("qwen2_moe", "qwen2moe", {**TOP2, "shared_expert_intermediate_size": 64}),
    "qwen2_moe, tied": (
        "qwen2_moe",
        "qwen2moe",
        {**TOP2, "shared_expert_intermediate_size": 64, "tie_word_embeddings": True},
    ),
    "qwen3": ("qwen3", "qwen3", {"head_dim": 32}),
    "qwen3_moe": ("qwen3_moe", "qwen3moe", {**TOP2, "head_dim": 32, "norm_topk_prob": True}),
    "gemma, one kv head": ("gemma", "gemma", {**GEMMA, "num_key_value_heads": 1}),
    "gemma2": ("gemma2", "gemma2", {**GEMMA, **WINDOWS, "num_hidden_layers": 4}),
    "gemma3": ("gemma3_text", "gemma3", {**GEMMA, **WINDOWS, "num_hidden_layers": 7}),
    "gemma3, other windows, linear, capped": (
        "gemma3_text",
        "gemma3",
        {
            **GEMMA,
            **WINDOWS,
            "num_hidden_layers": 4,
            "sliding_window_pattern": 2,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "rope_local_base_freq": 5000.0,
            "final_logit_softcapping": 20.0,
        },
    ),
    "olmo": ("olmo", "olmo", {"clip_qkv": 1.0}),
    "olmo2, tied": ("olmo2", "olmo2", {"tie_word_embeddings": True}),
    "stablelm": ("stablelm", "stablelm", {"use_qkv_bias": True}),
    "stablelm, norms of heads, parallel": (
        "stablelm",
        "stablelm",
        {"qk_layernorm": True, "use_parallel_residual": True},
    ),
    "smollm3": ("smollm3", "smollm3", {"num_hidden_layers": 5}),
    "granite": (
        "granite",
        "granite",
        {
            "embedding_multiplier": 3.0,
            "attention_multiplier": 0.2,
            "residual_multiplier": 0.5,
            "logits_scaling": 2.0,
            "attention_bias": True,
        },
    ),
    "deepseek_v2, without latents of queries": (
        "deepseek_v2",
        "deepseek2",
        {**LATENT, **ROUTED, "q_lora_rank": None, "topk_method": "greedy"},
    ),
    "deepseek_v2, yarn": (
        "deepseek_v2",
        "deepseek2",
        {**LATENT, **ROUTED, "rope_scaling": {**YARN, "mscale": 0.7, "mscale_all_dim": 0.7}},
    ),
    "deepseek_v3, groups, yarn": (
        "deepseek_v3",
        "deepseek2",
        {
            **LATENT,
            **ROUTED,
            "n_group": 4,
            "topk_group": 2,
            "norm_topk_prob": True,
            "rope_scaling": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
        },
    ),
    "deepseek_v3, dense": ("deepseek_v3", "deepseek2", {**LATENT, "n_routed_experts": 0}),
    "deepseek_v3, another epsilon": (
        "deepseek_v3",
        "deepseek2",
        {**LATENT, "n_routed_experts": 0, "rms_norm_eps": 0.01},
    ),
    "falcon 7B": ("falcon", "falcon", {**FALCON, "multi_query": True, "new_decoder_architecture": False}),
    "falcon 40B": ("falcon", "falcon", {**FALCON, "num_kv_heads": 2, "new_decoder_architecture": True}),
    "phi": ("phi", "phi2", {"hidden_act": "gelu_new"}),
    "phi3": ("phi3", "phi3", {}),
    "phi3, longrope": (
        "phi3",
        "phi3",
        {"rope_scaling": LONGROPE, "original_max_position_embeddings": 512, "max_position_embeddings": 2048},
    ),
    # scores of experts that are near each other are llama.cpp's own affair, see below
    "phimoe": ("phimoe", "phimoe", {**PHIMOE, "router_jitter_noise": 1e-6}),
    "gpt_neox": ("gpt_neox", "gptneox", {"rotary_pct": 0.5}),
    "gpt_neox, one after the other": (
        "gpt_neox",
        "gptneox",
        {"use_parallel_residual": False, "hidden_act": "gelu_fast", "tie_word_embeddings": True},
    ),
    "gpt2": ("gpt2", "gpt2", {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 128}),
}
NAMES = list(CASES)
GELU = ("gemma", "gemma2", "gemma3", "falcon", "phi2", "gptneox", "gpt2")
CHANGED = ("gemma", "gemma2", "gemma3", "phimoe")  # whose numbers aren't all the checkpoint's own
KEPT = {"q_lora_rank", "sliding_window"}  # null means something there
_NOT = {
    "falcon": {"num_key_value_heads", "intermediate_size", "rms_norm_eps", "layer_norm_eps"},
    "gpt_neox": {"num_key_value_heads", "rms_norm_eps"},
    "gpt2": {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"}
    | {"max_position_embeddings", "rms_norm_eps", "layer_norm_eps", "tie_word_embeddings"},
    "olmo": {"rms_norm_eps", "layer_norm_eps"},
    "stablelm": {"rms_norm_eps"},
    "phi": {"rms_norm_eps"},
}


def raw(name: str, **more: Any) -> dict[str, Any]:
    """The config.json of a case."""
    model_type, _, special = CASES[name]
    unknown = _NOT.get(model_type, {"layer_norm_eps"})
    merged = {key: value for key, value in BASE.items() if key not in unknown} | special | more
    named = {key: value for key, value in merged.items() if value is not None or key in KEPT}
    return {**named, "model_type": model_type}


def scales(name: str) -> dict[str, float]:
    """A Gemma multiplies its embedding itself."""
    return {"embed": 0.3} if CASES[name][1].startswith("gemma") else {}


def numbers(reader: gguf.GGUFReader) -> dict[str, np.ndarray[Any, Any]]:
    """Each tensor of a file, in fp32."""
    return {each.name: dequantize(each.data, each.tensor_type).copy() for each in reader.tensors}


@pytest.mark.parametrize("name", NAMES)
def test_the_file_holds_every_number_of_the_checkpoint_once(
    name: str, byte_folder: Path, make: Any, export: Any, tmp_path: Path
) -> None:
    source = make(raw(name, vocab_size=288), tmp_path / "model", tokenizer=byte_folder)
    file, plan = export(source, "f32")
    reader = gguf.GGUFReader(file)
    assert reader.fields["general.architecture"].contents() == CASES[name][1]
    stored, own = numbers(reader), load_file(source / "model.safetensors")
    for key in ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"):
        stored.pop(key, None)  # they follow from config.json
    if plan.source.config.tie_embeddings and plan.form.separate_head:
        assert np.array_equal(stored.pop("output.weight"), stored["token_embd.weight"])
    assert ("output.weight" in stored) != plan.source.config.tie_embeddings
    assert sum(tensor.size for tensor in stored.values()) == sum(tensor.numel() for tensor in own.values())
    if CASES[name][1] not in CHANGED and "epsilon" not in name:
        theirs = np.sort(np.concatenate([tensor.ravel() for tensor in stored.values()]))
        ours = np.sort(np.concatenate([tensor.float().numpy().ravel() for tensor in own.values()]))
        assert np.array_equal(theirs, ours)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_llama_cpp_gives_the_same_logits_at_every_position(
    name: str, make: Any, export: Any, their_logits: Any, tmp_path: Path
) -> None:
    """Past the windows of those that have some, and past the trained length of the stretched ones.

    llama.cpp looks the GELU up in a table of fp16, and the experts of a phimoe have all but even shares there.
    """
    source = make(raw(name), tmp_path / "model", **scales(name))
    error = largest_error(source, export(source, "f32")[0], their_logits)
    assert error < (5e-3 if CASES[name][1] in (*GELU, "phimoe") else 5e-5)


MEAN = {"f16": 4e-3, "bf16": 4e-2, "q8_0": 0.15}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("type", MEAN)
def test_other_types_stay_near(name: str, type: str, make: Any, export: Any, their_logits: Any, tmp_path: Path) -> None:
    """On average, for llama.cpp rounds what goes into a product, too, and a router may choose another expert then."""
    source = make(raw(name), tmp_path / "model", **scales(name))
    ids = some_ids(100)
    ours = our_logits(source, ids)
    theirs = their_logits(export(source, type)[0], ids)
    assert float((ours - theirs).abs().mean() / ours.std()) < MEAN[type]


@pytest.mark.slow
def test_longrope_takes_its_long_factors_where_there_is_room_for_more_than_the_trained_length(
    make: Any, export: Any, their_logits: Any, tmp_path: Path
) -> None:
    source = make(raw("phi3, longrope"), tmp_path / "model")
    file, _ = export(source, "f32")
    ids, model = some_ids(100), llm_blocks.load(source)
    with torch.inference_mode():
        long = model(torch.tensor([ids]), model.new_cache(1, 768))[0]
    assert float((long - their_logits(file, ids, context=768)).abs().max() / long.std()) < 5e-5
    assert float((long - their_logits(file, ids, context=512)).abs().max() / long.std()) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("mistral", {"sliding_window": 16}),
        ("mixtral", {"sliding_window": 16}),
        ("qwen2, tied", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}),
        ("phi3", {"sliding_window": 16}),
    ],
)
def test_a_window_that_llama_cpp_has_not_ends_the_context(
    name: str, more: dict[str, Any], make: Any, export: Any, their_logits: Any, tmp_path: Path
) -> None:
    """llama.cpp lets these see everything: so far as the window reaches the logits are alike, and there it ends."""
    source = make(raw(name, **more), tmp_path / "model")
    file, plan = export(source, "f32")
    ids = some_ids(40)
    ours, theirs = our_logits(source, ids), their_logits(file, ids)
    assert "a context of 16 positions instead of 128" in plan.notes[0]
    assert gguf.GGUFReader(file).fields[f"{CASES[name][1]}.context_length"].contents() == 16
    assert float((ours - theirs)[:16].abs().max() / ours.std()) < 5e-5
    assert float((ours - theirs)[-1].abs().max() / ours.std()) > 0.1


@pytest.mark.slow
def test_a_phimoe_differs_where_scores_of_experts_are_near(
    make: Any, export: Any, their_logits: Any, tmp_path: Path
) -> None:
    """SparseMixer's weights fall below 1 there. llama.cpp's don't, so such tokens, and what follows them, differ."""
    source = make(raw("phimoe", router_jitter_noise=0.01), tmp_path / "model")
    file, plan = export(source, "f32")
    assert "scores within 2% make it less" in plan.notes[0]
    ids = some_ids(100)
    error = (our_logits(source, ids) - their_logits(file, ids)).abs().amax(-1)
    assert 0 < int((error > 1e-2).sum()) < 100


def some_ids(size: int) -> list[int]:
    return torch.randint(6, 2048, (size,), generator=torch.Generator().manual_seed(3)).tolist()


@torch.inference_mode()
def our_logits(source: Path, ids: list[int]) -> Tensor:
    return llm_blocks.load(source, dtype=torch.float32)(torch.tensor([ids]))[0]


def largest_error(source: Path, file: Path, their_logits: Callable[..., Tensor]) -> float:
    """Of 100 positions, relative to how far logits lie apart."""
    ids = some_ids(100)
    ours = our_logits(source, ids)
    return float((ours - their_logits(file, ids)).abs().max() / ours.std())

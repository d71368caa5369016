"""Falcon against transformers: every layout of a layer, every interleaving of the fused projection, RoPE and ALiBi."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch.testing import assert_close
from transformers.models.falcon import modeling_falcon

import llm_blocks
from llm_blocks import testing

BASE: dict[str, Any] = {  # as a Falcon-7B: an odd number of heads, one kv head, one norm for attention and MLP
    "alibi": False,
    "apply_residual_connection_post_layernorm": False,
    "bias": False,
    "hidden_dropout": 0.0,
    "hidden_size": 40,
    "layer_norm_epsilon": 1e-5,
    "multi_query": True,
    "new_decoder_architecture": False,
    "num_attention_heads": 5,
    "num_hidden_layers": 3,
    "parallel_attn": True,
    "vocab_size": 97,
}
GROUPED = {"new_decoder_architecture": True, "hidden_size": 48, "num_attention_heads": 6, "num_kv_heads": 2}
FALCON2 = {"ffn_hidden_size": 160, "ff_factor": 4, "rope_theta": 500042.0, "tie_word_embeddings": False}

CASES: dict[str, dict[str, Any]] = {
    "7B": {},
    "7B, as transformers writes it": {"num_kv_heads": 5, "rope_theta": 10000.0},
    "40B, 180B": GROUPED,
    "11B": {**FALCON2, "new_decoder_architecture": True, "num_ln_in_parallel_attn": 1, "num_kv_heads": 1},
    "11B, grouped, biases": GROUPED | {"num_ln_in_parallel_attn": 1, "bias": True, "ffn_hidden_size": 72},
    "two norms, a kv head for each head": {"new_decoder_architecture": True, "tie_word_embeddings": False},
    "one norm, a kv head for each head": {"multi_query": False},
    "sequential, one kv head": {"parallel_attn": False, "bias": True, "layer_norm_epsilon": 1e-3},
    "sequential, a kv head for each head": {"parallel_attn": False, "multi_query": False, "num_kv_heads": 5},
    "linear": GROUPED | {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}},
    "older linear": {"rope_theta": 20000.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
    "yarn": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    },
    "dynamic": {
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
        "max_position_embeddings": 16,
    },
}
FAMILY = testing.Family(
    model_type="falcon",
    unrecorded=("40B*", "11B, grouped*", "linear"),
    models="Falcon 7B, 40B, 180B, Falcon2 11B",
    features="attention and MLP in parallel behind one norm or two, or in sequence; one kv head, groups, or one for "
    "each head; default, linear, dynamic and YaRN rotary embeddings",
    base=BASE,
    cases=CASES,
    refused=[
        {"activation": "relu"},
        {"apply_residual_connection_post_layernorm": True},
        {"new_decoder_architecture": True, "parallel_attn": False},
        {"new_decoder_architecture": True, "num_ln_in_parallel_attn": 3},
        {"num_ln_in_parallel_attn": 2},
        {"multi_query": False, "num_kv_heads": 1},
        {"num_attention_heads": 3},
        {"n_head": 10},
        {"hidden_size": 35},
        {"ff_factor": 3},
        {"partial_rotary_factor": 0.5},
        {"quantization_config": {"quant_method": "gptq"}},
    ],
    no_laws=frozenset({"dynamic"}),
    why="the dynamic kind changes its angles as a row grows past the trained length, so chunks may differ there",
)
TestFalcon = testing.suite(FAMILY)


def with_sdpa(folder: Path) -> Any:
    """transformers' model of a folder with the attention in which it adds the biases of ALiBi once."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa").eval()


# Slopes of 2, 4 and 8 heads are powers of two, which transformers' bf16 biases hold exactly up to position 256.
ALIBI = testing.Family(
    attention="sdpa",  # the eager one adds the biases twice, as a test below shows
    model_type="falcon",
    unrecorded=("grouped*",),
    models="Falcon-RW 1B, 7B",
    features="linear biases (ALiBi) in place of rotary embeddings, exact and not rounded to bf16 as in transformers; "
    "layers in sequence",
    base=BASE | {"alibi": True, "hidden_size": 32, "num_attention_heads": 4},
    cases={
        "Falcon-RW": {"bias": True, "multi_query": False, "parallel_attn": False},
        "one kv head": {"num_attention_heads": 2},
        "grouped, two norms, untied": {
            "new_decoder_architecture": True,
            "num_attention_heads": 8,
            "num_kv_heads": 2,
            "tie_word_embeddings": False,
        },
    },
)


class TestFalconWithAlibi(testing.suite(ALIBI)):
    def test_eager_attention_of_transformers_adds_the_biases_twice(self, case: testing.Case) -> None:
        """transformers puts the biases into the mask, where its sdpa wants them, and its eager attention adds them to
        the scores as well: its logits depend on the implementation. The code that came with Falcon-RW added them once;
        with halves of them the eager one gives that."""
        eager = transformers.AutoModelForCausalLM.from_pretrained(case.folder, attn_implementation="eager").eval()
        ids = case.ids(1, 48)
        with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
            twice = eager(ids, use_cache=False).logits
            whole = modeling_falcon.build_alibi_tensor
            patch.setattr(modeling_falcon, "build_alibi_tensor", lambda *a, **k: whole(*a, **k) / 2)
            once = eager(ids, use_cache=False).logits
            ours = case.model(ids)
        assert (twice - ours).abs().max() > 1e-3
        assert_close(ours, once, rtol=1e-5, atol=1e-5)


def exact_biases(attention_mask: Tensor, num_heads: int, dtype: torch.dtype) -> Tensor:
    """What transformers' function of this place computes, in fp32 throughout."""
    positions = torch.arange(attention_mask.size(1), dtype=torch.float32)
    biases = llm_blocks.alibi_slopes(num_heads)[:, None] * positions  # (H, S)
    return biases.repeat(attention_mask.size(0), 1)[:, None].to(dtype)


@pytest.mark.parametrize("heads", [4, 6, 16])
def test_biases_of_alibi_are_not_rounded(heads: int, tmp_path: Path) -> None:
    """transformers rounds slopes and biases to bf16, so that its biases aren't linear in the distance: beyond position
    256 neighbours share one, and slopes that are no power of two are wrong from the start, as in every Falcon-RW.
    With exact biases it gives what we give."""
    raw = ALIBI.config("Falcon-RW") | {"num_attention_heads": heads, "hidden_size": 8 * heads, "num_hidden_layers": 2}
    testing.tiny_reference(raw, tmp_path / "model")
    reference, model = with_sdpa(tmp_path / "model"), llm_blocks.load(tmp_path / "model")
    ids = torch.randint(0, 97, (2, 400), generator=torch.Generator().manual_seed(heads))
    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        ours = model(ids)
        rounded = reference(ids, use_cache=False).logits
        patch.setattr(modeling_falcon, "build_alibi_tensor", exact_biases)
        exact = reference(ids, use_cache=False).logits
    assert_close(ours, exact, rtol=1e-5, atol=1e-5)
    assert (rounded - exact).abs().max() > 1e-3


OLDER = {"num_hidden_layers": "n_layer", "num_attention_heads": "n_head", "num_kv_heads": "n_head_kv"}


@pytest.mark.parametrize(("model_type", "case"), [("RefinedWeb", "40B, 180B"), ("RefinedWebModel", "7B")])
def test_files_from_before_transformers_knew_the_family_are_read(model_type: str, case: str, tmp_path: Path) -> None:
    """They have other names of keys, and that of the 40B doesn't say that its architecture is the newer one."""
    made = FAMILY.make(case, tmp_path / "model")
    raw = {OLDER.get(key, key): value for key, value in FAMILY.config(case).items()} | {"model_type": model_type}
    del raw["new_decoder_architecture"]
    (made.folder / "config.json").write_text(json.dumps(raw))
    testing.check_logits(made.model, made.reference, made.ids(2, 40), decode=8)
    assert made.model.config.to_hf()["model_type"] == "falcon"

"""Phi-3.5-MoE against transformers.

The trained lengths of the cases are chosen as in test_parity_phi3.py: beyond every text of the suite, or 1. In the
latter case both sets of factors are the same, since transformers has the short ones at every length: see below.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

import llm_blocks
from llm_blocks import Experts, testing
from llm_blocks.testing import Case
from llm_model_phi import phimoe

SHORT, LONG = [1.0, 1.1, 1.3, 2.0], [1.2, 2.5, 7.0, 15.0]
SCALES = {"short_mscale": 1.1, "long_mscale": 1.3}

FAMILY = testing.Family(
    model_type="phimoe",
    unrecorded=("*",),
    models="Phi-3.5-MoE, Phi-mini-MoE, Phi-tiny-MoE",
    features="two experts chosen by SparseMixer, LayerNorms, biases, LongRoPE, sliding window, grouped queries",
    base={
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_local_experts": 6,
        "num_experts_per_tok": 2,
        "router_jitter_noise": 0.3,  # wide enough for several experts to share the weight
        "input_jitter_noise": 0.01,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "attention_bias": True,
        "lm_head_bias": True,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "sliding_window": None,
        "tie_word_embeddings": False,
    },
    cases={
        "biases": {},
        "no biases, window": {"attention_bias": False, "lm_head_bias": False, "sliding_window": 8},
        "two experts, narrow jitter": {"num_local_experts": 2, "router_jitter_noise": 0.01},
        "head_dim, tied, base not said": {
            "head_dim": 12,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "tie_word_embeddings": True,
            "rope_theta": None,
            "router_jitter_noise": None,
        },
        "LongRoPE, short factors": {
            "max_position_embeddings": 512,
            "original_max_position_embeddings": 128,
            "rope_scaling": {
                "type": "longrope",
                "short_factor": SHORT,
                "long_factor": LONG,
                "original_max_position_embeddings": 128,
                **SCALES,
            },
        },
        "LongRoPE, long scale, window": {
            "rope_theta": None,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "short_factor": LONG,
                "long_factor": LONG,
                "original_max_position_embeddings": 1,
                "attention_factor": 1.0,  # it gives way to the scales; without it transformers divides by log(1)
                **SCALES,
            },
            "sliding_window": 9,
        },
    },
    refused=[
        {"hidden_act": "gelu"},
        {"num_experts_per_tok": 1},
        {"num_local_experts": 1},
        {"moe_intermediate_size": 25},
        {"num_experts": 7},
        {"partial_rotary_factor": 0.5},
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_scaling": {"type": "longrope", "short_factor": SHORT, "long_factor": LONG}},
        {"rope_scaling": {"type": "longrope", "short_factor": SHORT[1:], "long_factor": LONG[1:], **SCALES}},
    ],
)
TestPhimoe = testing.suite(FAMILY)

TRAINED = 24


def crossing(short: list[float], long: list[float], folder: Path) -> Case:
    """A model with a trained length of 24 ids and these factors, extended to 192; always with the same weights."""
    rope = {"type": "longrope", "short_factor": short, "long_factor": long, **SCALES}
    rope["original_max_position_embeddings"] = TRAINED
    change = {"max_position_embeddings": 192, "original_max_position_embeddings": TRAINED, "rope_scaling": rope}
    return replace(FAMILY, cases={"crossing": change}).make("crossing", folder)


@pytest.fixture(scope="module")
def case(tmp_path_factory: Any) -> Case:
    return crossing(SHORT, LONG, tmp_path_factory.mktemp("reference"))


@pytest.fixture(scope="module")
def always_long(tmp_path_factory: Any) -> Case:
    """The same model, with the long factors in the place of the short ones."""
    return crossing(LONG, LONG, tmp_path_factory.mktemp("always long"))


@torch.inference_mode()
def ours(case: Case, ids: torch.Tensor, *, room: int, chunk: int) -> torch.Tensor:
    """What our model gives for a text that is read in chunks into a cache with this room."""
    cache = case.model.new_cache(ids.size(0), room)
    return torch.cat([case.model(part, cache) for part in ids.split(chunk, dim=1)], dim=1)


@torch.inference_mode()
def theirs(case: Case, ids: torch.Tensor) -> torch.Tensor:
    """What transformers gives for a whole text."""
    return case.reference(ids, use_cache=False).logits


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 7, TRAINED])
def test_a_cache_up_to_the_trained_length_has_the_short_factors_and_scale(case: Case, chunk: int) -> None:
    ids = case.ids(2, TRAINED)
    close(ours(case, ids, room=TRAINED, chunk=chunk), theirs(case, ids))


@pytest.mark.parametrize("chunk", [1, 7, TRAINED, 40])
def test_transformers_leaves_out_the_long_factors(case: Case, always_long: Case, chunk: int) -> None:
    """Beyond the trained length it takes the long scale, and makes the angles anew from the short factors.

    Microsoft's own code for these weights takes the long ones of both (arXiv 2402.13753). transformers does as well
    once the long factors stand in the place of the short ones.
    """
    ids = case.ids(2, 40)
    found = ours(case, ids, room=40, chunk=chunk)
    assert (found - theirs(case, ids)).abs().max() > 1e-3
    close(found, theirs(always_long, ids))


@torch.inference_mode()
def test_rows_without_a_cache_have_the_factors_of_their_own_length(case: Case, always_long: Case) -> None:
    ids, counts = case.ids(3, 40), [10, 40, TRAINED + 1]
    together = case.model(ids, counts=counts)
    for row, count in enumerate(counts):
        reference = always_long if count > TRAINED else case
        close(together[row, :count], theirs(reference, ids[row : row + 1, :count])[0])


def test_stacked_experts_are_the_same_as_one_by_one(tmp_path: Path) -> None:
    testing.check_stacked(FAMILY.make("biases", tmp_path / "one by one"), tmp_path / "stacked")


@torch.inference_mode()
def test_an_expert_weighs_by_those_whose_scores_are_close_to_its_own() -> None:
    """The second expert's weight takes no notice of the first: here the two add up to more than 1."""
    config = phimoe.Config.from_hf({**FAMILY.config("biases"), "num_hidden_layers": 1})
    mlp = llm_blocks.new_model(config, "0-1", std=0.3).mid["0"].mlp
    mlp.router.weight.copy_(torch.eye(6, 32))  # the first six numbers of x are the scores
    x = torch.randn(1, 1, 32, generator=torch.Generator().manual_seed(0))
    x[..., :6] = torch.tensor([1.0, 4.0, -3.0, 2.0, 1.9, 0.1])
    # with a jitter of 0.3, scores from 1.6 on are close to 4, and those from 0.8 on are close to 2
    first, second = (float(torch.tensor(near).softmax(0)[0]) for near in ([4.0, 2.0, 1.9], [2.0, 1.9, 1.0]))
    assert first + second > 1
    close(mlp(x)[0, 0], first * expert(mlp.experts, 1, x) + second * expert(mlp.experts, 3, x))


def expert(experts: Experts, number: int, x: torch.Tensor) -> torch.Tensor:
    gate, up = (experts.gate_up[number] @ x[0, 0]).chunk(2)
    return experts.down[number] @ (F.silu(gate) * up)

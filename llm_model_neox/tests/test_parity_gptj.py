"""GPT-J against transformers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import llm_blocks
from llm_blocks import testing
from llm_model_neox.gptj import Config

FAMILY = testing.Family(
    model_type="gptj",
    unrecorded=("*",),
    models="GPT-J-6B, GPT-JT, GPT4All-J, Dolly v1, Pygmalion-6B",
    features="parallel residual with one norm, rotary embeddings of neighbouring dimensions, head with a bias",
    base={
        "vocab_size": 97,
        "n_embd": 32,
        "n_layer": 3,
        "n_head": 4,
        "n_positions": 96,
        "rotary": True,
        "rotary_dim": 4,
        "layer_norm_epsilon": 1e-5,
        "activation_function": "gelu_new",
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
    cases={
        "half of a head turns": {},
        "all of a head turns, other width": {"rotary_dim": 8, "n_inner": 56, "rotary": None},
        "one pair turns, tied, exact GELU": {
            "rotary_dim": 2,
            "n_head": 2,
            "tie_word_embeddings": True,
            "activation_function": "gelu",
        },
        "nothing said": {"n_embd": 128, "n_head": 2, "rotary_dim": None, "activation_function": None},
    },
    refused=[
        {"activation_function": "relu"},
        {"rotary": False},
        {"scale_attn_weights": False},
        {"n_head": 3},
        {"rotary_dim": 3},
        {"rotary_dim": 10},
        {"rotary_dim": 0},
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
    ],
    long=96,
)
TestGPTJ = testing.suite(FAMILY)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> testing.Case:
    return FAMILY.make("all of a head turns, other width", tmp_path_factory.mktemp("case"))


def _stored(case: testing.Case, folder: Path, tensors: dict[str, torch.Tensor], **change: Any) -> Any:
    folder.mkdir()
    raw = json.loads((case.folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(raw))
    save_file(tensors, folder / "model.safetensors")
    return llm_blocks.load(folder)


def test_a_rotary_dim_of_null_turns_whole_heads(case: testing.Case, tmp_path: Path) -> None:
    """transformers 5 refuses null; earlier ones make a table as wide as all heads together, which fits none of them."""
    tensors, ids = load_file(case.folder / "model.safetensors"), case.ids(1, 9)
    assert torch.equal(_stored(case, tmp_path / "null", tensors, rotary_dim=None)(ids), case.model(ids))
    assert Config.from_hf(FAMILY.base | {"rotary_dim": None}).rotary_dim == 8


def test_the_buffers_of_older_checkpoints_are_dropped(case: testing.Case, tmp_path: Path) -> None:
    tensors, ids = load_file(case.folder / "model.safetensors"), case.ids(1, 9)
    tensors |= {f"transformer.h.{layer}.attn.bias": torch.ones(1, 1, 96, 96).tril().bool() for layer in range(3)}
    tensors |= {f"transformer.h.{layer}.attn.masked_bias": torch.tensor(-1e9) for layer in range(3)}
    assert torch.equal(_stored(case, tmp_path / "older", tensors)(ids), case.model(ids))


@torch.inference_mode()
def test_positions_past_the_trained_ones_go_on_turning(case: testing.Case, tmp_path: Path) -> None:
    """transformers stops there with an index error, for it keeps a table of n_positions angles."""
    tensors, ids = load_file(case.folder / "model.safetensors"), case.ids(1, 60)
    short = _stored(case, tmp_path / "short", tensors, n_positions=16)
    assert short.config.max_positions == 16
    testing.laws.close(short(ids), case.reference(ids).logits, "past n_positions")


@torch.inference_mode()
def test_large_scores_survive_half_precision(case: testing.Case, tmp_path: Path) -> None:
    """Scores of fp16 queries and keys may pass 65504, the largest fp16: they must be fp32."""
    tensors, ids = load_file(case.folder / "model.safetensors"), case.ids(1, 9)
    for name in tensors:
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            tensors[name] = tensors[name] * 300
    exact = _stored(case, tmp_path / "large", tensors)
    x = exact.mid["0"].attention_norm(exact.begin.embed(ids))
    q, k = exact.mid["0"].attention.q(x), exact.mid["0"].attention.k(x)
    assert float(q.abs().max() * k.abs().max()) > 65504 > float(torch.maximum(q.abs().max(), k.abs().max()))
    half = llm_blocks.load(tmp_path / "large", dtype=torch.float16)
    logits = half(ids)
    assert logits.isfinite().all()
    steps = half.new_cache(1, 9)
    one_by_one = torch.cat([half(each, steps) for each in ids.split(1, dim=1)], dim=1)
    assert one_by_one.isfinite().all()
    assert float((logits.float() - exact(ids)).abs().mean()) < 0.1

"""GPT-2 against transformers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import llm_blocks
from llm_blocks import testing
from llm_model_neox.gpt2 import Config

POSITIONS = 96

FAMILY = testing.Family(
    model_type="gpt2",
    models="GPT-2, DistilGPT2, DialoGPT, Cerebras-GPT, BioMedLM, ruGPT-3",
    features="learned positions, fused and transposed weights, tied head, scores scaled by layer",
    base={
        "vocab_size": 97,
        "n_embd": 32,
        "n_layer": 3,
        "n_head": 4,
        "n_positions": POSITIONS,  # no more than the suite reads, so its last position is the last that there is
        "layer_norm_epsilon": 1e-5,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
    cases={
        "as published": {},
        "untied, other width, exact GELU": {
            "tie_word_embeddings": False,
            "n_inner": 56,
            "activation_function": "gelu",
        },
        "scaled by layer, in fp32": {
            "scale_attn_by_inverse_layer_idx": True,
            "reorder_and_upcast_attn": True,
            "n_head": 2,
        },
        "not scaled": {
            "scale_attn_weights": False,
            "activation_function": "gelu_pytorch_tanh",
            "n_positions": POSITIONS + 32,
        },
    },
    refused=[
        {"activation_function": "relu"},
        {"add_cross_attention": True},
        {"n_head": 3},
        {"n_inner": 0},
        {"scale_attn_weights": "no"},
        {"hidden_size": 64},
        {"multi_query": True},
    ],
    long=POSITIONS,
)
TestGPT2 = testing.suite(FAMILY)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> testing.Case:
    return FAMILY.make("as published", tmp_path_factory.mktemp("case"))


def _stored(case: testing.Case, folder: Path, tensors: dict[str, torch.Tensor]) -> Any:
    folder.mkdir()
    (folder / "config.json").write_text((case.folder / "config.json").read_text())
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return llm_blocks.load(folder)


@torch.inference_mode()
@pytest.mark.parametrize("part", ["f", "1-2", "2-3 e"])
def test_a_text_beyond_the_learned_positions_is_refused_before_anything_is_stored(
    case: testing.Case, part: str
) -> None:
    """A part without the beginning refuses it too. transformers fails with an index out of range."""
    model = case.part(part)
    cache = model.new_cache(2, POSITIONS + 8)

    def x(time: int) -> torch.Tensor:
        return case.ids(2, time) if part == "f" else torch.ones(2, time, 32)

    model(x(POSITIONS - 2), cache, counts=[POSITIONS - 2, 3])
    kept = [tensor.clone() for tensor in (*cache.k.values(), *cache.v.values())]
    rule = f"row 0 goes from {POSITIONS - 2} to {POSITIONS + 1} positions and this model has learned {POSITIONS}"
    with pytest.raises(ValueError, match=rule):
        model(x(3), cache)
    assert cache.lengths == [POSITIONS - 2, 3]
    assert all(map(torch.equal, kept, (*cache.k.values(), *cache.v.values())))
    model(x(2), cache)
    assert cache.lengths == [POSITIONS, 5]
    with pytest.raises(ValueError, match=f"from 0 to {POSITIONS + 1} positions"):
        model(x(POSITIONS + 1))


@torch.inference_mode()
def test_padding_may_lie_beyond_the_last_position(case: testing.Case) -> None:
    """A row near its end shares a batch with one that has more to read: its padding was looked up out of range."""
    model, cache = case.model, case.model.new_cache(2, POSITIONS)
    ids, more = case.ids(2, POSITIONS - 1), case.ids(2, 5)
    model(ids, cache, counts=[POSITIONS - 1, 4])
    found = model(more, cache, counts=[1, 5])
    wanted = model(torch.cat((ids[:1], more[:1, :1]), dim=1))
    testing.laws.close(found[0, 0], wanted[0, -1], "the last position, before padding")
    wanted = model(torch.cat((ids[1:, :4], more[1:]), dim=1))
    testing.laws.close(found[1], wanted[0, 4:], "the row without padding")


def test_openais_own_names_and_the_buffers_of_older_checkpoints_are_read(case: testing.Case, tmp_path: Path) -> None:
    """The folder `gpt2` has no prefix, and like many others a causal mask in each layer."""
    prefix = "transformer."
    tensors = {name.removeprefix(prefix): each for name, each in load_file(case.folder / "model.safetensors").items()}
    masks = {f"h.{layer}.attn.bias": torch.ones(1, 1, POSITIONS, POSITIONS).tril() for layer in range(3)}
    scalars = {f"h.{layer}.attn.masked_bias": torch.tensor(-1e4) for layer in range(3)}
    ids = case.ids(1, 9)
    assert torch.equal(_stored(case, tmp_path / "openai", tensors | masks)(ids), case.model(ids))
    older = {prefix + name: each for name, each in (tensors | masks | scalars).items()}
    older["lm_head.weight"] = tensors["wte.weight"].clone()  # as .bin files of tied models have it
    assert torch.equal(_stored(case, tmp_path / "older", older)(ids), case.model(ids))


def test_weights_stay_transposed_as_the_file_has_them(case: testing.Case) -> None:
    stored = load_file(case.folder / "model.safetensors")["transformer.h.1.mlp.c_fc.weight"]
    assert stored.shape == (32, 128)
    assert torch.equal(case.model.mid["1"].mlp.up.weight, stored)


def test_what_is_kept_for_others_comes_back() -> None:
    """Without the key transformers would compute the scores of such a model in half precision, where they overflow."""
    raw = FAMILY.config("scaled by layer, in fp32")
    assert Config.from_hf(raw).to_hf()["reorder_and_upcast_attn"] is True

"""One suite of tests for every architecture, so that a family's own file is a table of configurations.

FAMILY = testing.Family(model_type="llama", base={...}, cases={"gqa": {...}}, models="…", features="…")
TestLlama = testing.suite(FAMILY)
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.testing import assert_close

import llm_sepweight
from llm_blocks.architectures import find
from llm_blocks.loading import load
from llm_blocks.names import decider, to_hf_name
from llm_blocks.testing.laws import TOLERANCE
from llm_blocks.testing.parity import tiny_reference

NULL: Any = object()
"""The value of a key that a case's config.json has as null."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """What is tested of an architecture, and what the page of supported models says about it.

    `base` is the config.json of a tiny model; each of `cases` is base with some keys replaced, where None takes a key
    out and NULL writes null. `long` positions lead past every window and trained length of the cases. `refused` are
    changes of base that the Config must not accept. `tolerance` above 1e-5 needs its reason in `why`; `bf16` bounds the
    mean error of bf16 logits by so many times that of transformers. `attention` is the implementation of transformers
    to compare with. `unrecorded` are patterns of the cases with operations that the kernels lack (`Recorded`).
    """

    model_type: str
    base: Mapping[str, Any]
    cases: Mapping[str, Mapping[str, Any]]
    models: str
    features: str
    refused: Sequence[Mapping[str, Any]] = ()
    long: int = 96
    greedy: int = 64
    tolerance: float = TOLERANCE
    bf16: float = 1.25
    why: str = ""
    attention: str = "eager"
    no_laws: frozenset[str] = field(default_factory=frozenset)
    unrecorded: tuple[str, ...] = ()

    def config(self, case: str) -> dict[str, Any]:
        """The config.json of a case."""
        merged = {**self.base, **self.cases[case], "model_type": self.model_type}
        return {key: None if value is NULL else value for key, value in merged.items() if value is not None}

    def make(self, case: str, folder: Path) -> "Case":
        """The model of transformers for a case, written to `folder`, and ours read from there."""
        reference = tiny_reference(self.config(case), folder, attention=self.attention)
        return Case(family=self, folder=folder, reference=reference)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One configuration of a family: transformers' model, and ours of the same folder."""

    family: Family
    folder: Path
    reference: Any

    @property
    def model(self) -> Any:
        return self.part("f")

    @property
    def part(self) -> Any:
        """From a part spec to our model of that part; the same one each time."""
        return _parts(self.folder)

    def ids(self, *shape: int) -> Tensor:
        """Random ids (B, T) of the vocabulary, the same for a shape."""
        vocabulary = self.model.config.vocab_size
        return torch.randint(0, vocabulary, shape, generator=torch.Generator().manual_seed(sum(shape)))

    @torch.inference_mode()
    def error(self) -> float:
        """The largest difference of any logit of `long` positions from the reference's."""
        ids = self.ids(2, self.family.long)
        return float((self.model(ids) - self.reference(ids, use_cache=False).logits).abs().max())

    @torch.inference_mode()
    def bf16_error(self) -> float:
        """The mean error of our bf16 logits, over that of transformers' bf16 logits."""
        ids = self.ids(16, self.family.long)  # rounding sends some tokens to other experts, which must average out
        exact = self.model(ids)
        ours = load(self.folder, dtype=torch.bfloat16)(ids)
        assert ours.dtype == torch.bfloat16, f"bf16 weights gave {ours.dtype}"
        options = {"dtype": torch.bfloat16, "attn_implementation": self.family.attention}
        reference = type(self.reference).from_pretrained(self.folder, **options).eval()
        theirs = reference(ids, use_cache=False).logits
        return float((ours - exact).abs().mean() / (theirs - exact).abs().mean())


def stored_again(folder: Path, where: Path) -> None:
    """AssertionError unless every tensor of a Hugging Face folder comes back byte for byte from a sepweight folder."""
    raw = json.loads((folder / "config.json").read_text())
    architecture = find(raw["model_type"])
    names, num_layers = architecture.NAMES, architecture.Config.from_hf(raw).num_layers
    decide = decider(names, num_layers=num_layers)
    with llm_sepweight.open(folder) as plain, llm_sepweight.open(folder, decider=decide) as weights:
        llm_sepweight.write(where, weights, tied=None, num_layers=num_layers)
        with llm_sepweight.open(where) as stored:
            back = {to_hf_name(names, name): stored.read(name) for name in stored.names}
        dropped = set(plain.names) - set(back)
        assert not {name for name in dropped if decide(name) is not None}, f"{dropped} did not come back"
        assert not set(back) - set(plain.names), f"{set(back) - set(plain.names)} came from nowhere"
        for name, tensor in back.items():
            wanted = plain.read(name)
            assert tensor.dtype == wanted.dtype, f"{name} changed its dtype"
            assert torch.equal(tensor.view(torch.uint8), wanted.view(torch.uint8)), f"{name} changed its bytes"


@torch.inference_mode()
def check_stacked(case: Case, where: Path) -> None:
    """A checkpoint whose experts are stacked gives the same model as the case's own, in which they are one by one.

    Its logits may differ in their last bits: products depend on where in memory a weight begins.
    """
    from safetensors.torch import save_file

    where.mkdir()
    (where / "config.json").write_text((case.folder / "config.json").read_text())
    state = case.reference.state_dict()
    if case.model.config.tie_embeddings:
        del state["lm_head.weight"]
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, where / "model.safetensors")
    with llm_sepweight.open(case.folder) as single, llm_sepweight.open(where) as stacked:
        experts = [name for name in stacked.names if stacked.info(name).shape[1:] and name not in single]
        assert any(len(stacked.info(name).shape) == 3 for name in experts), "no experts are stacked"
        assert len(single.names) > len(stacked.names), "no experts are one by one"
    ids, found = case.ids(1, 9), load(where)
    for name, parameter in case.model.named_parameters():
        assert torch.equal(found.get_parameter(name), parameter), f"{name} differs where experts are stacked"
    assert_close(found(ids), case.model(ids), rtol=1e-5, atol=1e-5)


@lru_cache(maxsize=4)
def _parts(folder: Path) -> Any:
    @lru_cache
    def part(spec: str) -> Any:
        with torch.inference_mode(False):  # whoever asks first: others want gradients
            return load(folder, spec)

    return part

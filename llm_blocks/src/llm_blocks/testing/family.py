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

import llm_sepweight
from llm_blocks.architectures import find
from llm_blocks.loading import load
from llm_blocks.names import decider, to_hf_name
from llm_blocks.testing.laws import TOLERANCE
from llm_blocks.testing.parity import tiny_reference


@dataclass(frozen=True, kw_only=True)
class Family:
    """What is tested of an architecture, and what the page of supported models says about it.

    `base` is the config.json of a tiny model; each of `cases` is base with some keys replaced, and None takes a key
    out. `long` positions lead past every window and trained length of the cases. `refused` are changes of base that the
    Config must not accept. `tolerance` above 1e-5 needs its reason in `why`; `bf16` bounds the mean error of bf16
    logits by so many times that of transformers.
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
    no_laws: frozenset[str] = field(default_factory=frozenset)

    def config(self, case: str) -> dict[str, Any]:
        """The config.json of a case."""
        merged = {**self.base, **self.cases[case], "model_type": self.model_type}
        return {key: value for key, value in merged.items() if value is not None}

    def make(self, case: str, folder: Path) -> "Case":
        """The model of transformers for a case, written to `folder`, and ours read from there."""
        return Case(family=self, folder=folder, reference=tiny_reference(self.config(case), folder))


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
        ids = self.ids(2, self.family.long)
        exact = self.model(ids)
        ours = load(self.folder, dtype=torch.bfloat16)(ids)
        assert ours.dtype == torch.bfloat16, f"bf16 weights gave {ours.dtype}"
        reference = type(self.reference)(self.reference.config).eval()
        reference.load_state_dict(self.reference.state_dict())
        theirs = reference.to(torch.bfloat16)(ids, use_cache=False).logits
        return float((ours - exact).abs().mean() / (theirs - exact).abs().mean())


def stored_again(folder: Path, where: Path) -> None:
    """AssertionError unless every tensor of a Hugging Face folder comes back byte for byte from a sepweight folder."""
    raw = json.loads((folder / "config.json").read_text())
    names = find(raw["model_type"]).NAMES
    with llm_sepweight.open(folder) as plain, llm_sepweight.open(folder, decider=decider(names)) as weights:
        llm_sepweight.write(where, weights, tied=None, num_layers=weights.num_layers)
        with llm_sepweight.open(where) as stored:
            back = {to_hf_name(names, name): stored.read(name) for name in stored.names}
        dropped = set(plain.names) - set(back)
        assert not {name for name in dropped if decider(names)(name) is not None}, f"{dropped} did not come back"
        assert not set(back) - set(plain.names), f"{set(back) - set(plain.names)} came from nowhere"
        for name, tensor in back.items():
            wanted = plain.read(name)
            assert tensor.dtype == wanted.dtype, f"{name} changed its dtype"
            assert torch.equal(tensor.view(torch.uint8), wanted.view(torch.uint8)), f"{name} changed its bytes"


@lru_cache(maxsize=4)
def _parts(folder: Path) -> Any:
    return lru_cache(lambda spec: load(folder, spec))

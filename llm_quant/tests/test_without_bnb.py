"""Without the extra bnb: one sentence where LLM.int8() is asked for, and everything else as ever."""

import sys

import pytest
import torch
from torch import nn

from llm_quant import quantize
from llm_quant.bnb import SCHEMES, library


@pytest.fixture(autouse=True)
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "bitsandbytes", raising=False)
    monkeypatch.setattr(library, "_found", lambda: False)


def test_without_the_extra_one_sentence_tells_how_to_get_it() -> None:
    model = nn.Sequential(nn.Linear(64, 8))
    with pytest.raises(ValueError, match="need bitsandbytes, which is missing: `python -m pip install bitsandbytes`"):
        quantize(model, "bnb.int8")
    assert type(model[0]) is nn.Linear
    quantize(model, "int8")


@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if scheme != "bnb.int8"])
def test_four_bits_need_nothing(scheme: str) -> None:
    model = nn.Sequential(nn.Linear(64, 8))
    quantize(model, scheme)  # type: ignore[arg-type]
    assert model(torch.randn(2, 64)).shape == (2, 8)
    assert "bitsandbytes" not in sys.modules

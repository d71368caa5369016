"""Without the extra bnb: one sentence, and everything else as ever."""

import sys

import pytest
from torch import nn

from llm_quant import quantize
from llm_quant.bnb import SCHEMES, Scheme, library


@pytest.mark.parametrize("scheme", SCHEMES)
def test_without_the_extra_one_sentence_tells_how_to_get_it(scheme: Scheme, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "bitsandbytes", raising=False)
    monkeypatch.setattr(library, "find_spec", lambda name: None)
    model = nn.Sequential(nn.Linear(64, 8))
    with pytest.raises(ValueError, match="need bitsandbytes, which is missing: `python -m pip install bitsandbytes`"):
        quantize(model, scheme)
    assert type(model[0]) is nn.Linear
    quantize(model, "int8")

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from llm_blocks import Fused, Parts, parts_of, qkv_parts
from llm_blocks.testing import check_parts


def test_spans_and_counts() -> None:
    parts = qkv_parts(6, 2, groups=3)
    assert (parts.run, parts.total, parts.count("q"), parts.count("v")) == (10, 30, 18, 6)
    assert [parts.span(name) for name in parts.names] == [slice(0, 6), slice(6, 8), slice(8, 10)]


def test_parts_need_a_size_each() -> None:
    with pytest.raises(ValueError, match="a name of its own and a size"):
        Parts(names=("a", "b"), sizes=(1,))
    with pytest.raises(ValueError, match="a name of its own and a size"):
        Parts(names=("a", "a"), sizes=(1, 1))


def test_a_module_at_the_root_is_found() -> None:
    class Both(Fused):
        def parts(self) -> dict[str, Parts]:
            return {"both": Parts(names=("one", "two"), sizes=(1, 1))}

    assert list(parts_of(Both())) == ["both"]
    assert parts_of(nn.Linear(2, 2)) == {}


class Attention(Fused):
    """One whose keys stand first, whatever it says."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.qkv, self.names = nn.Linear(4, 6), names

    def parts(self) -> dict[str, Parts]:
        return {"qkv": Parts(names=self.names, sizes=(2, 2, 2))}


class Model(nn.Module):
    def __init__(self, *names: str) -> None:
        super().__init__()
        self.attention = Attention(*names)

    def new_cache(self, batch: int, length: int) -> SimpleNamespace:
        return SimpleNamespace(storages={})

    def forward(self, ids: torch.Tensor, cache: SimpleNamespace | None = None) -> torch.Tensor:
        k, q, v = self.attention.qkv(nn.functional.one_hot(ids, 4).float()).chunk(3, dim=-1)
        if cache is not None:
            cache.storages = {"k": {0: k}, "v": {0: v}}
        return q * k + v


def test_the_check_of_a_model_that_tells_the_truth() -> None:
    check_parts(Model("k", "q", "v"), torch.arange(4)[None])


@pytest.mark.parametrize("names", [("q", "k", "v"), ("k", "v", "q"), ("v", "q", "k")])
def test_the_check_of_one_that_does_not(names: tuple[str, ...]) -> None:
    with pytest.raises(AssertionError, match=r"is another than expected"):
        check_parts(Model(*names), torch.arange(4)[None])


def test_the_check_of_one_that_says_nothing_or_too_little() -> None:
    with pytest.raises(AssertionError, match="are fused"):
        check_parts(nn.ModuleDict({"qkv": nn.Linear(4, 6)}), torch.arange(4)[None])
    model = Model("k", "q", "v")
    model.attention.qkv = nn.Linear(4, 12)
    with pytest.raises(AssertionError, match="are 6 outputs of 12"):
        check_parts(model, torch.arange(4)[None])

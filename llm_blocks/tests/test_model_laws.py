"""The laws hold for an architecture made of these blocks, and the checks notice when one is broken."""

from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import llm_blocks
from llm_blocks import testing

IDS = torch.randint(0, 23, (2, 12), generator=torch.Generator().manual_seed(0))


def _make(toy: ModuleType, **config: Any) -> Any:
    return lambda part: llm_blocks.new_model(toy.Config(**config), part, std=0.3).eval()


def test_all_laws_hold(toy: ModuleType) -> None:
    make = _make(toy)
    testing.check_chunks(make, IDS, [5, 1, 6])
    testing.check_slices(make, IDS, [1])
    testing.check_slices(make, IDS, [1, 2])
    testing.check_rows(make, [[1, 2, 3], [4], [5, 6, 7, 8, 9]])
    testing.check_rollback(make, IDS, IDS[:, :3], [0, 2])
    testing.check_last_only(make, [[1, 2, 3], [4], [5, 6]])
    testing.check_meta_build(make, "f", IDS)
    testing.check_meta_build(_make(toy, tie_embeddings=True), "f", IDS)


def test_a_row_of_the_dynamic_kind_depends_on_its_own_length(toy: ModuleType) -> None:
    rope = llm_blocks.Rope(kind="dynamic", factor=3.0, original_max_positions=4)
    testing.check_rows(_make(toy, rope=rope), [[1, 2, 3, 4, 5, 6, 7], [8, 9]], decode=0)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_chunks_of_any_sizes_equal_the_whole(toy_laws: Any, sizes: list[int]) -> None:
    ids = torch.arange(sum(sizes)).remainder(23)[None]
    testing.check_chunks(toy_laws, ids, sizes)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_rows_of_any_lengths_equal_themselves_alone(toy_laws: Any, lengths: list[int]) -> None:
    testing.check_rows(toy_laws, [[(7 * n + i) % 23 for i in range(n)] for n in lengths])


@pytest.fixture(scope="module")
def toy_laws(toy_site: Any) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(toy_site)
        import toy_architecture

        yield _make(toy_architecture)


def test_the_checks_notice_a_model_that_breaks_the_laws(toy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(toy.Model):
        def forward(self, x, cache=None, **options):
            return super().forward(x, None, **options)

    monkeypatch.setattr(toy, "Model", Forgetful)
    with pytest.raises(AssertionError):
        testing.check_chunks(_make(toy), IDS, [6, 6])
    with pytest.raises(AssertionError):
        testing.check_rows(_make(toy), [[1, 2, 3], [4]])

    def unequal(part: str) -> Any:
        return llm_blocks.new_model(toy.Config(), part, seed=len(part))

    with pytest.raises(AssertionError):
        testing.check_slices(unequal, IDS, [1])

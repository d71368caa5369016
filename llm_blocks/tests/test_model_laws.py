"""The laws hold for an architecture made of these blocks, and the checks notice when one is broken."""

from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import llm_blocks
from llm_blocks import KVCache, testing

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


def test_the_checks_notice_what_a_cache_rolled_back_still_shows(
    toy: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check wrote over all that it had rolled back, with the same ids, so seeing it could not be noticed."""
    see_all = KVCache.ends

    def ends(self: KVCache, counts: list[int]) -> list[int]:
        self.high = max(*see_all(self, counts), getattr(self, "high", 0))  # pyright: ignore
        return see_all(self, counts)

    def remember(self: Any, layer: int, k: torch.Tensor, v: torch.Tensor) -> Any:
        _, _, view = original(self, layer, k, v)
        high = self.cache.high
        # without what the kernels would read by themselves
        return self.cache.k[layer][:, :, :high], self.cache.v[layer][:, :, :high], getattr(view, "plain", view)

    original = llm_blocks.Plan.remember
    monkeypatch.setattr(KVCache, "ends", ends)
    monkeypatch.setattr(llm_blocks.Plan, "remember", remember)
    with pytest.raises(AssertionError, match="after rolling back"):
        testing.check_rollback(_make(toy), IDS, IDS[:, :3], [0, 0])


def test_the_checks_notice_the_wrong_last_position_and_buffers(
    toy: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Careless(toy.Model):
        def forward(self, x, cache=None, *, counts=None, last_only=False):
            logits = super().forward(x, cache, counts=counts)
            return logits[:, -1:] if last_only else logits  # the padding's

    class Buffered(toy.Model):
        def __init__(self, config, part="f"):
            super().__init__(config, part)
            self.register_buffer("angles", torch.ones(1), persistent=False)

    monkeypatch.setattr(toy, "Model", Careless)
    with pytest.raises(AssertionError, match="last_only of row 1"):
        testing.check_last_only(_make(toy), [[1, 2, 3], [4], [5, 6]])
    monkeypatch.setattr(toy, "Model", Buffered)
    with pytest.raises(AssertionError, match="no buffers"):
        testing.check_meta_build(_make(toy), "f", IDS)


def test_the_first_layers_are_a_model_that_copies_nothing(toy: ModuleType) -> None:
    model = llm_blocks.new_model(toy.Config())
    parts = {"f": model}
    for count in (1, 2):
        parts[f"b 0-{count}"] = llm_blocks.new_model(toy.Config(), f"b 0-{count}")
        testing.check_first_layers(parts.__getitem__, IDS, count)
    for count in (0, 3, 4):
        with pytest.raises(ValueError, match="from 1 to 2 of this model's 3"):
            llm_blocks.first_layers(model, count)
    with pytest.raises(ValueError, match="needs a whole model"):
        llm_blocks.first_layers(parts["b 0-2"], 1)

import pytest
import torch

from llm_blocks import KVCache, Rope, plan_attention, rope_table

CPU = torch.device("cpu")


def _cache(batch: int = 2, length: int = 6) -> KVCache:
    return KVCache([3, 4], batch=batch, num_kv_heads=1, length=length, head_dim=2, dtype=torch.float32, device="cpu")


def _filled(value: float, batch: int, time: int) -> torch.Tensor:
    return torch.full((batch, 1, time, 2), value)


def test_storage_is_by_absolute_layer_and_starts_empty() -> None:
    cache = _cache()
    assert list(cache.k) == list(cache.v) == [3, 4]
    assert cache.k[3].shape == (2, 1, 6, 2)
    assert (cache.lengths, cache.capacity) == ([0, 0], 6)


def test_rows_that_differ_are_written_each_at_its_own_end() -> None:
    cache = _cache()
    cache.lengths[:] = [1, 4]
    plan = plan_attention(2, 2, counts=None, cache=cache, device=CPU)
    k, v, _ = plan.remember(3, _filled(7.0, 2, 2), _filled(8.0, 2, 2))
    plan.commit()
    assert cache.lengths == [3, 6]
    assert cache.k[3][:, 0, :, 0].tolist() == [[0, 7, 7, 0, 0, 0], [0, 0, 0, 0, 7, 7]]
    assert cache.v[3][:, 0, :, 0].tolist() == [[0, 8, 8, 0, 0, 0], [0, 0, 0, 0, 8, 8]]
    assert k.shape == v.shape == (2, 1, 6, 2)


@pytest.mark.parametrize("lengths", [[4, 4], [2, 4], [0, 0]])
def test_padding_is_neither_written_over_entries_nor_out_of_range(lengths: list[int]) -> None:
    """A padded chunk that is wider than the room left must store its real positions alone."""
    cache = _cache()
    cache.lengths[:] = lengths
    plan = plan_attention(2, 6, counts=[2, 1], cache=cache, device=CPU)
    plan.remember(4, _filled(9.0, 2, 6), _filled(9.0, 2, 6))
    plan.commit()
    assert cache.lengths == [lengths[0] + 2, lengths[1] + 1]
    for row, (start, count) in enumerate(zip(lengths, [2, 1], strict=True)):
        stored = cache.k[4][row, 0, :, 0]
        assert stored[:start].eq(0).all()
        assert stored[start : start + count].eq(9).all()


def test_a_row_without_new_positions_stays_as_it_is() -> None:
    cache = _cache()
    cache.lengths[:] = [2, 6]
    plan = plan_attention(2, 1, counts=[1, 0], cache=cache, device=CPU)
    plan.remember(3, _filled(5.0, 2, 1), _filled(5.0, 2, 1))
    plan.commit()
    assert cache.lengths == [3, 6]
    assert cache.k[3][1].eq(0).all()


def test_a_full_cache_is_refused_before_anything_is_written() -> None:
    cache = _cache()
    cache.lengths[:] = [1, 5]
    with pytest.raises(ValueError, match=r"row 1 goes from 5 to 7 positions and the cache holds 0 to 6; make a longer"):
        plan_attention(2, 2, counts=None, cache=cache, device=CPU)
    assert cache.lengths == [1, 5]


def test_another_number_of_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="made for 2 rows and the input has 3"):
        plan_attention(3, 1, counts=None, cache=_cache(), device=CPU)


@pytest.mark.parametrize("counts", [[1], [1, 3], [-1, 2]])
def test_counts_must_fit_the_input(counts: list[int]) -> None:
    with pytest.raises(ValueError, match="one number from 0 to 2 for each of the 2 rows"):
        plan_attention(2, 2, counts=counts, cache=None, device=CPU)


def test_truncate_shortens_only_longer_rows() -> None:
    cache = _cache()
    cache.lengths[:] = [2, 5]
    cache.truncate(3)
    assert cache.lengths == [2, 3]
    with pytest.raises(ValueError, match="shorter than 0"):
        cache.truncate(-1)


@pytest.mark.parametrize("sizes", [{"batch": 0}, {"length": 0}])
def test_an_empty_cache_is_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least one row and one position"):
        _cache(**sizes)


@pytest.mark.parametrize("lengths", [[2, 2], [1, 3]])
def test_a_cache_may_keep_another_dtype_than_the_model_computes_in(lengths: list[int]) -> None:
    """Rows of unequal lengths could not be stored, and attention was given keys of another dtype than its queries."""
    cache = _cache()
    cache.lengths[:] = lengths
    plan = plan_attention(2, 2, counts=None, cache=cache, device=CPU)
    new = _filled(7.0, 2, 2).bfloat16()
    k, v, _ = plan.remember(3, new, new + 1)
    assert (k.dtype, v.dtype, cache.k[3].dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    for row, start in enumerate(lengths):
        assert k[row, 0, start : start + 2].eq(7).all()
        assert v[row, 0, start : start + 2].eq(8).all()


@pytest.mark.parametrize("counts", [[80, 80], [80, 75]])
def test_a_window_over_a_cache_of_another_dtype(counts: list[int]) -> None:
    sizes = {"num_kv_heads": 1, "length": 300, "head_dim": 2, "windows": {0: 4}}
    cache = KVCache([0], batch=2, **sizes, dtype=torch.float32, device="cpu")
    for _ in range(2):  # the second time, new keys are joined to those of the cache
        plan = plan_attention(2, 80, counts=counts, cache=cache, device=CPU, layers={0: 4})
        new = _filled(7.0, 2, 80).bfloat16()
        k, v, view = plan.remember(0, new, new + 1)
        plan.commit()
        assert (view.fresh, k.dtype, v.dtype) == (True, torch.bfloat16, torch.bfloat16)
    assert k[:, :, :3].eq(7).all()
    assert v[:, :, :3].eq(8).all()


def test_a_row_has_one_set_of_angles() -> None:
    """LongRoPE: keys that were turned for a short text can't become part of a long one."""

    def cache(length: int) -> KVCache:
        sizes = {"num_kv_heads": 1, "head_dim": 2, "long_from": 8}
        return KVCache([0], batch=1, length=length, **sizes, dtype=torch.float32, device="cpu")

    def read(count: int, cache: KVCache) -> None:
        plan_attention(1, count, counts=None, cache=cache, device=CPU).commit()

    unknown = cache(9)
    read(8, unknown)
    assert unknown.outgrown() == []
    read(1, unknown)

    short = cache(9)
    short.aims[0] = 4
    read(8, short)  # an aim may be passed, but not into other angles
    assert short.outgrown() == [0]
    assert short.holds(0, 8, aim=8)
    assert not short.holds(0, 8, aim=9)
    rule = r"row 0 holds 8 positions with the angles of another length of text; .* set aims\[0\] to .* new length"
    with pytest.raises(ValueError, match=rule):
        read(1, short)
    assert short.lengths == [8]
    copy = cache(20)
    copy.copy_from(short)
    assert copy.outgrown() == [0]
    assert copy.aims == [4]
    copy.lengths[0], copy.aims[0] = 0, 9
    read(9, copy)
    assert not copy.holds(0, 3, aim=8)
    assert copy.holds(0, 0, aim=8)
    short.lengths[0], short.aims[0] = 0, None  # as the rule says: an aim of 4 would lead into it once more
    for _ in range(9):
        read(1, short)


def test_a_forward_knows_the_length_of_the_text() -> None:
    """Up to what a row is read decides its angles from the first chunk on; without a cache each row is whole."""
    rope = Rope(kind="dynamic", factor=2.0, original_max_positions=4)
    cache = KVCache([0], batch=2, num_kv_heads=1, head_dim=4, length=9, dtype=torch.float32, device="cpu")
    cache.aims[0] = 8
    table = plan_attention(2, 3, counts=[2, 3], cache=cache, device=CPU).rope_table(rope, 4)
    alone = rope_table(rope, 4, torch.arange(3)[None], lengths=[8, 3])
    assert all(map(torch.equal, table, alone))
    whole = plan_attention(2, 6, counts=[5, 6], cache=None, device=CPU).rope_table(rope, 4)
    assert all(map(torch.equal, whole, rope_table(rope, 4, torch.arange(6)[None], lengths=[5, 6])))


@pytest.mark.parametrize(
    ("batch", "length", "copies", "rule"),
    [
        (4, 4, 2, "2 times 2 rows of up to 5 positions don't fit into 4 rows of 4"),
        (3, 6, 2, "2 times 2 rows of up to 5 positions don't fit into 3 rows of 6"),
        (4, 6, 1, "1 times 2 rows of up to 5 positions don't fit into 4 rows of 6"),
    ],
)
def test_rows_that_do_not_fit_are_not_copied(batch: int, length: int, copies: int, rule: str) -> None:
    full, other = _cache(), _cache(batch, length)
    full.lengths[:] = [5, 2]
    with pytest.raises(ValueError, match=rule):
        other.copy_from(full, copies)
    assert other.lengths == [0] * batch


@pytest.mark.parametrize("lengths", [[2, 2], [1, 3]])
def test_the_cache_of_another_part_is_refused(lengths: list[int]) -> None:
    """It was a bare KeyError."""
    cache = _cache()
    cache.lengths[:] = lengths
    plan = plan_attention(2, 1, counts=None, cache=cache, device=CPU)
    with pytest.raises(ValueError, match=r"has the layers \[3, 4\], not 0; make one with this part's own new_cache"):
        plan.remember(0, _filled(1.0, 2, 1), _filled(1.0, 2, 1))

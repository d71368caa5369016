"""Caches in files, and files that pretend to hold one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from llm_blocks import KVCache
from llm_blocks.cache_file import CacheFile, write_cache
from llm_blocks.cache_rows import put_back, row_of
from llm_sepweight import WeightsError

SHAPE: dict[str, Any] = {"num_kv_heads": 2, "head_dim": 4, "value_dim": 3, "windows": {1: 5}, "long_from": 30}


class Model:
    """What makes caches of two layers, the second of which has a window of 5 positions."""

    def new_cache(self, batch: int, length: int, *, device: str = "cpu") -> KVCache:
        return KVCache([0, 1], batch=batch, length=length, **SHAPE, dtype=torch.bfloat16, device=device)


def filled(*lengths: int, capacity: int = 100) -> KVCache:
    """A cache whose rows have been read up to these lengths, each storage full of numbers that tell their places."""
    cache = Model().new_cache(len(lengths), capacity)
    for tensor in tensors(cache).values():
        tensor.copy_(torch.arange(tensor.numel()).view(tensor.shape))
    cache.reach(list(lengths))
    cache.commit(list(lengths))
    return cache


def tensors(cache: KVCache) -> dict[str, Tensor]:
    return {f"{name}.{layer}": each for name, by_layer in cache.storages.items() for layer, each in by_layer.items()}


def read(path: Path, limit: int = 1000) -> KVCache:
    with CacheFile(path) as file:
        return file.cache(Model(), limit=limit)


@pytest.mark.parametrize("lengths", [[12], [3, 0, 40], [95, 95], [90, 2]])
def test_what_a_cache_holds_comes_back(lengths: list[int], tmp_path: Path) -> None:
    cache = filled(*lengths)
    write_cache(tmp_path / "kv", cache)
    found = read(tmp_path / "kv")
    assert (found.lengths, found.outgrown(), found.aims) == (lengths, cache.outgrown(), [None] * len(lengths))
    for row, length in enumerate(lengths):
        assert [found.holds(row, n) for n in range(length)] == [cache.holds(row, n) for n in range(length)]
    for name, tensor in tensors(found).items():
        slots = min(tensor.size(2), max(lengths))
        assert torch.equal(tensor[:, :, :slots], tensors(cache)[name][:, :, :slots])
    wide = Model().new_cache(len(lengths), 200)
    wide.copy_from(found)  # as a conversation does that goes on
    assert wide.lengths == lengths


def test_only_what_is_used_is_written(tmp_path: Path) -> None:
    cache = filled(50)
    write_cache(tmp_path / "kv", cache, lengths=[7])
    assert {name: tuple(each.shape) for name, each in load_file(tmp_path / "kv").items()} == {
        "k.0": (1, 2, 7, 4), "k.1": (1, 2, 7, 4), "v.0": (1, 2, 7, 3), "v.1": (1, 2, 7, 3),
    }  # fmt: skip
    assert cache.lengths == [50]
    assert read(tmp_path / "kv").lengths == [7]


def test_positions_that_a_window_has_forgotten_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="doesn't hold its first 10 positions"):
        write_cache(tmp_path / "kv", filled(95), lengths=[10])
    with pytest.raises(ValueError, match="doesn't hold its first 96 positions"):
        write_cache(tmp_path / "kv", filled(95), lengths=[96])
    assert list(tmp_path.iterdir()) == []


def test_a_rolled_back_ring_comes_back(tmp_path: Path) -> None:
    cache = filled(95)
    cache.truncate(60)
    write_cache(tmp_path / "kv", cache)
    found = read(tmp_path / "kv")
    assert [found.holds(0, n) for n in range(61)] == [cache.holds(0, n) for n in range(61)]
    for name in ("k.1", "v.1"):
        assert torch.equal(tensors(found)[name], tensors(cache)[name])


def test_extra_tensors_and_metadata_go_along(tmp_path: Path) -> None:
    write_cache(tmp_path / "kv", filled(5), extra={"ids": torch.arange(5)}, metadata={"who": "me"})
    with CacheFile(tmp_path / "kv") as file:
        ids = file.extra("ids", shape=(5,), dtypes=(torch.int64,))
        assert ids is not None
        assert ids.tolist() == [0, 1, 2, 3, 4]
        assert file.extra("none", shape=(5,), dtypes=(torch.int64,)) is None
        assert file.metadata["who"] == "me"
        with pytest.raises(WeightsError, match=r"'extra.ids' is torch.int64 of shape \(5,\), and this model has"):
            file.extra("ids", shape=(6,), dtypes=(torch.int64,))


def test_a_file_is_not_written_over_unless_that_is_asked(tmp_path: Path) -> None:
    write_cache(tmp_path / "kv", filled(5))
    with pytest.raises(WeightsError, match="exists already"):
        write_cache(tmp_path / "kv", filled(6))
    assert read(tmp_path / "kv").lengths == [5]
    write_cache(tmp_path / "kv", filled(6), overwrite=True)
    assert read(tmp_path / "kv").lengths == [6]


def test_every_tensor_of_a_cache_is_written() -> None:
    """Scales or sums that a cache learns to keep would be lost silently, and other keys come back."""
    cache = filled(5)
    named = [id(each) for each in tensors(cache).values()]
    held = [value for value in vars(cache).values() if isinstance(value, Tensor)]
    for value in vars(cache).values():
        held += [each for each in value.values() if isinstance(each, Tensor)] if isinstance(value, dict) else []
    assert sorted(map(id, held)) == sorted(named)


def test_a_row_is_read_alone() -> None:
    cache = filled(3, 20, 40)
    one = row_of(cache, 1)
    one.reach([31])
    one.commit([31])
    one.k[0][:] = 7
    assert cache.lengths == [3, 20, 40]
    put_back(cache, 1, one)
    assert cache.lengths == [3, 31, 40]
    assert cache.k[0][1].eq(7).all()
    assert not cache.k[0][0].eq(7).all()


def changed(path: Path, tensors: Callable[[dict[str, Tensor]], object] = id, **said: object) -> Path:
    """The file of a cache of 20 positions, changed by whoever made it."""
    write_cache(path, filled(20))
    with CacheFile(path) as file:
        header = json.loads(file.metadata["kv_cache"])
    stored = load_file(path)
    tensors(stored)
    save_file(stored, path, metadata={"kv_cache": json.dumps(header | said)})
    return path


@pytest.mark.parametrize(
    ("said", "rule"),
    [
        ({"version": 2}, "version 2 of the format, and this one reads 1"),
        ({"version": None}, "version None of the format"),
        ({"lengths": [-1]}, "a row of -1 positions can't be, the model has 0 to 1000"),
        ({"lengths": [1001], "tops": [1001]}, "a row of 1001 positions can't be"),
        ({"lengths": [10**30], "tops": [10**30]}, "positions can't be"),
        ({"lengths": [19.0]}, "must be a whole number"),
        ({"lengths": [float("nan")]}, "must be a whole number"),
        ({"lengths": [True]}, "must be a whole number"),
        ({"lengths": "20"}, "doesn't say which positions"),
        ({"lengths": None}, "doesn't say which positions"),
        ({"lengths": [20, 20]}, "must say of 1 to 65536 rows"),
        ({"lengths": [], "tops": [], "long": []}, "must say of 1 to 65536 rows"),
        ({"lengths": [0] * 70_000, "tops": [0] * 70_000, "long": [False] * 70_000}, "must say of 1 to 65536 rows"),
        ({"lengths": [0] * 9, "tops": [0] * 9, "long": [False] * 9}, r"'k.0' is .* of shape \(1, .* \(9,"),
        ({"tops": [10**9]}, "positions can't be"),
        ({"tops": [19]}, "positions can't be"),
        ({"tops": [85]}, r"'k.1' is .* of shape \(1, 2, 20, 4\), and this model has torch.bfloat16 of \(1, 2, 69, 4\)"),
        ({"lengths": [999], "tops": [999]}, r"of shape \(1, 2, 20, 4\), and this model has .* \(1, 2, 999, 4\)"),
        ({"long": [1]}, "must be a whole number"),
    ],
)
def test_a_header_that_can_not_be_is_refused(said: dict[str, object], rule: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=rule):
        read(changed(tmp_path / "kv", **said))


def put(name: str, tensor: Tensor) -> Callable[[dict[str, Tensor]], object]:
    return lambda stored: stored.update({name: tensor})


NAN, INF = (torch.full((1, 2, 20, 4), value, dtype=torch.bfloat16) for value in (torch.nan, -torch.inf))


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (put("k.0", torch.zeros(1, 2, 20, 4)), "'k.0' is torch.float32 of shape"),
        (put("k.0", torch.zeros(1, 2, 20, 4, dtype=torch.int16)), "'k.0' is torch.int16 of shape"),
        (
            put("v.1", torch.zeros(1, 2, 20, 4, dtype=torch.bfloat16)),
            r"'v.1' is .* \(1, 2, 20, 4\), .* \(1, 2, 20, 3\)",
        ),
        (put("k.0", torch.zeros(2, 2, 20, 4, dtype=torch.bfloat16)), r"'k.0' is .* \(2, 2, 20, 4\)"),
        (put("k.2", torch.zeros(1, 2, 20, 4, dtype=torch.bfloat16)), "'k.2' is nothing that the cache"),
        (put("w", torch.zeros(1)), "'w' is nothing that the cache"),
        (lambda stored: stored.pop("v.0"), "lacks 'v.0'"),
        (put("k.1", NAN), "'k.1' holds numbers that aren't finite"),
        (put("k.0", INF), "'k.0' holds numbers that aren't finite"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    change: Callable[[dict[str, Tensor]], object], rule: str, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match=rule):
        read(changed(tmp_path / "kv", change))


def test_nothing_is_allocated_for_a_file_that_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few bytes of header could ask for all the memory there is."""
    path, devices = changed(tmp_path / "kv", lengths=[10**7], tops=[10**7]), []
    monkeypatch.setattr(CacheFile, "_read", lambda *_: pytest.fail("a tensor was read"))
    monkeypatch.setattr(
        "llm_blocks.cache.torch.zeros",
        lambda shape, *, dtype, device: devices.append(device) or torch.empty(shape, dtype=dtype, device="meta"),
    )
    with pytest.raises(WeightsError, match="and this model has"):
        read(path, limit=10**9)
    assert set(devices) == {"meta"}


@pytest.mark.parametrize("keep", [0, 5, 100, -900, -1])
def test_a_truncated_file_is_refused(keep: int, tmp_path: Path) -> None:
    path = changed(tmp_path / "kv")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match="truncated"):
        read(path)


def test_what_is_no_cache_is_refused(tmp_path: Path) -> None:
    for name, content in {"text": b"Hello, this is a text.", "empty": b"", "zip": b"PK\x03\x04" + bytes(100)}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=name):
            CacheFile(tmp_path / name)
    save_file({"k.0": torch.zeros(1, 2, 20, 4)}, tmp_path / "weights")
    with pytest.raises(WeightsError, match="holds no keys and values of a model"):
        CacheFile(tmp_path / "weights")
    save_file({}, tmp_path / "odd", metadata={"kv_cache": "[1, 2"})
    with pytest.raises(WeightsError, match="not valid JSON"):
        CacheFile(tmp_path / "odd")
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(WeightsError, match=str(path)):
            CacheFile(path)

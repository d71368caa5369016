"""Tensors side by side in chunks of memory."""

import gc

import pytest
import torch

from llm_quant import memory
from llm_quant.memory import Arena


def test_tensors_hold_what_is_put_there_and_share_no_byte() -> None:
    arena = Arena()
    tensors = [
        arena.empty((3, 5), torch.bfloat16).fill_(1),
        arena.empty((7,), torch.uint8).fill_(2),
        arena.copy(torch.arange(24).view(2, 3, 4).transpose(0, 2)),
        arena.empty((0, 4), torch.float32),
        arena.empty((), torch.float32).fill_(3),
    ]
    assert all(tensor.is_contiguous() and tensor.data_ptr() % 16 == 0 for tensor in tensors)
    assert tensors[0].eq(1).all()
    assert tensors[1].eq(2).all()
    assert tensors[2].equal(torch.arange(24).view(2, 3, 4).transpose(0, 2))
    assert tensors[4] == 3


@pytest.mark.parametrize("sizes", [[1000] * 9, [5000, 10, 5000], [4096, 4096, 1]])
def test_a_new_chunk_begins_where_the_last_is_full(sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CHUNK", 4096)
    arena = Arena()
    tensors = [arena.empty((size,), torch.uint8).fill_(index) for index, size in enumerate(sizes)]
    assert all(tensor.eq(index).all() for index, tensor in enumerate(tensors))
    chunks = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    assert len(chunks) == -(-sum(sizes) // 4096)


def test_a_tensor_outlives_the_arena() -> None:
    found = Arena().copy(torch.arange(1000))
    gc.collect()
    torch.empty(10**6).fill_(7)
    assert found.equal(torch.arange(1000))

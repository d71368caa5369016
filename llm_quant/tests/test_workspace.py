"""Memory that is used again when, and only when, nothing is left in it."""

import gc
import threading

import pytest
import torch

from llm_quant import workspace

SHAPE = (256, 512)  # half a megabyte in fp32


def test_a_tensor_takes_the_place_of_one_that_is_gone() -> None:
    with workspace.using() as here:
        first = here.empty(SHAPE, torch.float32)
        place = first.data_ptr()
        del first
        again = here.empty(SHAPE, torch.float32)
        assert again.data_ptr() == place


def test_what_a_view_still_shows_is_never_given_out() -> None:
    with workspace.using() as here:
        first = here.empty(SHAPE, torch.float32).fill_(7)
        row = first[3:5].t()
        del first
        others = [here.empty(SHAPE, torch.float32).fill_(float(i)) for i in range(8)]
        assert (row == 7).all()
        assert all((each == i).all() for i, each in enumerate(others))


def test_what_a_graph_has_saved_is_kept_until_it_is_gone() -> None:
    weight = torch.ones(SHAPE, requires_grad=True)
    with workspace.using() as here:
        x = here.empty(SHAPE, torch.float32).fill_(3)
        loss = (weight * x).sum()
        del x
        here.empty(SHAPE, torch.float32).fill_(0)
        loss.backward(retain_graph=True)
        here.empty(SHAPE, torch.float32).fill_(0)
        loss.backward()
    assert weight.grad is not None
    assert (weight.grad == 6).all()


def test_pieces_of_many_sizes_grow_to_no_more_than_what_lives_at_once() -> None:
    generator = torch.Generator().manual_seed(0)
    with workspace.using() as here:
        held: list[torch.Tensor] = []
        low = high = here.empty(SHAPE, torch.float32).data_ptr()
        for step in range(2000):
            rows = int(torch.randint(64, 1024, (), generator=generator))
            held.append(here.empty((rows, 1024), torch.float32).fill_(step))
            high = max(high, held[-1].data_ptr() + held[-1].nbytes)
            if len(held) > 20:
                gone = int(torch.randint(0, 20, (), generator=generator))
                assert (held[gone] == held[gone].flatten()[0]).all()
                del held[gone]
        assert high - low < 2 * 21 * 1024 * 1024 * 4


def test_large_tensors_of_this_thread_alone_come_out_of_it() -> None:
    found: list[bool] = []
    with workspace.using():
        assert workspace.in_use()
        assert not workspace.empty(SHAPE, torch.float32).untyped_storage().resizable()
        assert workspace.empty((4, 4), torch.float32).untyped_storage().resizable()
        thread = threading.Thread(target=lambda: found.append(workspace.in_use()))
        thread.start()
        thread.join()
    assert found == [False]
    assert not workspace.in_use()
    assert workspace.empty(SHAPE, torch.float32).untyped_storage().resizable()


def test_tensors_outlive_the_block_and_an_error_ends_it() -> None:
    def failing() -> torch.Tensor:
        with workspace.using():
            kept.append(workspace.empty(SHAPE, torch.float32).fill_(5))
            raise RuntimeError("stop")

    kept: list[torch.Tensor] = []
    with pytest.raises(RuntimeError, match="stop"):
        failing()
    gc.collect()
    assert not workspace.in_use()
    assert (kept[0] == 5).all()


def test_a_tensor_may_end_in_another_thread() -> None:
    with workspace.using() as here:
        held = [here.empty(SHAPE, torch.float32) for _ in range(50)]
        thread = threading.Thread(target=held.clear)
        thread.start()
        for i in range(50):
            assert (here.empty(SHAPE, torch.float32).fill_(i) == i).all()
        thread.join()


def test_more_than_a_chunk_is_there_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "CHUNK", 2**20)
    with workspace.using() as here:
        tensors = [here.empty((3, 2**18), torch.float32).fill_(i) for i in range(5)]
        assert all((each == i).all() for i, each in enumerate(tensors))

"""Tensors that are mapped from files move into huge pages and stay where they are."""

import gc
import mmap
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from llm_quant import huge_pages
from llm_quant.huge_pages import HugePages, offered
from llm_quant.memory import HUGE_PAGE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mappings are Linux's")
needs_huge_pages = pytest.mark.skipif(not offered(), reason="this system has no huge pages to give")

SIZE = 9 * HUGE_PAGE + 5000


def in_a_file(tensor: Tensor) -> bool:
    """Whether the middle of a tensor lies in a mapped file."""
    middle = tensor.data_ptr() + tensor.nbytes // 2
    return any(low <= middle < high for low, high in huge_pages._mapped_files())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(torch.randint(256, (SIZE,), dtype=torch.uint8).numpy().tobytes())
    return path


def mapped(file: Path) -> Tensor:
    """The whole file, as files of weights are mapped."""
    with file.open("rb") as opened:
        memory = mmap.mmap(opened.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    return torch.frombuffer(memory, dtype=torch.uint8)


def move_all(pages: HugePages) -> int:
    """Move piece by piece; how many there were."""
    count = 0
    while pages.move():
        count += 1
    return count


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge_pages, "PIECE", 2 * HUGE_PAGE)


@needs_huge_pages
def test_every_byte_stays_at_its_address_and_the_file_is_let_go(file: Path) -> None:
    whole = mapped(file)
    address, wanted = whole.data_ptr(), whole.clone()
    pages = HugePages([whole])
    assert SIZE - 2 * HUGE_PAGE <= pages.left < SIZE
    assert in_a_file(whole)
    assert move_all(pages) >= 4
    assert pages.left == 0
    assert not in_a_file(whole)
    assert whole.data_ptr() == address
    assert whole.equal(wanted)
    assert HugePages([whole]).left == 0


@needs_huge_pages
def test_writing_afterwards_does_not_reach_the_file(file: Path) -> None:
    whole, before = mapped(file), file.read_bytes()
    whole[:100] = 1
    wanted = whole.clone()
    move_all(HugePages([whole]))
    assert whole.equal(wanted)  # what was written before has moved, too
    whole.fill_(7)
    assert file.read_bytes() == before


@needs_huge_pages
def test_only_the_huge_pages_of_the_tensors_move(file: Path) -> None:
    whole = mapped(file)
    wanted, inner = whole.clone(), whole[SIZE // 2 : SIZE // 2 + 10]
    pages = HugePages([inner, whole[SIZE // 2 : SIZE // 2 + 20]])
    assert pages.left == HUGE_PAGE
    move_all(pages)
    assert not in_a_file(inner)
    assert in_a_file(whole[-10:])
    assert whole.equal(wanted)
    # The rest may follow later: the mapping has a hole by then.
    assert move_all(HugePages([whole])) >= 4
    assert not in_a_file(whole[: 6 * HUGE_PAGE])
    assert whole.equal(wanted)


def test_other_memory_is_left_alone(file: Path) -> None:
    assert HugePages([torch.zeros(SIZE), torch.zeros(0), torch.empty(3, device="meta")]).left == 0
    assert HugePages([]).left == 0
    assert not HugePages([]).move()
    assert HugePages([mapped(file)[:0]]).left == 0
    with file.open("r+b") as opened:
        shared = torch.frombuffer(mmap.mmap(opened.fileno(), 0), dtype=torch.uint8)
    assert HugePages([shared]).left == 0  # what is written there is to reach the file


@pytest.mark.parametrize("setting", ["always madvise [never]\n", None])
def test_nothing_is_copied_where_there_are_no_huge_pages(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str | None
) -> None:
    if setting is not None:
        (tmp_path / "enabled").write_text(setting)
    monkeypatch.setattr(huge_pages, "SETTING", tmp_path / "enabled")
    whole = mapped(file)
    pages = HugePages([whole])
    assert pages.left == 0
    assert not pages.move()
    assert in_a_file(whole)


@needs_huge_pages
@pytest.mark.parametrize("call", ["mmap", "mremap"])
def test_without_memory_it_ends_and_no_byte_is_lost(file: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """mremap(2) may have let go of what it was to replace when it fails."""
    libc: Any = huge_pages._libc()

    def refused(*arguments: Any) -> int:
        if call == "mremap":
            libc.munmap(arguments[4], arguments[1])
        return huge_pages._FAILED or -1

    known = {name: getattr(libc, name) for name in ("mmap", "mremap", "munmap", "madvise")}
    fixed = known["mmap"]
    if call == "mmap":
        known["mmap"] = refused
    else:
        known |= {"mremap": refused, "mmap": fixed}
    monkeypatch.setattr(huge_pages, "_libc", lambda: SimpleNamespace(**known))
    whole = mapped(file)
    wanted, pages = whole.clone(), HugePages([whole])
    assert pages.left
    assert not pages.move()
    assert pages.left == 0
    assert whole.equal(wanted)


@needs_huge_pages
def test_a_thread_that_reads_meanwhile_sees_the_same_bytes(file: Path) -> None:
    whole = mapped(file)
    wanted, wrong, ended = whole.clone(), [], threading.Event()

    def read() -> None:
        while not ended.is_set():
            if not whole.equal(wanted):
                wrong.append(True)

    thread = threading.Thread(target=read)
    thread.start()
    move_all(HugePages([whole]))
    ended.set()
    thread.join()
    assert not wrong


@needs_huge_pages
def test_the_memory_goes_with_the_tensor_and_not_before(file: Path) -> None:
    whole = mapped(file)
    wanted, pages = whole.clone(), HugePages([whole])
    address = whole.data_ptr()
    del whole
    gc.collect()
    assert move_all(pages) >= 4  # it keeps what it moves
    gc.collect()
    lines = Path("/proc/self/maps").read_text().splitlines()
    spans = [tuple(int(each, 16) for each in line.split()[0].split("-")) for line in lines]
    assert not any(low <= address + SIZE // 2 < high for low, high in spans)
    assert mapped(file).equal(wanted)

"""When the weights of a model go into huge pages, and that nothing else changes."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import llm_quant
from llm_cli import LLM, huge_pages
from llm_cli.app import run
from llm_cli.huge_pages import Settling, read_by_kernels
from llm_quant.huge_pages import HugePages, offered

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux" or not offered(), reason="this system has no huge pages to give"),
    pytest.mark.skipif(llm_quant.level() not in ("avx512",), reason="no weights are read by the kernels in bf16 here"),
]
IDS = [7, 8, 9]
GREEDY: dict[str, Any] = {"temperature": 0, "return_as_token_ids": True, "ignore_eos": True}


@pytest.fixture(scope="module")
def folder(make_checkpoint: Callable[..., Path]) -> Path:
    """Two layers of 10 MB each."""
    return make_checkpoint(
        tokenizer=False, dtype=torch.bfloat16, hidden_size=512, intermediate_size=2048, vocab_size=4096
    )


def placed(folder: Path, **options: Any) -> LLM:
    llm = LLM.load(folder, distribute=None)
    llm.distribute(accelerator="cpu", precision="bf16-true", **options)
    return llm


def left(llm: LLM) -> int:
    """Bytes of weights that could still be moved."""
    return HugePages(read_by_kernels([llm.model])).left


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes a big model in long use, by default, happens after 4 steps of a small one."""
    monkeypatch.setattr(huge_pages, "STEPS", 4)
    monkeypatch.setattr(huge_pages, "LEAST", 2**20)
    monkeypatch.setattr(huge_pages, "SHARE", 100.0)


@pytest.mark.parametrize("way", ["hf", "sepweight", "tied"])
def test_told_so_the_weights_move_before_the_first_token(
    folder: Path, make_checkpoint: Callable[..., Path], tmp_path: Path, way: str
) -> None:
    if way == "tied":
        shape = {"hidden_size": 512, "intermediate_size": 2048, "vocab_size": 4096}
        folder = make_checkpoint(tokenizer=False, dtype=torch.bfloat16, tie_word_embeddings=True, **shape)
    elif way == "sepweight":
        assert run(["convert", str(folder), str(tmp_path / "sep"), "--to", "sepweight"]) == 0
        folder = tmp_path / "sep"
    plain, moved = placed(folder, huge_pages=False), placed(folder, huge_pages=True)
    assert left(plain) >= 2**23
    assert left(moved) == 0
    wanted = plain.generate(IDS, max_new_tokens=20, **GREEDY)
    assert moved.generate(IDS, max_new_tokens=20, **GREEDY).equal(wanted)
    assert left(plain) >= 2**23
    for a, b in zip(plain.model.parameters(), moved.model.parameters(), strict=True):
        assert a.equal(b)


def test_in_long_use_they_move_while_a_text_is_written(folder: Path, at_once: None) -> None:
    plain, llm = placed(folder, huge_pages=False), placed(folder)
    wanted, before = plain.generate(IDS, max_new_tokens=30, **GREEDY), left(llm)
    llm.generate(IDS, max_new_tokens=3, **GREEDY)
    assert left(llm) == before
    assert llm.generate(IDS, max_new_tokens=30, **GREEDY).equal(wanted)
    assert left(llm) == 0
    assert left(plain) == before
    assert llm.generate(IDS, max_new_tokens=30, **GREEDY).equal(wanted)


def test_a_draft_model_moves_with_its_target(folder: Path, at_once: None) -> None:
    llm = LLM.load(folder, draft_model=folder, distribute=None)
    llm.distribute(accelerator="cpu", precision="bf16-true")
    llm.generate(IDS, max_new_tokens=60, temperature=0, ignore_eos=True, return_as_token_ids=True)
    assert left(llm) == 0
    assert llm._draft is not None
    assert left(llm._draft) == 0


def test_without_memory_to_spare_they_stay(folder: Path, at_once: None, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = placed(folder)
    before = left(llm)
    monkeypatch.setattr(huge_pages, "free_memory", lambda: 2 * before - 1)
    llm.generate(IDS, max_new_tokens=20, **GREEDY)
    assert left(llm) == before


def test_a_small_model_stays(folder: Path, at_once: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge_pages, "LEAST", 2**30)
    llm = placed(folder)
    before = left(llm)
    llm.generate(IDS, max_new_tokens=20, **GREEDY)
    assert left(llm) == before


def test_moving_takes_no_more_than_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes a second, a move three: after 4 steps that aren't counted, one move in 30 steps."""
    now, moves = [0.0], list[float]()

    class Pages:
        left = 2**40

        def __init__(self, tensors: object) -> None: ...

        def move(self) -> bool:
            moves.append(now[0])
            now[0] += 3
            return True

    def steps() -> Iterator[int]:
        for number in range(100):
            now[0] += 1
            yield number

    monkeypatch.setattr(huge_pages, "HugePages", Pages)
    monkeypatch.setattr(huge_pages, "STEPS", 5)
    monkeypatch.setattr(huge_pages, "free_memory", lambda: 2**50)
    monkeypatch.setattr(huge_pages, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    assert list(Settling([], None).between(steps())) == list(range(100))
    assert moves == [5, 37, 70, 103]


def test_what_is_rounded_on_the_fly_has_no_mapped_weights(folder: Path) -> None:
    assert left(placed(folder, quantize="int8", huge_pages=True)) == 0


def test_the_command_has_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["generate", str(folder), "--prompt_ids", "7,8", "--max_new_tokens", "5", "--json", "--temperature", "0"]
    texts = []
    for given in ([], ["--huge_pages", "true"], ["--huge-pages", "false"]):
        assert run([*command, *given]) == 0
        texts.append(json.loads(capsys.readouterr().out)["token_ids"])
    assert texts[0] == texts[1] == texts[2]
    with pytest.raises(ValueError, match="huge_pages must be True, False or None, not 'yes'"):
        placed(folder, huge_pages="yes")

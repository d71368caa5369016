"""The page of a run: whatever is in it is text, its curves are numbers within their frame, and it can be told again."""

import json
import math
import random
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from llm_finetune import DataSettings, Eval, Job, Log, Report, Run, Settings, Train, run_job, write_report
from llm_finetune.curves import HEIGHT, MOST, WIDTH, Curve, placed, points, span, svg, thinned, ticks

DEMO = Path(__file__).parents[2] / "llm_cli" / "src" / "llm_cli" / "demo"
EMPTY = {"meta", "line", "polyline", "circle"}
HOSTILE = (
    "<script>alert(1)</script> ]]> --> </pre></td> &amp; \"' \x00\x1b[31m\x9b\u202e\ud800 <svg onload=x> "
    "\U0001f600 \u3000é"
)
RUN = Run(
    final=Path("out/final"),
    checkpoint=None,
    step=1,
    train_loss=2.0,
    val_loss=None,
    interrupted=False,
    before="a",
    after="b",
    history=({"step": 1, "epoch": 1.0, "loss": 2.0, "learning_rate": 1e-3, "tokens": 40, "seconds": 0.5},),
)


class Page(HTMLParser):
    """A page whose elements must be closed in order; `texts` are what its `pre` and `td` elements show."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.texts = [""]
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        self.texts.append("")
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts[-1] += data if self.open and self.open[-1] in ("pre", "td", "th") else ""


def test_hostile_text_is_shown_and_does_nothing(tmp_path: Path) -> None:
    settings = Settings(log=Log(project=HOSTILE))
    job = Job(settings=settings, model=HOSTILE, data=DataSettings(name="x", access_token="hf_secret"))
    data = Report(read=3, kept=2, cut=1, split=0, dropped={HOSTILE: 1}, bad=(f"a.json: row 1: {HOSTILE}",))
    run = replace(RUN, before=HOSTILE, after=HOSTILE, final=Path(f"out/{HOSTILE}"))
    page = Page(write_report(tmp_path, run, job=job, data=data, base=HOSTILE, prompt=HOSTILE))
    text = HOSTILE.replace("\x00", r"\x00").replace("\x1b", r"\x1b").replace("\x9b", r"\x9b")
    text = text.replace("\u202e", r"\u202e").replace("\ud800", r"\ud800")
    assert sum(text in each for each in page.texts) >= 7  # samples, settings, rows, base
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page.source)
    assert {tag for tag, _ in page.seen} <= {
        *("html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "pre", "details", "summary"),
        *("table", "tr", "th", "td", "svg", "line", "polyline", "circle", "text"),
    }
    assert not any(name.startswith("on") or name in ("src", "href") for _, attrs in page.seen for name in attrs)
    assert "hf_secret" not in page.source
    assert "url(" not in page.source


def test_a_run_of_one_step(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path, RUN))
    places = [attrs for tag, attrs in page.seen if tag == "circle"]
    assert len(places) == 2  # the loss and the learning rate: points, for one place makes no line
    assert {"0.5 s", "40", "80", "llm chat out/final"} <= set(page.texts)
    nothing = Page(write_report(tmp_path, replace(RUN, history=(), final=None, before=None, after=None)))
    assert "svg" not in {tag for tag, _ in nothing.seen}
    assert not any("llm chat" in text for text in nothing.texts)


@pytest.mark.parametrize(
    "values",
    [
        [0.0],
        [3.0, 3.0],
        [3.0, 3.0 + 1e-15],
        [1e-300, 0.0],
        [1e99, 1.0],
        [math.nan, 2.0, math.inf, 1.0, -math.inf],
        [-5.0, 5.0],
        [random.Random(0).expovariate(1) for _ in range(5000)],
    ],
)
def test_curves_are_numbers_within_their_frame(values: list[float]) -> None:
    history = [{"step": 10 * i, "loss": value} for i, value in enumerate(values)]
    given = points(history, "loss")
    assert len(given) == sum(math.isfinite(value) for value in values)
    text = svg([Curve(name="loss", points=given)])
    numbers = [float(number) for number in re.findall(r'(?<=[" ,])-?\d+\.?\d*(?=[" ,])', text)]
    assert all(0 <= number <= WIDTH for number in numbers)
    assert not re.search("nan|inf", text)
    line = re.search(r'points="([^"]*)"', text)
    assert line is not None
    drawn = [tuple(map(float, pair.split(","))) for pair in line.group(1).split()]
    assert 1 <= len(drawn) <= MOST
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in drawn)


def test_a_curve_is_where_its_numbers_are() -> None:
    assert placed([(0, 0), (10, 5)], (0, 10), (0, 5)) == [(64, 222), (708, 14)]
    assert ticks((0, 10)) == [0, 2, 4, 6, 8, 10]
    assert ticks((1, 2), whole=True) == [1, 2]
    assert span([4, 4]) == (3.8, 4.2)
    wave = [(float(i), float(i % 7)) for i in range(10_000)]
    wave[5000] = (5000.0, 99.0)
    few = thinned(wave)
    assert few == sorted(few)
    assert (5000.0, 99.0) in few
    assert set(few) <= set(wave)


def test_matplotlib_draws_the_curves_and_without_it_one_sentence_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_finetune.report.find_spec", lambda name: None)
    missing = write_report(tmp_path, RUN).read_text()
    assert "python -m pip install matplotlib" in missing
    assert not (tmp_path / "loss.png").exists()
    monkeypatch.undo()
    pytest.importorskip("matplotlib")
    assert "pip install" not in write_report(tmp_path, RUN).read_text()
    assert (tmp_path / "loss.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def job(tmp_path: Path) -> Job:
    if not DEMO.exists():
        pytest.skip("the model ships with llm_cli")
    rows = [{"prompt": f"{i} and 1?", "completion": f"{i + 1}."} for i in range(20)]
    (tmp_path / "my.json").write_text(json.dumps(rows))
    train = Train(max_steps=4, global_batch_size=4, lr_warmup_steps=0, learning_rate=1e-3)
    settings = Settings(train=train, eval=Eval(interval=2, max_new_tokens=5))
    return Job(out_dir=str(tmp_path / "o"), data=DataSettings(json_path=str(tmp_path / "my.json")), settings=settings)


def test_a_resumed_run_is_told_whole(tmp_path: Path, job: Job) -> None:
    asked = iter([False, True])
    stopped = run_job(job, DEMO, stop=lambda: next(asked))
    assert stopped.interrupted
    assert not (tmp_path / "o" / "report.html").exists()
    run = run_job(replace(job, resume=True), DEMO, base="org/name")
    page = Page(tmp_path / "o" / "report.html")
    lines = [attrs for tag, attrs in page.seen if tag == "polyline"]
    assert [len(str(attrs["points"]).split()) for attrs in lines] == [4, 2, 4]  # loss, validation loss, learning rate
    assert run.before is not None
    assert run.after is not None
    assert {"org/name", "20", run.before, run.after, "train.max_steps"} <= set(page.texts)
    assert any("and 1?" in text for text in page.texts)


def test_a_page_that_can_not_be_written_is_one_warning(
    tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any, **named: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("llm_finetune.running.write_report", full)
    with pytest.warns(UserWarning, match=r"report\.html could not be written: no space left") as found:
        run = run_job(job, DEMO)
    assert len(found) == 1
    assert run.final is not None
    assert run.final.is_dir()

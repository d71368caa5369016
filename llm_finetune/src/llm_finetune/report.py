"""What came of a run as one page, report.html: nothing is loaded from elsewhere, and nothing in it is run."""

import platform
import shlex
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import torch

from llm_finetune import memory
from llm_finetune.config_file import settings_text
from llm_finetune.curves import losses, png, rates, svg
from llm_finetune.dataset import Report
from llm_finetune.events import Run
from llm_finetune.job import Job
from llm_finetune.job_options import options, value
from llm_sepweight.atomic import atomic_file

NAME, PLOT = "report.html", "loss.png"
PACKAGES = ("llm_finetune", "llm_blocks", "llm_quant", "llm_tokenizer", "llm_sepweight", "torch", "bitsandbytes")
WITHOUT_PLOT = "loss.png is drawn where matplotlib is: `python -m pip install matplotlib` brings it."
_TURNS = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}  # characters that turn the direction of text around them
_HEAD = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>A run of finetuning</title>
<style>
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --faint: #d5d9de; --one: #0b62c4; --two: #b3470b }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e3e6ea; --paper: #15181c; --faint: #3a4048; --one: #6cb0ff; --two: #ff9d5c }
}
body { max-width: 46rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif }
body { color: var(--ink); background: var(--paper) }
table { border-collapse: collapse }
th, td { padding: .2rem 1rem .2rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--faint) }
th { font-weight: 600 }
td, pre { overflow-wrap: anywhere; white-space: pre-wrap }
pre { padding: .6rem .8rem; border: 1px solid var(--faint); border-radius: 4px }
svg { width: 100%; height: auto; margin: .5rem 0 }
svg text { font-size: 12px; fill: var(--ink) }
svg .grid { stroke: var(--faint) }
svg polyline { fill: none; stroke-width: 1.5; stroke-linejoin: round }
svg .line0 { stroke: var(--one) }
svg .line1 { stroke: var(--two) }
svg .dot0, svg .name0 { fill: var(--one) }
svg .dot1, svg .name1 { fill: var(--two) }
</style>
</head>
<body>
<h1>A run of finetuning</h1>
"""


def write_report(
    out_dir: str | Path,
    run: Run,
    *,
    job: Job | None = None,
    data: Report | None = None,
    base: str | None = None,
    prompt: str | None = None,
) -> Path:
    """Write report.html to `out_dir`, and loss.png beside it where matplotlib is installed; gives the page's path.

    `job` has the settings, an access token never among them; `data` is what became of the rows, `base` what the base
    model is called, `prompt` what the samples answer. Whatever these hold is shown as text. Each file is replaced
    whole or not at all. Times and tokens are those of the whole run, also where it was resumed; the memory is that of
    this process. OSError where the folder can't be written to.
    """
    path = Path(out_dir) / NAME
    drawn = find_spec("matplotlib") is not None
    with atomic_file(path, overwrite=True) as file:
        file.write(_page(run, job, data, base, prompt, drawn=drawn).encode())
    if drawn:
        image = png(run.history)
        with atomic_file(path.with_name(PLOT), overwrite=True) as file:
            file.write(image)
    return path


def _page(run: Run, job: Job | None, data: Report | None, base: str | None, prompt: str | None, *, drawn: bool) -> str:
    parts = [_HEAD + _table(_summary(run, base)), *_talk(run)]
    parts += ["<h2>Curves</h2>", svg(losses(run.history)), svg(rates(run.history))]
    parts += [] if drawn else [f"<p>{shown(WITHOUT_PLOT)}</p>"]
    parts += _samples(run, prompt)
    if data is not None:
        parts += ["<h2>Rows</h2>", _table(_rows(data)), *map(_text, data.bad)]
    if job is not None:
        parts += ["<h2>Settings</h2>", "<p>What isn't at its default:</p>", _table(_changed(job))]
        parts.append(f"<details><summary>All of them, as settings.yaml</summary>{_text(settings_text(job))}</details>")
    parts += ["<h2>Made with</h2>", _table(_versions()), "</body>", "</html>\n"]
    return "\n".join(part for part in parts if part)


def shown(text: str) -> str:
    """A text as HTML; what would do something else than be seen is written as an escape, such as \\x1b."""
    return escape("".join(char if _plain(char) else ascii(char)[1:-1] for char in text))


def _plain(char: str) -> bool:
    return char in "\n\t" or (unicodedata.category(char) not in ("Cc", "Cs") and ord(char) not in _TURNS)


def _talk(run: Run) -> list[str]:
    if run.final is None:
        return []
    return ["<p>To talk to the result:</p>", _text(shlex.join(["llm", "chat", str(run.final)]))]


def _samples(run: Run, prompt: str | None) -> list[str]:
    """One prompt, and what the model made of it before and after."""
    if run.before is None and run.after is None:
        return []
    found = [("The prompt", prompt), ("Before", run.before), ("After", run.after)]
    return ["<h2>Samples</h2>", *(f"<h3>{name}</h3>{_text(text)}" for name, text in found if text is not None)]


def _summary(run: Run, base: str | None) -> list[tuple[str, object]]:
    """The numbers of the run; the last row has the sums."""
    last = run.history[-1] if run.history else {}
    seconds, tokens = last.get("seconds", 0), last.get("tokens", 0)
    found = [("base model", base), ("steps", f"{run.step:,}"), ("epochs", last.get("epoch"))]
    found += [("loss of the last step", _number(run.train_loss)), ("validation loss", _validation(run.history))]
    found += [("time", f"{seconds:,.1f} s"), ("tokens", f"{tokens:,}")]
    found += [("of these trained", f"{last['trained_tokens']:,.0f}" if "trained_tokens" in last else None)]
    found += [("tokens per second, evaluations included", f"{tokens / seconds:,.0f}" if seconds else None)]
    found += [(name, f"{size / 1e9:.2f} GB" if size else None) for name, size in _peaks()]
    return [(name, text) for name, text in found if text is not None]


def _peaks() -> list[tuple[str, int]]:
    """The most memory that this process has had."""
    gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0
    return [("peak memory", memory.peak()), ("peak memory of the GPU", gpu)]


def _validation(history: Sequence[Mapping[str, float]]) -> str | None:
    """The first, the last and the best."""
    known = [(row["val_loss"], row["step"]) for row in history if "val_loss" in row]
    if not known:
        return None
    best, step = min(known, key=lambda each: (each[0] != each[0], each[0]))
    first = f"{_number(known[0][0])} after step {known[0][1]:,}, " if len(known) > 1 else ""
    return f"{first}{_number(known[-1][0])} at the end; the best is {_number(best)} after step {step:,}"


def _number(given: float | None) -> str | None:
    return None if given is None else f"{given:.4g}"


def _rows(data: Report) -> list[tuple[str, object]]:
    found = [("read", data.read), ("kept", data.kept), ("samples cut at their end", data.cut)]
    found += [("made into several samples", data.split), *((f"left out: {why}", n) for why, n in data.dropped.items())]
    return [(name, f"{count:,}") for name, count in found]


def _changed(job: Job) -> list[tuple[str, object]]:
    """The options that aren't at their defaults."""
    known = [(name, value(job, option), option.default) for name, option in options().items()]
    return [(name, given) for name, given, default in known if given != default and not name.endswith("access_token")]


def _versions() -> list[tuple[str, object]]:
    found = [("Python", platform.python_version()), ("system", f"{platform.system()} {platform.machine()}")]
    if torch.cuda.is_initialized():
        found.append(("GPU", torch.cuda.get_device_name()))
    else:
        found.append(("threads of the CPU", str(torch.get_num_threads())))
    return [*found, *((name, known) for name in PACKAGES if (known := _version(name)) is not None)]


def _version(package: str) -> str | None:
    """Of a package that is in use; None for one that isn't."""
    try:
        return version(package) if package in sys.modules else None
    except PackageNotFoundError:
        return None


def _table(rows: Iterable[tuple[str, object]]) -> str:
    lines = [f"<tr><th>{shown(name)}</th><td>{shown(str(each))}</td></tr>" for name, each in rows]
    return "<table>\n" + "\n".join(lines) + "\n</table>" if lines else ""


def _text(text: str) -> str:
    return f"<pre>{shown(text)}</pre>"

"""What a run would do, told before anything is trained: its rows, steps, one sample and the memory."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from llm_blocks.free_memory import free_memory
from llm_finetune.batches import Sample
from llm_finetune.dataset import Dataset, Report
from llm_finetune.feeding import Feed, cut, places
from llm_finetune.job import Quantization
from llm_finetune.lora_settings import Lora
from llm_finetune.memory import used
from llm_finetune.needed_memory import Memory, estimate
from llm_finetune.settings import Settings

SHOWN = 2000  # characters of the sample


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """`str` gives it as text, `values` as plain data. sample: the first row, what is trained of it in [[ ]].

    trained_tokens: those with a weight; neither count has validation rows in it. free: bytes, 0 where unknown.
    """

    report: Report
    style: str
    train_rows: int
    val_rows: int
    tokens: int
    trained_tokens: int
    longest: int
    steps: int
    epochs: float
    sample: str
    memory: Memory
    free: int
    hints: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether the memory that is needed is free, as far as the system tells."""
        return not self.free or self.memory.total <= self.free

    @property
    def values(self) -> dict[str, Any]:
        """All of it as dictionaries, lists, texts and numbers, for JSON."""
        report = {**asdict(self.report), "dropped": dict(self.report.dropped), "bad": list(self.report.bad)}
        memory = {**asdict(self.memory), "total": self.memory.total}
        plain = {name: value for name, value in vars(self).items() if name not in ("report", "memory", "hints")}
        return {**plain, "report": report, "memory": memory, "hints": list(self.hints), "fits": self.fits}

    def __str__(self) -> str:
        parts = [str(self.report), *(f"  {line}" for line in self.report.bad)]
        parts += [
            f"{self.train_rows:,} rows to train on, {self.val_rows:,} to validate on, written as {self.style}",
            f"{self.tokens:,} tokens to train on, {self.trained_tokens:,} of them trained; the longest sample has "
            f"{self.longest:,}",
            f"{self.steps:,} steps in {self.epochs:g} epochs",
            "the first sample, with what is trained in [[ ]]:",
            self.sample,
            f"memory: about {_gigabytes(self.memory.total)} needed ({_shares(asdict(self.memory))}), "
            + (f"{_gigabytes(self.free)} free" if self.free else "what is free is not known"),
        ]
        if not self.fits:
            parts += ["it does not fit; what takes less:", *(f"  {hint}" for hint in self.hints)]
        return "\n".join(parts)


def describe(
    data: Dataset,
    settings: Settings,
    model: Any,
    *,
    lora: Lora | None = None,
    quantize: Quantization | None = None,
    free: int | None = None,
) -> DryRun:
    """What `finetune` would do with these. `model` is a `Decoder` as loaded, or without its numbers.

    lora None: all of it trains. quantize: how its weights will be rounded, where they aren't yet.
    free: bytes that the whole process may have; None asks the system, and adds what the process has already.
    ValueError as `finetune` raises it for rows and settings that don't go together.
    """
    feed = Feed(data.rows, settings, context=model.config.max_positions)
    samples, limit = data.train, settings.train.max_seq_length
    lengths = [places(cut(item, limit)) for item in samples.items]
    positions = _positions(data, settings, lengths)
    memory = estimate(model, settings, positions=positions, lora=lora, quantize=quantize)
    return DryRun(
        report=data.report,
        style=data.style.name,
        train_rows=samples.rows,
        val_rows=data.val.rows,
        tokens=samples.tokens,
        trained_tokens=samples.trained_tokens,
        longest=max(len(sample.ids) for sample in samples),
        steps=feed.steps,
        epochs=round(feed.epoch(feed.steps), 2),
        sample=_shown(data, samples[0]),
        memory=memory,
        free=_free() if free is None else free,
        hints=tuple(_hints(settings, positions, full=lora is None)),
    )


def _positions(data: Dataset, settings: Settings, lengths: list[int]) -> int:
    """The most places of a micro-batch: of its longest rows, or of packed ones."""
    rows = settings.train.micro_batch_size
    if data.packing:
        return rows * (settings.train.max_seq_length or max(lengths))
    return sum(sorted(lengths)[-rows:])


def _free() -> int:
    """What this process has and what is free beside it: a run may take both."""
    free = free_memory()
    return free + used() if free else 0


def _shown(data: Dataset, sample: Sample) -> str:
    text = data.renderer.show(sample)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ... ({len(text) - SHOWN:,} more characters)"


def _hints(settings: Settings, positions: int, *, full: bool) -> list[str]:
    """What to change, the mildest first."""
    train, found = settings.train, list[str]()
    if train.micro_batch_size > 1:
        found.append(f"--train.micro_batch_size {max(train.micro_batch_size // 2, 1)}: the same steps, fewer at a time")
    if not train.activation_checkpointing:
        found.append("--train.activation_checkpointing true: layers are computed again, a third more time")
    if positions > 128:
        rows = positions // train.micro_batch_size
        found.append(f"--train.max_seq_length {max(rows // 2, 64)}: longer rows are cut")
    if full:
        found.append("llm finetune_lora: adapters alone have gradients and an optimizer")
    else:
        found.append("--quantize bnb.nf4 or --precision bf16-true: smaller weights")
    return [*found, "a smaller model"]


def _shares(memory: Mapping[str, int]) -> str:
    names = {"saved": "kept for backward", "reused": "less what is used twice"}
    return ", ".join(f"{names.get(name, name)} {_gigabytes(size)}" for name, size in memory.items() if size)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"

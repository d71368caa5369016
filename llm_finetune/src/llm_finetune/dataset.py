"""A data set out of files: rows read, rendered, cut to length and counted."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from llm_finetune.batches import Sample
from llm_finetune.data_settings import DataSettings
from llm_finetune.feeding import Rows
from llm_finetune.files import data_files, read_file
from llm_finetune.order import permutation
from llm_finetune.render import Renderer, pieces
from llm_finetune.row_kinds import kind_of, read_row
from llm_finetune.rows import DataError, Ids, Pair, Row, RowError, Text
from llm_finetune.samples import Samples
from llm_finetune.sources import SOURCES, Files, Source, locate
from llm_finetune.styles import Style, pick
from llm_tokenizer import Tokenizer

SPLIT_FRACTION = 0.05
EXAMPLES = 3  # bad rows that the report names
Placed = tuple[str, Row]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What became of the rows. dropped: rows by the reason; bad: the first of their errors, in full.

    cut: samples that lost their end to max_seq_length. split: rows that became several samples.
    """

    read: int
    kept: int
    cut: int
    split: int
    dropped: Mapping[str, int]
    bad: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{self.read:,} rows read, {self.kept:,} kept"]
        parts += [f"{self.split:,} made into several samples"] if self.split else []
        parts += [f"{self.cut:,} samples cut"] if self.cut else []
        parts += [f"{count:,} left out: {reason}" for reason, count in self.dropped.items()]
        return "; ".join(parts)


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Samples to train and to validate on (perhaps none), what renders them, and what became of the rows."""

    train: Samples
    val: Samples
    renderer: Renderer
    report: Report
    packing: bool = False
    group_by_length: bool = False

    @property
    def rows(self) -> Rows:
        """As the training loop takes them."""
        return Rows(
            train=self.train.items, val=self.val.items, packing=self.packing, group_by_length=self.group_by_length
        )

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer with the chat template that conversations are written in, as the result is to be served."""
        return self.renderer.tokenizer

    @property
    def style(self) -> Style:
        """How conversations are written; `style.jinja(tokenizer)` is its chat template."""
        return self.renderer.style


def load_data(
    data: DataSettings, tokenizer: Tokenizer, *, vocab_size: int, max_seq_length: int | None = None
) -> Dataset:
    """The data set that the settings name.

    vocab_size: the model's. max_seq_length: places of a batch that a sample may take (tokens less one); conversations
    are cut there, texts and pre-tokenised rows go on in a further sample. None keeps every length. Raises RowError for
    the first bad row (but with on_bad_row skip), DataError where no rows are left, ValueError for files.
    """
    if max_seq_length is not None and max_seq_length < 1:
        raise ValueError(f"max_seq_length is at least 1, not {max_seq_length}")
    files, source = locate(data)
    known = source is not None and source.name in SOURCES
    bad = _Bad(skip=data.on_bad_row == "skip" or known)  # nobody can mend the rows of a known set
    kinds: Counter[str] = Counter()
    train, val = _rows(data, files, source, kinds, bad)
    style = pick(_style(data, source, tokenizer), tokenizer, kinds)
    unsaid = data.loss is None and data.mask_prompt is None
    renderer = Renderer(tokenizer, style, loss="all" if unsaid and known else data.trained, vocab_size=vocab_size)
    maker = _Maker(renderer, max_seq_length, bad, pairs=any(isinstance(row, Pair) for _, row in train[:1]))
    made = Samples(maker.samples(train), per_row=maker.per_row)
    held = Samples(maker.samples(val), per_row=maker.per_row)
    read = len(train) + len(val) + bad.unread
    report = Report(
        read=read, kept=maker.kept, cut=maker.cut, split=maker.split, dropped=dict(bad.reasons), bad=tuple(bad.examples)
    )
    if not made:
        raise DataError(f"{data.json_path or data.name}: nothing is left to train on: {report}")
    return Dataset(
        train=made,
        val=held,
        renderer=renderer,
        report=report,
        packing=data.packing,
        group_by_length=data.group_by_length,
    )


class _Bad:
    """What is done about bad rows: raise, or count and keep the first."""

    def __init__(self, *, skip: bool) -> None:
        self._skip = skip
        self.reasons: Counter[str] = Counter()
        self.examples: list[str] = []
        self.unread = 0

    def __call__(self, error: RowError) -> None:
        if not self._skip:
            raise error
        self.reasons[error.reason] += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(str(error))

    def reading(self, error: RowError) -> None:
        """The same for a row that never became one."""
        self(error)
        self.unread += 1


def _style(data: DataSettings, source: Source | None, tokenizer: Tokenizer) -> str | None:
    """The style that is asked for, or that of a known set where the checkpoint has no template of its own."""
    if data.prompt_style is not None or tokenizer.chat_template is not None:
        return data.prompt_style
    return source.style if source is not None and source.name in SOURCES else None


def _rows(
    data: DataSettings, files: Files, source: Source | None, kinds: Counter[str], bad: _Bad
) -> tuple[list[Placed], list[Placed]]:
    """Rows to train and to validate on. `kinds` counts those to train on."""
    train_files, val_files = files
    if data.val_path is not None:
        val_files = data_files(data.val_path)[0]
    change = partial(_changed, source, data.include_multiturn_conversations)
    train = [row for file in train_files for row in _read(file, kinds.update, bad, change)]
    fraction = data.val_split_fraction
    if not val_files:
        usual = SPLIT_FRACTION if source is None or source.val_split_fraction is None else source.val_split_fraction
        return _split(train, usual if fraction is None else fraction, data.seed)
    if fraction is not None:
        what = data.json_path or data.name
        raise DataError(f"{what}: there are rows to validate on ({val_files[0]}), so leave data.val_split_fraction out")
    return train, [row for file in val_files for row in _read(file, lambda _: None, bad, change)]


def _changed(source: Source | None, multiturn: bool, value: object) -> Iterable[object]:
    """Rows in a form of ours from one of a set."""
    return [value] if source is None or not isinstance(value, Mapping) else source.change(value, multiturn)


def _read(
    file: Path, seen: Callable[[list[str]], None], bad: _Bad, change: Callable[[object], Iterable[object]]
) -> Iterator[Placed]:
    for where, found in read_file(file, bad.reading):
        for value in change(found):
            try:
                row = read_row(value, where)
            except RowError as error:
                bad.reading(error)
                continue
            keys = {key for key, item in value.items() if item is not None} if isinstance(value, Mapping) else ()
            seen([kind_of(keys) or ""])
            yield where, row


def _split(rows: list[Placed], fraction: float, seed: int) -> tuple[list[Placed], list[Placed]]:
    """The last round(fraction · n) rows, one at least, of a permutation are held back; both keep the order of files."""
    held = max(round(fraction * len(rows)), 1) if fraction and len(rows) > 1 else 0
    order = permutation(seed, 0, len(rows), purpose="split").tolist()
    border = len(rows) - held
    return [rows[i] for i in sorted(order[:border])], [rows[i] for i in sorted(order[border:])]


class _Maker:
    """Rows to samples of at most `places`, with counts of what that did."""

    def __init__(self, renderer: Renderer, places: int | None, bad: _Bad, *, pairs: bool) -> None:
        self._renderer, self._places, self._bad = renderer, places, bad
        self.per_row = 2 if pairs else 1
        self.kept = self.cut = self.split = 0

    def samples(self, rows: list[Placed]) -> Iterator[tuple[str, Sample]]:
        for where, row in rows:
            try:
                found = self._pair(row, where) if self.per_row == 2 else self._one(row, where)
            except RowError as error:
                self._bad(error)
                continue
            self.kept += 1
            self.split += len(found) > self.per_row
            yield from ((where, sample) for sample in found)

    def _one(self, row: Row, where: str) -> list[Sample]:
        found = self._renderer.samples(row, where)
        if self._places is None:
            return found
        if isinstance(row, Text | Ids):
            return [part for sample in found for part in pieces(sample, self._places) if any(part.weights[1:])]
        kept = [short for sample in found if (short := self._shortened(sample)) is not None]
        if not kept:
            raise self._too_long(where)
        return kept

    def _pair(self, row: Row, where: str) -> list[Sample]:
        kept = [self._shortened(sample) for sample in self._renderer.pair(row, where)]
        found = [sample for sample in kept if sample is not None]
        if len(found) < 2:
            raise self._too_long(where)
        return found

    def _shortened(self, sample: Sample) -> Sample | None:
        """The sample up to the limit, None where nothing of it would be trained."""
        if self._places is None or len(sample.ids) - 1 <= self._places:
            return sample
        short = Sample(ids=sample.ids[: self._places + 1], weights=sample.weights[: self._places + 1])
        if not any(short.weights[1:]):
            return None
        self.cut += 1
        return short

    def _too_long(self, where: str) -> RowError:
        reason = "the prompt alone fills max_seq_length"
        return RowError(where, f"{reason} ({self._places})", "room for an answer", reason=reason)

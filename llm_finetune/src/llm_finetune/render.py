"""Samples out of rows: token ids as serving makes them, and the weight of each as a target."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from llm_finetune.batches import Sample
from llm_finetune.rows import Conversation, Ids, Pair, Row, RowError, Text, Turn
from llm_finetune.spans import Conversed, Spans, end_of_turn
from llm_finetune.styles import Style
from llm_tokenizer import Tokenizer, TokenizerError

Loss = Literal["assistant", "all", "last"]
# Control characters of the data would steer the terminal; tabs and line ends are shown as they are.
_SHOWN = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


class Renderer:
    """Makes samples of rows.

    loss: the assistant's turns count ("assistant"), the last of them ("last"), or every token ("all"); `train` of a
    message goes before that. vocab_size is the model's: an id past it makes a row bad. The weight of a sample's first
    token is never used.
    """

    def __init__(self, tokenizer: Tokenizer, style: Style, *, loss: Loss = "assistant", vocab_size: int) -> None:
        if loss not in ("assistant", "all", "last"):
            raise ValueError(f"loss is one of assistant, all, last; not {loss!r}")
        self.style = style
        self.loss: Loss = loss
        self.vocab_size = vocab_size
        self.tokenizer = tokenizer if style.own else tokenizer.with_chat_template(style.jinja(tokenizer))
        self._spans = Spans(self.tokenizer, takes_input=style.takes_input)

    def samples(self, row: Row, where: str) -> list[Sample]:
        """One sample, but for a conversation that the template writes otherwise turn by turn: one for each answer.

        Of whatever length. RowError for turns that the template refuses, and for a row without anything to learn.
        """
        if isinstance(row, Pair):
            raise RowError(where, "a pair of answers", "rows of another kind", reason="a pair among other rows")
        with _told(where):
            found = self._samples(row, where)
        return [self._checked(sample, where) for sample in found]

    def pair(self, row: Row, where: str) -> tuple[Sample, Sample]:
        """Samples of the chosen and of the rejected answer, each after the same prompt. RowError as in `samples`."""
        if not isinstance(row, Pair):
            raise RowError(where, "no pair of answers", "'chosen' and 'rejected'", reason="no pair among pairs")
        chosen, rejected = (self._side(row, side, where) for side in (row.chosen, row.rejected))
        return chosen, rejected

    def _side(self, row: Pair, side: tuple[Turn, ...], where: str) -> Sample:
        turns = (*row.prompt, *side)
        wanted = [j for j in range(len(row.prompt), len(turns)) if turns[j].role == "assistant"]
        with _told(where):
            return self._checked(self._conversation(turns, None, wanted, where)[-1], where)

    def _samples(self, row: Row, where: str) -> list[Sample]:
        if isinstance(row, Ids):
            return [Sample(ids=row.ids, weights=row.weights)]
        if isinstance(row, Text):
            ids = self.tokenizer.encode(row.text, eos=self.tokenizer.eos_id is not None)
            return [_sample(ids, [1.0] * len(ids), where)]
        assert isinstance(row, Conversation)
        if self.loss == "all":
            return [self._everything(row, where)]
        wanted = _wanted(row.turns, self.loss)
        if not wanted:
            raise RowError(where, "no turn is to be trained", "one at least", reason="no turn to train")
        return self._conversation(row.turns[: wanted[-1] + 1], row.tools, wanted, where)

    def _conversation(self, turns: Sequence[Turn], tools: object, wanted: list[int], where: str) -> list[Sample]:
        """The turns with the wanted ones trained; apart from each other where the template needs it."""
        whole = self._spans.whole(turns, tools, wanted)
        if whole is not None:
            return [_trained(whole, turns, where)]
        return [self._alone(turns[: j + 1], tools, where) for j in wanted]

    def _alone(self, turns: Sequence[Turn], tools: object, where: str) -> Sample:
        last = len(turns) - 1
        found = self._spans.whole(turns, tools, [last])
        if found is None and turns[last].role == "assistant":
            found = self._spans.alone(turns, tools)
        if found is None:
            reason = "the chat template doesn't keep a turn apart"
            raise RowError(where, f"{reason} (turn {last})", "a turn with a place of its own", reason=reason)
        return _trained(found, turns, where)

    def _everything(self, row: Conversation, where: str) -> Sample:
        """Every token, but for the turns whose flag or weight says otherwise."""
        others = [j for j, turn in enumerate(row.turns) if turn.train is False or turn.weight != 1]
        found = self._spans.whole(row.turns, row.tools, others)
        if found is None:
            reason = "the chat template doesn't keep the turns apart"
            raise RowError(where, reason, "no flags or weights of messages with loss=all", reason=reason)
        weights = [1.0] * len(found.ids)
        for j, (begin, end) in found.spans.items():
            weight = 0.0 if row.turns[j].train is False else row.turns[j].weight
            weights[begin:end] = [weight] * (end - begin)
        return _sample(found.ids, weights, where)

    def _checked(self, sample: Sample, where: str) -> Sample:
        largest = max(sample.ids)
        if largest >= self.vocab_size:
            what = f"id {largest} in a vocabulary of {self.vocab_size}"
            raise RowError(where, what, "ids of the model's own vocabulary", reason="an id past the vocabulary")
        if not any(sample.weights[1:]):
            raise RowError(where, "no token has a weight", "something to learn", reason="nothing to learn")
        return sample

    @property
    def end_id(self) -> int | None:
        """The first special token that the style puts after an answer: where generating can stop. None without one."""
        return end_of_turn(self.tokenizer, takes_input=self.style.takes_input)

    def show(self, sample: Sample, *, marks: tuple[str, str] = ("[[", "]]")) -> str:
        """The sample as text, trained tokens between the marks; control characters are spelled out."""
        stream, shown, inside = self.tokenizer.stream(skip_special=False), "", False
        for place, (token, weight) in enumerate(zip(sample.ids, sample.weights, strict=True)):
            trained = place > 0 and weight > 0
            if trained != inside:
                shown, inside = shown + marks[not trained], trained
            shown += stream.push(token).translate(_SHOWN)
        return shown + stream.finish().translate(_SHOWN) + (marks[1] if inside else "")


def pieces(sample: Sample, places: int) -> list[Sample]:
    """The sample in pieces of at most that many places (a sample of n tokens takes n - 1), nothing left out.

    Neighbours share a token: the last target of one is the first input of the next.
    """
    starts = range(0, len(sample.ids) - 1, places)
    cut = [(sample.ids[start : start + places + 1], sample.weights[start : start + places + 1]) for start in starts]
    return [Sample(ids=ids, weights=weights) for ids, weights in cut]


@contextmanager
def _told(where: str) -> Iterator[None]:
    """What the tokenizer or its template refuses, as an error of the row."""
    try:
        yield
    except TokenizerError as error:
        reason = "the tokenizer or its chat template refuses it"
        raise RowError(where, f"{reason} ({error})", "what the template takes", reason=reason) from None


def _wanted(turns: Sequence[Turn], loss: Loss) -> list[int]:
    """Places of the turns to train: by their own flag, else the assistant's, or the last of those."""
    answers = [j for j, turn in enumerate(turns) if turn.role == "assistant"]
    chosen = set(answers[-1:] if loss == "last" else answers)
    return [
        j for j, turn in enumerate(turns) if (j in chosen if turn.train is None else turn.train) and turn.weight > 0
    ]


def _trained(found: Conversed, turns: Sequence[Turn], where: str) -> Sample:
    weights = [0.0] * len(found.ids)
    for j, (begin, end) in found.spans.items():
        weights[begin:end] = [turns[j].weight] * (end - begin)
    return _sample(found.ids, weights, where)


def _sample(ids: Iterable[int], weights: Iterable[float], where: str) -> Sample:
    ids, weights = list(ids), list(weights)
    if len(ids) < 2:
        raise RowError(where, f"the row has {len(ids)} tokens", "two at least", reason="fewer than two tokens")
    return Sample(ids=ids, weights=weights)

"""What a generation hands out: pieces of text while it runs, completions at its end."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from llm_cli.stopping import StopText
from llm_sampler import SpeculativeReport


@dataclass(frozen=True, kw_only=True)
class TokenLogprob:
    """The natural log-probability of a generated id, and the most probable ids of its place with theirs."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One continuation. `token_ids` has everything generated, an end id too; `text` leaves out end ids and stops.

    `finish_reason` is "stop" (end id or stop string), "length" (max_new_tokens, or the context is full), or None
    where the generation was left before its end. `text` is None where there is no tokenizer. `seconds` runs from the
    start of the call to the last token, `first_token_seconds` to the first; both include reading the prompt.
    `cached_tokens` of the prompt were known from earlier turns, a file or another prompt of the list, and not read.

    With speculation, `passes` calls of the model gave what follows the first token; it was called with
    `proposed_tokens`, of which it took `accepted_tokens`. `speed_up` is the measured speed of all rows together over
    that of plain steps in the same generation, None where there were none of the one or the other.
    """

    text: str | None
    token_ids: tuple[int, ...]
    finish_reason: Literal["stop", "length"] | None
    prompt_tokens: int
    cached_tokens: int
    seconds: float
    first_token_seconds: float
    logprobs: tuple[TokenLogprob, ...] | None = None
    proposed_tokens: int = 0
    accepted_tokens: int = 0
    passes: int = 0
    speed_up: float | None = None

    @property
    def decode_seconds(self) -> float:
        """Seconds from the first generated token to the last: decoding without the prompt."""
        return self.seconds - self.first_token_seconds

    def context_ended(self, max_new_tokens: int) -> bool:
        """Whether it ended because the context is full, before it had `max_new_tokens`."""
        return self.finish_reason == "length" and len(self.token_ids) < max_new_tokens

    @property
    def tokens_per_second(self) -> float | None:
        """Speed of decoding, without the prompt and the first token, which comes with it; None below two tokens."""
        return (len(self.token_ids) - 1) / self.decode_seconds if len(self.token_ids) > 1 else None


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One step of one row: the generated id and the text that has become certain with it, more or less than a token."""

    row: int
    id: int
    text: str


@dataclass(kw_only=True)
class Row:
    """What is known of one continuation while it grows."""

    prompt_tokens: int
    cached_tokens: int = 0
    min_new_tokens: int = 0  # before these, a stop string is text like any other
    budget: int
    stop: StopText
    stream: Any  # llm_tokenizer.TextStream, or None without a tokenizer
    ids: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: Literal["stop", "length"] | None = None
    first_token_seconds: float = 0.0
    seconds: float = 0.0

    def push(self, new: int, end_ids: tuple[int, ...], seconds: float) -> str:
        """Take a new id; the text that has become certain."""
        self.first_token_seconds = self.first_token_seconds or seconds
        self.seconds = seconds
        self.ids.append(new)
        text = "" if self.stream is None or new in end_ids else self._emit(self.stream.push(new))
        if new in end_ids or self.stop.stopped:
            self.finish_reason = "stop"
        elif len(self.ids) == self.budget:
            self.finish_reason = "length"
        return text if self.finish_reason is None else text + self._finish()

    def _finish(self) -> str:
        """The text held back until now, because nothing more comes."""
        tail = "" if self.stream is None else self._emit(self.stream.finish())
        if self.stop.stopped:  # half a character became visible and completed a stop string
            self.finish_reason = "stop"
        rest = self.stop.finish()
        self.pieces.append(rest)
        return tail + rest

    def _emit(self, text: str) -> str:
        out = text if len(self.ids) < self.min_new_tokens else self.stop.push(text)
        self.pieces.append(out)
        return out

    def completion(self, with_logprobs: bool) -> Completion:
        return Completion(
            text=None if self.stream is None else "".join(self.pieces),
            token_ids=tuple(self.ids),
            finish_reason=self.finish_reason,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            seconds=self.seconds,
            first_token_seconds=self.first_token_seconds,
            logprobs=tuple(self.logprobs) if with_logprobs else None,
        )


def with_speculation(completions: list[Completion], report: SpeculativeReport) -> list[Completion]:
    """The completions, row by row, with what came of speculating."""
    rows = zip(completions, report.proposed, report.accepted, report.passes, strict=False)
    told = [
        replace(one, proposed_tokens=proposed, accepted_tokens=accepted, passes=passes, speed_up=report.speed_up)
        for one, proposed, accepted, passes in rows
    ]
    return told or completions  # nothing is known before the second token

"""The options of speculative decoding, the same in every command that generates, and the sentence that reports it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from llm_cli.completion import Completion


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Speculation:
    """How to propose tokens that the model checks several at once; the text is the same without."""

    draft_model: Annotated[
        str | None, Parameter(help="A smaller model of the same tokenizer that proposes tokens; the text is the same.")
    ] = None
    speculative: Annotated[
        Literal["ngram", "draft", "self", "off"] | None,
        Parameter(help="Who proposes tokens: the text so far, the draft model, or the model's own first layers."),
    ] = None
    speculative_tokens: Annotated[int, Parameter(help="About how many tokens to propose at a time.")] = 4
    speculative_layers: Annotated[
        int | None, Parameter(help="With --speculative self: how many layers, by default a quarter.")
    ] = None

    def given(self) -> dict[str, Any]:
        """The keywords of `LLM.generate`. Raises ValueError for a draft that is missing."""
        if self.speculative == "draft" and self.draft_model is None:
            raise ValueError("--speculative draft needs a draft model; name one with --draft_model")
        if self.speculative_layers is not None and self.speculative != "self":
            raise ValueError("--speculative_layers goes with --speculative self alone; add that, or leave it out")
        return {
            "speculative": self.speculative,
            "speculative_tokens": self.speculative_tokens,
            "speculative_layers": self.speculative_layers,
        }


NO_SPECULATION = Speculation()


def report(completions: Sequence[Completion]) -> str:
    """What came of speculating, without a full stop; "" where there was none."""
    passes = sum(one.passes for one in completions)
    if not passes:
        return ""
    proposed = sum(one.proposed_tokens for one in completions)
    if not proposed:
        return "speculation: nothing was proposed"
    share = sum(one.accepted_tokens for one in completions) / proposed
    a_pass = sum(len(one.token_ids) - 1 for one in completions) / passes
    said = f"speculation: {share:.0%} of {proposed} proposed tokens accepted, {a_pass:.1f} tokens a pass"
    return said.replace("%", " %", 1) + _speed(completions[0].speed_up)


def _speed(times: float | None) -> str:
    if times is None:
        return ""
    if times < 1:
        return f", {times:.2f} times as fast as without: it is a loss here, leave it out"
    return f", {times:.2f} times as fast as without"

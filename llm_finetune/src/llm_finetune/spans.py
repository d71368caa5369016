"""Where the turns of a conversation lie in its tokens, with the ids that serving makes.

A chat template renders whole conversations and says nothing of its parts. What the served model is asked with before
turn j is the rendering of the turns before it with a generation prompt; a turn's answer begins where that ends. This
holds only where that text is how the whole begins: templates may write earlier turns otherwise once later ones follow
(Qwen3 leaves their reasoning out, Mistral moves the system message). Then each answer becomes a sample of its own.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm_finetune.rows import Turn
from llm_tokenizer import Tokenizer, TokenizerError

_MARK = "\ue000\ue001"  # for private use, so in no template and no answer


@dataclass(frozen=True, kw_only=True)
class Conversed:
    """Ids of a conversation, and [begin, end) of each wanted turn in them by its place among the turns."""

    ids: list[int]
    spans: Mapping[int, tuple[int, int]]


class Spans:
    """A tokenizer's chat template applied to turns; `takes_input` where it has a place for `Turn.input`."""

    def __init__(self, tokenizer: Tokenizer, *, takes_input: bool) -> None:
        self._tokenizer = tokenizer
        self._takes_input = takes_input

    def render(self, turns: Sequence[Turn], tools: Any, *, prompt: bool) -> str:
        """The turns as text, "" for none. Raises TokenizerError for what the template refuses."""
        if not turns:
            return ""
        messages = [self._message(turn) for turn in turns]
        return self._tokenizer.render_chat(messages, tools=tools, add_generation_prompt=prompt)

    def _message(self, turn: Turn) -> dict[str, Any]:
        message = {**turn.extra, "role": turn.role, "content": turn.content}
        if turn.input and self._takes_input:
            return {**message, "input": turn.input}
        return {**message, "content": f"{turn.content}\n\n{turn.input}"} if turn.input else message

    def whole(self, turns: Sequence[Turn], tools: Any, wanted: Iterable[int]) -> Conversed | None:
        """All turns at once; None where the wanted ones aren't in the whole as they are served."""
        text = self.render(turns, tools, prompt=False)
        ids = self._encode(text)
        spans: dict[int, tuple[int, int]] = {}
        for j in wanted:
            begin = self._begin(turns, tools, j, text, ids)
            end = self._end(turns, tools, j, text, ids)
            if begin is None or end is None or begin >= end:
                return None
            spans[j] = (begin, end)
        return Conversed(ids=ids, spans=spans)

    def alone(self, turns: Sequence[Turn], tools: Any) -> Conversed | None:
        """The last turn after its prompt as served, however the template would write the two together.

        The answer is written as the row has it, with what the template puts after answers. None for an answer that
        isn't text.
        """
        last = len(turns) - 1
        if turns[last].content is None or turns[last].extra.get("tool_calls"):
            return None
        prompt = self.render(turns[:last], tools, prompt=True)
        probe = self.render([*turns[:last], Turn(role=turns[last].role, content=_MARK)], tools, prompt=False)
        if _MARK not in probe:
            return None
        answer = _without_overlap(prompt, turns[last].content or "")
        ids = self._encode(prompt + answer + probe[probe.rindex(_MARK) + len(_MARK) :])
        return Conversed(ids=ids, spans={last: (self._inside(prompt, ids), len(ids))})

    def closing(self) -> list[int]:
        """Ids that the template puts after an answer, the first of which is what ends a turn."""
        turns = [Turn(role="user", content="a"), Turn(role="assistant", content=_MARK)]
        text = self.render(turns, None, prompt=False)
        return self._encode(text[text.rindex(_MARK) + len(_MARK) :]) if _MARK in text else []

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, bos=False)

    def _begin(self, turns: Sequence[Turn], tools: Any, j: int, text: str, ids: list[int]) -> int | None:
        """Place of the first token of turn j: after its prompt for the assistant's, else after the turn before."""
        if turns[j].role != "assistant":
            return self._end(turns, tools, j - 1, text, ids) if j else 0
        prompt = self.render(turns[:j], tools, prompt=True)
        return self._inside(prompt, ids) if text.startswith(prompt) else None

    def _end(self, turns: Sequence[Turn], tools: Any, j: int, text: str, ids: list[int]) -> int | None:
        """Place after the last token of turn j. A token that reaches into the next turn counts as this one's."""
        if j == len(turns) - 1:
            return len(ids)
        before = self.render(turns[: j + 1], tools, prompt=False)
        if text.startswith(before):
            inside = self._inside(before, ids)
            return (
                inside if self._decode(ids[:inside]) == before or self._encode(before) == ids[:inside] else inside + 1
            )
        # Some templates end every rendering with an EOS, which the whole has at its own end alone.
        own = self._encode(before)
        inside = _common(own, ids)
        return inside if set(own[inside:]) <= set(self._tokenizer.end_ids) else None

    def _inside(self, prefix: str, ids: list[int]) -> int:
        """How many of the ids lie wholly within the prefix of their text."""
        own = self._encode(prefix)
        count = _common(own, ids)
        if count == len(own):
            return count
        # The text that follows changed how the prefix is cut: go on as long as the tokens still spell it.
        while count < len(ids) and prefix.startswith(self._decode(ids[: count + 1])):
            count += 1
        return count

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special=False)


def end_of_turn(tokenizer: Tokenizer, *, takes_input: bool = False) -> int | None:
    """The first special token that the chat template puts after an answer: where generating can stop.

    None without one, and for a template that doesn't write a question and its answer.
    """
    try:
        closing = Spans(tokenizer, takes_input=takes_input).closing()
    except TokenizerError:
        return None
    decode = tokenizer.decode
    return next((token for token in closing if decode([token]) != decode([token], skip_special=False)), None)


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the common beginning."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


def _without_overlap(prompt: str, answer: str) -> str:
    """The answer without the tag that the prompt has opened already: DeepSeek-R1's ends in "<think>\\n"."""
    if not answer.startswith("<"):
        return answer
    sizes = (size for size in range(min(len(answer), 64), 2, -1) if prompt.endswith(answer[:size]))
    return answer[next(sizes, 0) :]

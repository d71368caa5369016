"""Rows recognised by their keys; each kind is checked before anything is made of it."""

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from llm_finetune.rows import Conversation, Ids, Pair, Row, RowError, Text, Turn

ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant"}
EXPECTED = (
    "one of: input_ids; chosen and rejected; messages; conversations; instruction and output; prompt and completion; "
    "question and answer; inputs and targets; text"
)


def kind_of(keys: Collection[str]) -> str | None:
    """The first kind whose keys are all there, by the order of `EXPECTED`; None where none fits."""
    return next((kind for kind, (needed, _) in KINDS.items() if needed <= set(keys)), None)


def read_row(row: object, where: str) -> Row:
    """The row as one of the four kinds; RowError names `where`, what is wrong and what was expected."""
    if not isinstance(row, Mapping):
        raise RowError(where, f"the row is a {type(row).__name__}", "an object with named fields")
    row = {key: value for key, value in row.items() if value is not None}  # tables have nulls for what a row lacks
    kind = kind_of(row)
    if kind is None:
        found = ", ".join(sorted(map(str, row)))[:200] or "none"
        raise RowError(where, f"the keys ({found}) are of no known kind", EXPECTED, reason="keys of no known kind")
    return KINDS[kind][1](row, where)


def _text(row: Mapping[str, Any], key: str, where: str, *, empty: bool = False) -> str:
    value = row.get(key, "")
    if not isinstance(value, str):
        raise RowError(where, f"{key!r} is a {type(value).__name__}", "text", reason=f"{key!r} is no text")
    if not empty and not value.strip():
        raise RowError(where, f"{key!r} is empty", "text", reason=f"{key!r} is empty")
    return value


def _system(row: Mapping[str, Any], where: str) -> tuple[Turn, ...]:
    text = _text(row, "system", where, empty=True)
    return (Turn(role="system", content=text),) if text.strip() else ()


def _answered(row: Mapping[str, Any], asked: str, answer: str, where: str, *, input: str = "") -> Conversation:
    user = Turn(role="user", content=_text(row, asked, where), input=input)
    assistant = Turn(role="assistant", content=_text(row, answer, where))
    return Conversation(turns=(*_system(row, where), user, assistant))


def _alpaca(row: Mapping[str, Any], where: str) -> Conversation:
    return _answered(row, "instruction", "output", where, input=_text(row, "input", where, empty=True).strip())


def _two(asked: str, answer: str) -> Callable[[Mapping[str, Any], str], Conversation]:
    return lambda row, where: _answered(row, asked, answer, where)


def _plain(row: Mapping[str, Any], where: str) -> Text:
    return Text(text=_text(row, "text", where))


def _weight(value: object, where: str, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value >= 0):
        raise RowError(where, f"{what} is {value!r:.40}", "a number of at least 0", reason="a weight is no number")
    return float(value)


def _list(row: Mapping[str, Any], key: str, where: str) -> list[Any]:
    value = row[key]
    if not isinstance(value, list | tuple):
        raise RowError(where, f"{key!r} is a {type(value).__name__}", "a list", reason=f"{key!r} is no list")
    return list(value)


def _ids(row: Mapping[str, Any], where: str) -> Ids:
    ids = _list(row, "input_ids", where)
    if len(ids) < 2 or any(type(token) is not int or token < 0 for token in ids):
        raise RowError(where, "'input_ids' is no list of token ids", "at least two integers from 0")
    key = "weights" if "weights" in row else "labels" if "labels" in row else None
    marks = _list(row, key, where) if key else [1.0] * len(ids)
    if len(marks) != len(ids):
        raise RowError(
            where, f"{len(ids)} 'input_ids' and {len(marks)} {key!r}", "one for each", reason=f"unequal {key!r}"
        )
    if key == "labels":
        weights = [_labelled(token, label, where) for token, label in zip(ids, marks, strict=True)]
    else:
        weights = [_weight(mark, where, "a weight") for mark in marks]
    return Ids(ids=tuple(ids), weights=tuple(weights))


def _labelled(token: int, label: object, where: str) -> float:
    """1 for a label equal to the id, 0 for a negative one (-100 and the like: not trained)."""
    if type(label) is int and (label == token or label < 0):
        return float(label >= 0)
    raise RowError(
        where, f"label {label!r:.40} beside id {token}", "the id itself or -100", reason="labels that are not the ids"
    )


def _messages(key: str) -> Callable[[Mapping[str, Any], str], Conversation]:
    def read(row: Mapping[str, Any], where: str) -> Conversation:
        turns = _turns(row, key, where)
        if not any(turn.role == "assistant" for turn in turns):
            raise RowError(where, f"{key!r} has no turn of the assistant", "one to learn", reason="no assistant turn")
        system = () if turns[0].role == "system" else _system(row, where)
        tools = _list(row, "tools", where) if row.get("tools") else None
        return Conversation(turns=(*system, *turns), tools=tools)

    return read


def _turns(row: Mapping[str, Any], key: str, where: str) -> tuple[Turn, ...]:
    """The message list as turns; RowError for an empty one."""
    found = tuple(_turn(message, f"{key!r}[{i}]", where) for i, message in enumerate(_list(row, key, where)))
    if not found:
        raise RowError(where, f"{key!r} is empty", "at least one message", reason=f"{key!r} is empty")
    return found


def _turn(message: object, name: str, where: str) -> Turn:
    wanted = '{"role", "content"} or {"from", "value"}'
    if not isinstance(message, Mapping):
        raise RowError(where, f"{name} is a {type(message).__name__}", wanted, reason="a message is no object")
    role_key, content_key = ("from", "value") if "from" in message else ("role", "content")
    for key in (role_key, content_key):
        if key not in message and not (key == "content" and message.get("tool_calls")):
            raise RowError(where, f"{name} lacks {key!r}", wanted, reason=f"a message lacks {key!r}")
    role, train = message[role_key], message.get("train")
    if not isinstance(role, str) or not role:
        raise RowError(where, f"the role of {name} is {role!r:.40}", "text", reason="a role is no text")
    if train is not None and not isinstance(train, bool):
        raise RowError(where, f"'train' of {name} is {train!r:.40}", "true or false", reason="'train' is no boolean")
    known = (role_key, content_key, "train", "weight")
    content = _content(message.get(content_key), bool(message.get("tool_calls")), name, where)
    role = ROLES.get(role, role)
    if role == "assistant" and not message.get("tool_calls") and not (content or "").strip():
        raise RowError(where, f"{name}, the assistant's, is empty", "text to learn", reason="an empty assistant turn")
    weight = 1.0 if message.get("weight") is None else _weight(message["weight"], where, f"'weight' of {name}")
    extra = {key: value for key, value in message.items() if key not in known and value is not None}
    return Turn(role=role, content=content, train=train, weight=weight, extra=extra)


def _content(value: object, calls: bool, name: str, where: str) -> str | None:
    """Text, or the text parts of a list of parts; None only beside tool calls."""
    if isinstance(value, str) or (value is None and calls):
        return value
    if isinstance(value, list | tuple) and all(isinstance(part, Mapping) for part in value):
        texts = [part.get("text") for part in value if part.get("type", "text") == "text"]
        if len(texts) == len(value) and all(isinstance(text, str) for text in texts):
            return "".join(map(str, texts))
    raise RowError(where, f"the content of {name} is no text", "text, or parts of it", reason="a content is no text")


def _pair(row: Mapping[str, Any], where: str) -> Pair:
    chosen, rejected = (_side(row, key, where) for key in ("chosen", "rejected"))
    prompt = _side(row, "prompt", where, role="user") if row.get("prompt") else ()
    # Message lists often repeat the prompt, beside a field of that name or without one.
    shared = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), None)
    if shared is None:
        raise RowError(where, "'chosen' and 'rejected' are the same or one goes on the other", "two answers")
    if shared:
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    if not prompt:
        raise RowError(where, "the pair has no prompt", "'prompt', or message lists that begin alike")
    for key, side in (("chosen", chosen), ("rejected", rejected)):
        if side[-1].role != "assistant":
            raise RowError(where, f"{key!r} ends with a turn of {side[-1].role!r:.40}", "the assistant's")
    system = () if prompt[0].role == "system" else _system(row, where)
    return Pair(prompt=(*system, *prompt), chosen=chosen, rejected=rejected)


def _side(row: Mapping[str, Any], key: str, where: str, *, role: str = "assistant") -> tuple[Turn, ...]:
    return (Turn(role=role, content=_text(row, key, where)),) if isinstance(row[key], str) else _turns(row, key, where)


Reader = Callable[[Mapping[str, Any], str], Row]
# The order decides where a row fits more than one kind.
KINDS: Mapping[str, tuple[frozenset[str], Reader]] = {
    "ids": (frozenset({"input_ids"}), _ids),
    "pair": (frozenset({"chosen", "rejected"}), _pair),
    "messages": (frozenset({"messages"}), _messages("messages")),
    "sharegpt": (frozenset({"conversations"}), _messages("conversations")),
    "alpaca": (frozenset({"instruction", "output"}), _alpaca),
    "prompt": (frozenset({"prompt", "completion"}), _two("prompt", "completion")),
    "response": (frozenset({"prompt", "response"}), _two("prompt", "response")),
    "question": (frozenset({"question", "answer"}), _two("question", "answer")),
    "flan": (frozenset({"inputs", "targets"}), _two("inputs", "targets")),
    "text": (frozenset({"text"}), _plain),
}

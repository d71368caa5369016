"""Rows are recognised by their keys, and a bad one is named with its place and what was expected."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_finetune.row_kinds import KINDS, kind_of, read_row
from llm_finetune.rows import Conversation, Ids, Pair, RowError, Text, Turn


def user(text: str, **more: Any) -> Turn:
    return Turn(role="user", content=text, **more)


def assistant(text: str, **more: Any) -> Turn:
    return Turn(role="assistant", content=text, **more)


SAID = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
GOOD: list[tuple[dict[str, Any], object]] = [
    ({"instruction": "q", "output": "a"}, Conversation(turns=(user("q"), assistant("a")))),
    ({"instruction": "q", "input": " x ", "output": "a"}, Conversation(turns=(user("q", input="x"), assistant("a")))),
    ({"prompt": "q", "completion": "a"}, Conversation(turns=(user("q"), assistant("a")))),
    ({"prompt": "q", "response": "a"}, Conversation(turns=(user("q"), assistant("a")))),
    ({"inputs": "q", "targets": "a"}, Conversation(turns=(user("q"), assistant("a")))),
    ({"question": "q", "answer": "a", "input": None}, Conversation(turns=(user("q"), assistant("a")))),
    (
        {"question": "q", "answer": "a", "system": "s"},
        Conversation(turns=(Turn(role="system", content="s"), user("q"), assistant("a"))),
    ),
    ({"messages": SAID}, Conversation(turns=(user("q"), assistant("a")))),
    (
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        Conversation(turns=(user("q"), assistant("a"))),
    ),
    (
        {
            "messages": [
                {**SAID[0], "content": [{"type": "text", "text": "q"}]},
                {**SAID[1], "train": False, "weight": 2},
            ]
        },
        Conversation(turns=(user("q"), assistant("a", train=False, weight=2.0))),
    ),
    (
        {"messages": [SAID[0], {"role": "assistant", "content": None, "tool_calls": [1]}], "tools": [{"type": "f"}]},
        Conversation(
            turns=(user("q"), Turn(role="assistant", content=None, extra={"tool_calls": [1]})), tools=[{"type": "f"}]
        ),
    ),
    ({"text": "t"}, Text(text="t")),
    ({"input_ids": [1, 2, 3]}, Ids(ids=(1, 2, 3), weights=(1.0, 1.0, 1.0))),
    ({"input_ids": [1, 2], "labels": [-100, 2]}, Ids(ids=(1, 2), weights=(0.0, 1.0))),
    ({"input_ids": [1, 2], "weights": [0, 0.5]}, Ids(ids=(1, 2), weights=(0.0, 0.5))),
    (
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        Pair(prompt=(user("q"),), chosen=(assistant("a"),), rejected=(assistant("b"),)),
    ),
    (
        {"prompt": "q", "chosen": SAID, "rejected": [SAID[0], {"role": "assistant", "content": "b"}]},
        Pair(prompt=(user("q"),), chosen=(assistant("a"),), rejected=(assistant("b"),)),
    ),
]


@pytest.mark.parametrize(("row", "expected"), GOOD)
def test_each_kind(row: dict[str, Any], expected: object) -> None:
    assert read_row(row, "x.jsonl:1") == expected


def test_the_first_kind_that_fits_wins() -> None:
    assert kind_of({"text", "input_ids", "messages"}) == "ids"
    assert kind_of({"text", "prompt", "chosen", "rejected", "completion"}) == "pair"
    assert kind_of({"text", "instruction", "output"}) == "alpaca"
    assert kind_of({"instruction"}) is None


BAD: list[tuple[object, str]] = [
    ([1], "a list; expected an object"),
    ({"Instruction": "q", "output": "a"}, r"the keys \(Instruction, output\).*instruction and output"),
    ({"instruction": 3, "output": "a"}, "'instruction' is a int; expected text"),
    ({"instruction": "q", "output": " "}, "'output' is empty"),
    ({"messages": "q"}, "'messages' is a str; expected a list"),
    ({"messages": []}, "'messages' is empty"),
    ({"messages": [SAID[0], "a"]}, r"'messages'\[1\] is a str"),
    (
        {"messages": [SAID[0], {"role": "assistant"}]},
        r"'messages'\[1\] lacks 'content'; expected \{\"role\", \"content\"\}",
    ),
    ({"messages": [{"content": "a"}]}, r"'messages'\[0\] lacks 'role'"),
    ({"messages": [SAID[0]]}, "no turn of the assistant"),
    ({"messages": [SAID[0], {"role": "assistant", "content": ""}]}, r"'messages'\[1\], the assistant's, is empty"),
    ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, r"content of 'messages'\[0\] is no text"),
    ({"messages": [{**SAID[1], "train": "yes"}]}, "'train' of .* expected true or false"),
    ({"messages": [{**SAID[1], "weight": -1}]}, "'weight' of .* is -1"),
    ({"messages": [{**SAID[1], "weight": float("nan")}]}, "'weight' of .* is nan"),
    ({"messages": [{"role": None, "content": "a"}]}, "the role of"),
    ({"text": ""}, "'text' is empty"),
    ({"input_ids": [1]}, "at least two integers"),
    ({"input_ids": [1, -1]}, "at least two integers"),
    ({"input_ids": [1, True]}, "at least two integers"),
    ({"input_ids": [1, 2], "labels": [2]}, "2 'input_ids' and 1 'labels'"),
    ({"input_ids": [1, 2], "labels": [1, 3]}, "label 3 beside id 2"),
    ({"input_ids": [1, 2], "weights": [1, float("inf")]}, "a weight is inf"),
    ({"chosen": "a", "rejected": "b"}, "the pair has no prompt"),
    ({"prompt": "q", "chosen": "a", "rejected": "a"}, "are the same"),
    ({"prompt": "q", "chosen": [SAID[0]], "rejected": "b"}, "'chosen' ends with a turn of 'user'"),
]


@pytest.mark.parametrize(("row", "message"), BAD)
def test_a_bad_row_says_where_what_and_what_was_expected(row: object, message: str) -> None:
    with pytest.raises(RowError, match=message) as caught:
        read_row(row, "data.jsonl:17")
    assert str(caught.value).startswith("data.jsonl:17: ")
    assert str(caught.value).endswith("; fix the row, or pass --data.on_bad_row skip")
    assert caught.value.where == "data.jsonl:17"


def test_reasons_carry_no_values_so_that_they_can_be_counted() -> None:
    reasons = set()
    for row in ({"messages": [SAID[0], {"role": "x"}]}, {"messages": [{"role": "y"}]}):
        with pytest.raises(RowError) as caught:
            read_row(row, "x:1")
        reasons.add(caught.value.reason)
    assert reasons == {"a message lacks 'content'"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = sorted(
    set().union(*(needed for needed, _ in KINDS.values())) | {"system", "labels", "weights", "tools", "input"}
)
MESSAGES = st.lists(st.dictionaries(st.sampled_from(["role", "content", "from", "value", "train", "weight"]), JSON))


@given(JSON | st.dictionaries(st.sampled_from(KEYS), JSON | MESSAGES, max_size=5))
def test_any_json_is_a_row_or_a_row_error(row: object) -> None:
    try:
        found = read_row(row, "x.jsonl:3")
    except RowError as error:
        found = error
    assert isinstance(found, Conversation | Text | Ids | Pair) or str(found).startswith("x.jsonl:3: ")

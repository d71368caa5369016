from typing import Any

import pytest

from llm_blocks import INERT_KEYS, ConfigKeys


def test_values_are_read_and_defaults_taken() -> None:
    keys = ConfigKeys({"a": 3, "b": 1, "c": False, "d": "text", "e": None})
    assert keys.integer("a") == 3
    assert keys.number("b") == 1
    assert keys.flag("c") is False
    assert keys.text("d") == "text"
    assert keys.integer("e", default=7) == keys.integer("absent", default=7) == 7
    keys.finish(inert=())


@pytest.mark.parametrize("value", [0, -1, 2**31, 1.5, "3", True, [3]])
def test_an_integer_is_a_whole_number_within_bounds(value: Any) -> None:
    with pytest.raises(ValueError, match=r"size in config\.json must be a whole number"):
        ConfigKeys({"size": value}).integer("size")


@pytest.mark.parametrize("value", [0, -0.5, float("inf"), float("nan"), "1", True, {}])
def test_a_number_is_positive_and_finite(value: Any) -> None:
    with pytest.raises(ValueError, match=r"eps in config\.json must be a number"):
        ConfigKeys({"eps": value}).number("eps")


@pytest.mark.parametrize("value", [1e300, 10**400])
def test_a_number_beyond_fp32_is_refused_by_every_reader(value: float) -> None:
    """Those passed, and a RuntimeError or OverflowError came from the first product with them."""
    keys = ConfigKeys({"one": value, "several": [1.0, value]})
    for read in (keys.number, keys.optional_number, keys.amount):
        with pytest.raises(ValueError, match=r"one in config\.json must be a number"):
            read("one")
    with pytest.raises(ValueError, match=r"several in config\.json must be a list of numbers above 0"):
        keys.numbers("several")


def test_a_flag_is_no_number() -> None:
    with pytest.raises(ValueError, match="must be true or false, got 1"):
        ConfigKeys({"tied": 1}).flag("tied")


def test_a_missing_key_is_named_with_its_likely_misspelling() -> None:
    with pytest.raises(ValueError, match="lacks the key 'hidden_size'; it has 'hiden_size'"):
        ConfigKeys({"hiden_size": 8}).integer("hidden_size")


def test_a_key_that_nobody_read_is_named() -> None:
    keys = ConfigKeys({"known": 1, "knwon": 2})
    keys.integer("known")
    with pytest.raises(ValueError, match="'knwon' = 2, which is not supported: did you mean 'known'"):
        keys.finish(inert=())


@pytest.mark.parametrize(("key", "known"), [("attention_multiplier", "attention_bias"), ("norm_2", "norm_1")])
def test_another_key_is_no_misspelling(key: str, known: str) -> None:
    keys = ConfigKeys({key: 1})
    keys.count(known, default=0)
    with pytest.raises(ValueError, match="which is not supported: it may change what the model computes"):
        keys.finish(inert=())
    with pytest.raises(ValueError, match=f"lacks the key '{known}'$"):
        ConfigKeys({key: 1}).integer(known)


def test_null_and_inert_keys_change_nothing() -> None:
    ConfigKeys({"sliding_window": None, "use_cache": True, "torch_dtype": "float16"}).finish(inert=INERT_KEYS)


def test_a_required_value_is_refused_with_the_reason() -> None:
    keys = ConfigKeys({"hidden_act": "gelu"})
    with pytest.raises(ValueError, match="hidden_act = 'gelu', which is not supported: it has silu"):
        keys.require("hidden_act", ("silu",), "it has silu")


LONG = "x" * 10**6


@pytest.mark.parametrize("raw", [{"size": LONG}, {"kind": LONG}, {LONG: 1}, {"other": [LONG]}])
def test_a_sentence_stays_short_whatever_the_file_holds(raw: dict[str, Any]) -> None:
    def read() -> None:
        keys = ConfigKeys(raw)
        keys.integer("size", default=1)
        keys.require("kind", (), "it has none")
        keys.finish(inert=())

    with pytest.raises(ValueError, match=r"config\.json") as caught:
        read()
    assert len(str(caught.value)) < 600


def test_lists_and_counts_are_read() -> None:
    keys = ConfigKeys({"a": [1, 2.5], "b": [0, 3], "c": ["x"], "d": 0, "window": None})
    assert keys.numbers("a") == (1.0, 2.5)
    assert keys.counts("b") == (0, 3)
    assert keys.texts("c") == ("x",)
    assert keys.count("d") == 0
    assert keys.texts("absent", default=("y",)) == ("y",)
    assert keys.nullable_integer("window", default=7) is None
    assert keys.nullable_integer("absent", default=7) == 7
    keys.finish(inert=())


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (ConfigKeys.numbers, [1, 0]),
        (ConfigKeys.numbers, [float("nan")]),
        (ConfigKeys.numbers, [True]),
        (ConfigKeys.numbers, "12"),
        (ConfigKeys.counts, [-1]),
        (ConfigKeys.counts, [1.5]),
        (ConfigKeys.texts, ["x", 1]),
        (ConfigKeys.texts, {"x": 1}),
        (ConfigKeys.count, -1),
        (ConfigKeys.count, True),
        (ConfigKeys.nullable_integer, 0),
    ],
)
def test_malformed_lists_and_counts_are_refused(read: Any, value: Any) -> None:
    more = {"default": None} if read is ConfigKeys.nullable_integer else {}
    with pytest.raises(ValueError, match=r"size in config\.json must be a "):
        read(ConfigKeys({"size": value}), "size", **more)

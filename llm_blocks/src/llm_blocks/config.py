"""Reading a config.json key by key, so that a missing, misspelt or unsupported key raises and is named."""

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from llm_blocks.spelling import misspelt

T = TypeVar("T")

# Keys that every family's config.json may carry and that change nothing in what a decoder computes: provenance,
# token ids and sampling defaults (read elsewhere), initialisation, dropout (inference has none), saving options.
INERT_KEYS = frozenset(
    {
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_flash_attn_2_enabled",
        "_name_or_path",
        "add_cross_attention",
        "architectures",
        "attention_dropout",
        "attn_implementation",
        "attn_pdrop",
        "auto_map",
        "bad_words_ids",
        "begin_suppress_tokens",
        "bos_token_id",
        "chunk_size_feed_forward",
        "cross_attention_hidden_size",
        "decoder_start_token_id",
        "diversity_penalty",
        "do_sample",
        "dtype",
        "early_stopping",
        "embd_pdrop",
        "encoder_no_repeat_ngram_size",
        "eos_token_id",
        "exponential_decay_length_penalty",
        "finetuning_task",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "id2label",
        "initializer_range",
        "is_decoder",
        "is_encoder_decoder",
        "label2id",
        "length_penalty",
        "max_length",
        "max_new_tokens",
        "min_length",
        "model_type",
        "neftune_noise_alpha",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_labels",
        "num_return_sequences",
        "output_attentions",
        "output_hidden_states",
        "output_scores",
        "pad_token_id",
        "prefix",
        "problem_type",
        "pruned_heads",
        "remove_invalid_values",
        "repetition_penalty",
        "resid_pdrop",
        "return_dict",
        "return_dict_in_generate",
        "sep_token_id",
        "suppress_tokens",
        "task_specific_params",
        "temperature",
        "tf_legacy_loss",
        "tie_encoder_decoder",
        "tokenizer_class",
        "top_k",
        "top_p",
        "torch_dtype",
        "torchscript",
        "transformers.js_config",
        "transformers_version",
        "typical_p",
        "unsloth_fixed",
        "unsloth_version",
        "use_bfloat16",
        "use_cache",
    }
)

MOST_LAYERS = 2**16
"""Layers of a model: hundreds of times what any known one has, and few enough to be listed."""

LARGEST = 2.0**127
"""What a number stays below, so that fp32 holds it."""

_SLIDING, _FULL = "sliding_attention", "full_attention"
_MISSING: Any = object()


class ConfigKeys:
    """A config.json that remembers which of its keys were read; `finish` raises if any is left.

    Every reader raises ValueError naming the key and its value; null counts as absent.
    """

    def __init__(self, raw: Mapping[str, Any], *, where: str = "config.json") -> None:
        self.raw = raw
        self.where = where
        self.read: set[str] = set()

    def integer(self, key: str, *, default: int = _MISSING) -> int:
        """A whole number from 1 to 2^31 - 1."""
        return self._or_default(key, self.optional_integer(key), default)

    def number(self, key: str, *, default: float = _MISSING) -> float:
        """A number above 0."""
        return self._or_default(key, self.optional_number(key), default)

    def flag(self, key: str, *, default: bool = _MISSING) -> bool:
        """true or false."""
        return self._or_default(key, self._get(key, bool, "true or false"), default)

    def text(self, key: str, *, default: str = _MISSING) -> str:
        """A string."""
        return self._or_default(key, self._get(key, str, "a string"), default)

    def optional_integer(self, key: str) -> int | None:
        """A whole number from 1 to 2^31 - 1, or None where the key is absent."""
        value = self._get(key, int, "a whole number")
        if value is not None and (isinstance(value, bool) or not 1 <= value < 2**31):
            raise self._wrong(key, value, "a whole number from 1 to 2^31 - 1")
        return value

    def nullable_integer(self, key: str, *, default: int | None) -> int | None:
        """A whole number from 1 to 2^31 - 1, or None where the file says null; the default where it says nothing."""
        return self.optional_integer(key) if key in self.raw else default

    def nullable_number(self, key: str, *, default: float | None) -> float | None:
        """A number above 0, or None where the file says null; the default where it says nothing."""
        return self.optional_number(key) if key in self.raw else default

    def optional_number(self, key: str) -> float | None:
        """A number above 0, or None where the key is absent."""
        value = self._get(key, (int, float), "a number")
        if value is not None and (isinstance(value, bool) or not 0 < value < LARGEST):
            raise self._wrong(key, value, "a number above 0")
        return value

    def count(self, key: str, *, default: int = _MISSING) -> int:
        """A whole number from 0 to 2^31 - 1."""
        value = self._get(key, int, "a whole number")
        if value is not None and (isinstance(value, bool) or not 0 <= value < 2**31):
            raise self._wrong(key, value, "a whole number from 0 to 2^31 - 1")
        return self._or_default(key, value, default)

    def amount(self, key: str, *, default: float = _MISSING) -> float:
        """A number from 0."""
        value = self._get(key, (int, float), "a number from 0")
        if value is not None and (isinstance(value, bool) or not 0 <= value < LARGEST):
            raise self._wrong(key, value, "a number from 0")
        return self._or_default(key, value, default)

    def numbers(self, key: str) -> tuple[float, ...]:
        """A list of numbers above 0."""
        values = self._sequence(key, (int, float), "a list of numbers above 0")
        if not all(0 < value < LARGEST for value in values):
            raise self._wrong(key, values, "a list of numbers above 0")
        return tuple(float(value) for value in values)

    def counts(self, key: str, *, default: Collection[int] = _MISSING) -> tuple[int, ...]:
        """A list of whole numbers from 0 to 2^31 - 1."""
        values = self._sequence(key, int, "a list of whole numbers", default)
        if not all(0 <= value < 2**31 for value in values):
            raise self._wrong(key, values, "a list of whole numbers from 0 to 2^31 - 1")
        return values

    def texts(self, key: str, *, default: Collection[str] = _MISSING) -> tuple[str, ...]:
        """A list of strings."""
        return self._sequence(key, str, "a list of strings", default)

    def optional_mapping(self, key: str) -> Mapping[str, Any] | None:
        """An object, or None where the key is absent."""
        return self._get(key, Mapping, "an object")

    def require(self, key: str, allowed: Collection[Any], why: str) -> None:
        """Raise unless the key is absent or has one of the allowed values; `why` ends the sentence."""
        self.read.add(key)
        value = self.raw.get(key)
        if value is not None and value not in allowed:
            raise ValueError(f"{self.where} has {key} = {_shown(value)}, which is not supported: {why}")

    def finish(self, *, inert: Collection[str]) -> None:
        """Raise ValueError for a key that was neither read nor is known to change nothing (null counts as absent)."""
        for key, value in self.raw.items():
            if key in self.read or key in inert or value is None:
                continue
            near = misspelt(key[:100], self.read)
            hint = f"did you mean {near!r}?" if near else "it may change what the model computes"
            raise ValueError(
                f"{self.where} has the key {_shown(key)} = {_shown(value)}, which is not supported: {hint}"
            )

    def require_unquantized(self) -> None:
        """Raise where the file says that its weights are quantized."""
        for key in ("quantization_config", "quantization"):  # the latter as MLX spells it
            self.require(key, (), "its weights are quantized; use the unquantized checkpoint")

    def _sequence(self, key: str, kind: Any, rule: str, default: Any = _MISSING) -> Any:
        value = self._get(key, (list, tuple), rule)
        if value is not None and any(isinstance(each, bool) or not isinstance(each, kind) for each in value):
            raise self._wrong(key, value, rule)
        return tuple(self._or_default(key, value, default))

    def _get(self, key: str, kind: Any, rule: str) -> Any:
        self.read.add(key)
        value = self.raw.get(key)
        if value is not None and not isinstance(value, kind):
            raise self._wrong(key, value, rule)
        return value

    def _or_default(self, key: str, value: T | None, default: T) -> T:
        if value is not None:
            return value
        if default is _MISSING:
            near = misspelt(key, self.raw.keys() - self.read)
            hint = f"; it has {near!r}, which may be a misspelling" if near else ""
            raise ValueError(f"{self.where} lacks the key {key!r}{hint}")
        return default

    def _wrong(self, key: str, value: Any, rule: str) -> ValueError:
        return ValueError(f"{key} in {self.where} must be {rule}, got {_shown(value)}")


def sliding_layers(keys: ConfigKeys, num_layers: int, *, every: int) -> tuple[bool, ...]:
    """Which layers have a sliding window, by `layer_types`; without that key all do but each `every`-th."""
    if num_layers > MOST_LAYERS:
        raise ValueError(f"{keys.where} asks for {num_layers} layers, which is not supported: the limit is 2^16")
    pattern = layer_types([layer % every != 0 for layer in range(1, num_layers + 1)])
    kinds = keys.texts("layer_types", default=pattern)
    strange = next((kind for kind in kinds if kind not in (_SLIDING, _FULL)), None)
    if strange is not None:
        raise ValueError(f"layer_types has {_shown(strange)}, which is not supported: {_SLIDING} and {_FULL} are")
    if len(kinds) != num_layers:
        raise ValueError(f"layer_types has {len(kinds)} entries, but num_hidden_layers is {num_layers}")
    return tuple(kind == _SLIDING for kind in kinds)


def require_heads(num_heads: int, num_kv_heads: int, head_dim: int | None = None) -> None:
    """Raise ValueError unless the heads share the kv heads evenly and, where all of a head turns, it turns in pairs."""
    if num_heads % num_kv_heads:
        raise ValueError(f"{num_heads} heads can't share {num_kv_heads} kv heads evenly")
    if head_dim is not None and (head_dim < 2 or head_dim % 2):
        raise ValueError(f"head_dim must be even, for heads turn in pairs of dimensions, got {head_dim}")


def require_experts(experts_per_token: int, num_experts: int) -> None:
    """Raise ValueError for a token that would go through more experts than there are."""
    if experts_per_token > num_experts:
        raise ValueError(f"a token can't go through {experts_per_token} of {num_experts} experts")


def layer_types(sliding: Collection[bool]) -> list[str]:
    """The value of `layer_types` that `sliding_layers` reads back."""
    return [_SLIDING if each else _FULL for each in sliding]


def _shown(value: object) -> str:
    """A value for a sentence: a stranger's file may hold megabytes there."""
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + "…"

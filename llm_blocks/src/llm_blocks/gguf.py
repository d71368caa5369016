"""How a family's checkpoints become GGUF, the file that llama.cpp runs: what has to be said of it, as plain data.

llama.cpp knows architectures under names of its own, each with metadata of its own and a layout of the weights. A
package that has such a family registers a function from its Config to a `GgufForm` in the entry point group
`llm_blocks.gguf` (key: `model_type`). Nothing of the format is imported here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from typing import Any, TypeAlias

from torch import Tensor

from llm_blocks.rope import attention_scale, rope_frequencies
from llm_blocks.rope_config import Rope, yarn_scale

GROUP = "llm_blocks.gguf"
_MOST_LAYERS = 512

Value: TypeAlias = str | bool | int | float | tuple[bool, ...]
Change: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class GgufForm:
    """A checkpoint as llama.cpp has it.

    `values` are the metadata under their keys without the architecture's name: "attention.head_count". `changes` says
    what is done to tensors: a pattern ("*.q_proj.*") of Hugging Face's names -> the change or, where one is several
    there, the name that takes the place of its module's -> the change that makes it. The first pattern counts, and a
    change must work on the meta device, too. `renames` are parts of Hugging Face's names that are spelt otherwise
    before the name is looked up. `factors` are tensors that follow from the configuration, by GGUF's names. With
    `separate_head` llama.cpp wants the head's tensor even where it is the embedding. `notes` tell the user what the
    file has otherwise than the checkpoint.
    """

    architecture: str
    values: Mapping[str, Value]
    changes: Mapping[str, Change | Mapping[str, Change]] = field(default_factory=dict)
    renames: Mapping[str, str] = field(default_factory=dict)
    factors: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    separate_head: bool = False
    notes: tuple[str, ...] = ()


def gguf_form(config: Any) -> GgufForm:
    """What the family of this Config says of it; ValueError where llama.cpp doesn't run such a model."""
    entries = {entry.name: entry for entry in entry_points(group=GROUP)}
    if config.model_type not in entries:
        known = ", ".join(sorted(entries)) or "none"
        raise inexpressible(f"nothing tells how llama.cpp has the model_type {config.model_type!r}, only for {known}")
    if config.num_layers > _MOST_LAYERS:
        raise inexpressible(f"llama.cpp has at most {_MOST_LAYERS} layers, this model {config.num_layers}")
    return entries[config.model_type].load()(config)


def inexpressible(why: str) -> ValueError:
    """The error for a model that llama.cpp can't run as it is."""
    return ValueError(f"this model can't be written as GGUF: {why}; `llm export hf` writes it for other programs")


def gguf_sizes(config: Any, *, num_kv_heads: int, head_dim: int) -> dict[str, Value]:
    """The metadata that every decoder has, of a Config with the usual names of sizes."""
    return {
        "vocab_size": config.vocab_size,
        "context_length": config.max_positions,
        "embedding_length": config.dim,
        "block_count": config.num_layers,
        "feed_forward_length": config.hidden_dim,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": num_kv_heads,
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
    }


def within_window(form: GgufForm, window: int | None) -> GgufForm:
    """The form of a model with sliding windows whose architecture in llama.cpp has none: it ends where they matter."""
    context = form.values["context_length"]
    if window is None or not isinstance(context, int) or window >= context:
        return form
    note = (
        f"the file says a context of {window:,} positions instead of {context:,}: beyond its sliding window this model "
        "must not see everything, and llama.cpp lets it"
    )
    return replace(form, values={**form.values, "context_length": window}, notes=(*form.notes, note))


def gguf_rope(
    rope: Rope, head_dim: int, *, factors: bool = False
) -> tuple[dict[str, Value], dict[str, tuple[float, ...]]]:
    """Metadata and factor tensors of rotary embeddings; ValueError for what llama.cpp doesn't have.

    `factors` says whether this architecture in llama.cpp reads a factor for each pair of dimensions.
    """
    values: dict[str, Value] = {
        "rope.freq_base": rope.theta,
        "rope.dimension_count": int(head_dim * rope.partial),
    }
    if rope.kind == "dynamic":
        raise inexpressible("llama.cpp has no dynamic rotary embeddings, whose base grows with the text")
    if rope.kind in ("llama3", "longrope") and not factors:
        raise inexpressible(f"llama.cpp has no rotary embeddings of the kind {rope.kind} for this architecture")
    if rope.kind == "linear":
        values |= {"rope.scaling.type": "linear", "rope.scaling.factor": rope.factor}
    if rope.kind == "yarn":
        values |= _yarn(rope)
    if rope.kind == "longrope":
        values |= _longrope(rope)
    return values, _factors(rope, head_dim)


def _factors(rope: Rope, head_dim: int) -> dict[str, tuple[float, ...]]:
    """What llama.cpp divides the plain frequencies by."""
    if rope.kind == "longrope":
        return {"rope_factors_long": rope.long_factor, "rope_factors_short": rope.short_factor}
    if rope.kind == "llama3":
        plain, bent = (rope_frequencies(each, head_dim) for each in (replace(rope, kind="default"), rope))
        return {"rope_freqs": tuple((plain / bent).tolist())}
    return {}


def _longrope(rope: Rope) -> dict[str, Value]:
    short, long = (
        attention_scale(rope, lengths=[length])
        for length in (rope.original_max_positions, rope.original_max_positions + 1)
    )
    if short != long:
        raise inexpressible(f"llama.cpp has one factor of attention for LongRoPE, this one has {short} and {long}")
    return {
        "rope.scaling.type": "longrope",
        "rope.scaling.original_context_length": rope.original_max_positions,
        "rope.scaling.attn_factor": short[0] if isinstance(short, list) else short,
    }


def _yarn(rope: Rope) -> dict[str, Value]:
    if (rope.beta_fast, rope.beta_slow, rope.truncate) != (32, 1, True):
        got = f"{rope.beta_fast:g}, {rope.beta_slow:g} and {rope.truncate}"
        raise inexpressible(f"llama.cpp has YaRN with beta_fast 32, beta_slow 1 and truncate true alone, not {got}")
    scale = attention_scale(rope)
    assert isinstance(scale, float)  # it depends on lengths for LongRoPE alone
    multiple = scale / yarn_scale(rope.factor, 1.0)  # llama.cpp has the usual factor itself
    return {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": rope.factor,
        "rope.scaling.original_context_length": rope.original_max_positions,
        **({} if multiple == 1 else {"rope.scaling.attn_factor": multiple}),
    }

"""What the config.json of several Qwens says alike."""

from llm_blocks import ConfigKeys, Rope, extended_length

_FULL, _WINDOW = "full_attention", "sliding_attention"
_TRAINED = "original_max_position_embeddings"


def windowed_layers(keys: ConfigKeys, num_layers: int) -> frozenset[int]:
    """The layers that have the window: those that `layer_types` names, else all from `max_window_layers` on."""
    used = keys.flag("use_sliding_window", default=False)
    first, kinds = keys.count("max_window_layers", default=28), keys.texts("layer_types", default=())
    if not kinds:
        used = used and keys.nullable_integer("sliding_window", default=4096) is not None
        if used and num_layers >= 10**5:
            raise ValueError(f"num_hidden_layers is {num_layers}, but names of tensors count to 99999")
        return frozenset(range(first, num_layers)) if used else frozenset()
    if len(kinds) != num_layers or not {_FULL, "attention", _WINDOW}.issuperset(kinds):
        got = str(kinds)[:200]
        raise ValueError(f"layer_types needs {_FULL} or {_WINDOW} for each of {num_layers} layers, got {got}")
    windowed = frozenset(layer for layer, kind in enumerate(kinds) if kind == _WINDOW)
    if windowed and not used:
        raise ValueError(f"layer_types has {_WINDOW}, but use_sliding_window is not true; keep what the model had")
    return windowed


def context_length(keys: ConfigKeys, length: int, rope: Rope) -> int:
    """The context, in positions, where the file says `length`."""
    chunks = keys.optional_mapping("dual_chunk_attention_config")
    if chunks is not None:
        # The 1M variants were trained with plain attention up to this many positions. For more they change distances
        # between far chunks (arXiv 2402.17463, 2501.15383), which is not done here, so the context ends there.
        return min(length, ConfigKeys(chunks, where="dual_chunk_attention_config").integer(_TRAINED))
    return extended_length(length, rope)

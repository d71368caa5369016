"""The "pack-quantized" form of compressed-tensors, which llm-compressor writes and vLLM and transformers read.

Shapes: N rows (outputs), K columns (inputs), G groups of columns. weight_packed (N, K/8) int32 has eight inputs of an
output in a number, the first in its lowest bits (four of 8 bits); the last number of a row may be filled up.
weight_scale (N, G); weight_zero_point (N/8, G) int32 has eight outputs of a group in the same way, and is there for
asymmetric weights alone; weight_shape (2,) is N and K. Numbers with a sign are stored more by the half of their range.
weight = scale * (value - zero). weight_g_idx (K,) is the group of each input in files of releases that had
actorder "group". Source: compressed_tensors 0.20.0, against which the tests compare both ways.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from llm_quant.canonical import Int4, Int8, Quantized, pack_nibbles, unpack_nibbles
from llm_quant.formats.base import (
    SCALES,
    WHOLE,
    Entry,
    Format,
    Layer,
    by_group,
    int4_of,
    int8_of,
    to_bytes,
    to_words,
)
from llm_quant.formats.settings import Settings, shown

PACK_QUANTIZED = "pack-quantized"
# What doesn't change the weights: which layers are quantized is told by their tensors' names.
INERT = frozenset(
    {"dequantize", "global_compression_ratio", "ignore", "run_compressed", "use_optimized_inference", "version"}
)
INERT_OF_WEIGHTS = frozenset({"observer", "observer_kwargs", "scale_dtype", "zp_dtype"})


@dataclass(frozen=True, kw_only=True)
class CompressedTensors(Format):
    """Layers of compressed-tensors: symmetric ones have no zero points; `by_g_idx` ones have groups in any order."""

    method: ClassVar[str] = "compressed-tensors"
    packed: ClassVar[str] = "weight_packed"

    symmetric: bool
    by_g_idx: bool = False

    @property
    def suffixes(self) -> tuple[str, ...]:
        return ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx")

    def entries(self, n: int, k: int) -> dict[str, Entry]:
        count, some = self.groups(n, k), 32 // self.bits
        found = {
            "weight_packed": Entry(shape=(n, -(-k // some)), dtypes=(torch.int32,)),
            "weight_scale": Entry(shape=(n, count), dtypes=SCALES),
            "weight_shape": Entry(shape=(2,), dtypes=WHOLE),
        }
        if not self.symmetric:
            found["weight_zero_point"] = Entry(shape=(-(-n // some), count), dtypes=(torch.int32,))
        if self.by_g_idx:
            found["weight_g_idx"] = Entry(shape=(k,), dtypes=WHOLE)
        return found

    def decode(self, tensors: Mapping[str, Tensor], n: int, k: int) -> Layer:
        stated = tensors["weight_shape"].tolist()
        if stated != [n, k]:
            raise ValueError(f"its weight_shape says {stated}, the model {[n, k]}")
        some, scale = to_bytes(tensors["weight_packed"]), tensors["weight_scale"]
        if self.bits == 8:
            return Layer(weight=int8_of(some[:, :k], scale, None))
        zero = None if self.symmetric else unpack_nibbles(to_bytes(tensors["weight_zero_point"].t()))[:, :n].t()
        weight = int4_of(some[:, : k // 2], scale, zero)
        return by_group(weight, tensors["weight_g_idx"]) if self.by_g_idx else Layer(weight=weight)

    def encode(self, weight: Quantized) -> dict[str, Tensor]:
        """The tensors of a layer by suffix: what `decode` gives the same weight for, byte by byte.

        ValueError for a zero of 16, which has no place in 4 bits, and for a weight of another kind.
        """
        if isinstance(weight, Int8) != (self.bits == 8) or (isinstance(weight, Int4) and self.symmetric):
            raise ValueError(f"a weight of the kind {type(weight).__name__} is no {self}")
        shape = torch.tensor(weight.shape)
        if isinstance(weight, Int8):
            packed = to_words(weight.value.view(torch.uint8) ^ 128)
            return {"weight_packed": packed, "weight_scale": weight.scale[:, None], "weight_shape": shape}
        if bool((weight.zero > 15).any()):
            raise ValueError("a zero point of 16 can't be stored in 4 bits")
        zero = weight.zero.t()  # (G, N)
        zero = pack_nibbles(torch.nn.functional.pad(zero, (0, zero.size(1) % 2)))
        return {
            "weight_packed": to_words(weight.value),
            "weight_scale": weight.scale,
            "weight_zero_point": to_words(zero).t().contiguous(),
            "weight_shape": shape,
        }

    def to_hf(self, ignore: list[str]) -> dict[str, Any]:
        """The quantization_config of a config.json whose linear layers are stored so, all but those of `ignore`."""
        weights = {
            "num_bits": self.bits,
            "type": "int",
            "symmetric": self.symmetric,
            "strategy": "channel" if self.group_size is None else "group",
            "group_size": self.group_size,
            "dynamic": False,
        }
        group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
        return {
            "quant_method": self.method,
            "format": PACK_QUANTIZED,
            "quantization_status": "compressed",
            "config_groups": {"group_0": group},
            "ignore": ignore,
            "kv_cache_scheme": None,
        }


def parse(settings: Settings) -> CompressedTensors:
    """What a quantization_config of the method compressed-tensors says. ValueError names the key."""
    settings.require("format", (PACK_QUANTIZED,), f"the form {PACK_QUANTIZED} is read")
    if settings.get("format") is None:
        raise ValueError(f"{settings.where} lacks the key 'format'; the form {PACK_QUANTIZED} is read")
    settings.require("quantization_status", ("compressed",), "its weights are not the compressed ones")
    settings.require_empty("kv_cache_scheme", "the cache would be rounded too")
    for key in ("sparsity_config", "moe_sparsity_config"):
        _require_dense(settings, key)
    settings.require_empty("transform_config", "activations would be transformed too")
    groups = settings.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise settings.refused("config_groups", "it says how the weights are stored")
    schemes = {_group(raw, f"config_groups.{shown(name)[1:-1]}") for name, raw in groups.items()}
    if len(schemes) > 1:
        raise settings.refused("config_groups", "groups of layers that differ are not read")
    settings.finish(inert=INERT)
    return schemes.pop()


def _require_dense(settings: Settings, key: str) -> None:
    """Refuse sparse weights; some files say that theirs are dense."""
    value = settings.get(key)
    if not (isinstance(value, Mapping) and value.get("format") == "dense"):
        settings.require_empty(key, "sparse weights are not read")


def _group(raw: object, where: str) -> CompressedTensors:
    """One of the config_groups."""
    group = Settings(raw, where)
    for key in ("input_activations", "output_activations"):
        group.require_empty(key, "activations would be rounded too")
    group.require("format", (PACK_QUANTIZED,), f"the form {PACK_QUANTIZED} is read")
    weights = Settings(group.get("weights"), f"{where}.weights")
    group.finish(inert={"targets"})
    found = _weights(weights)
    weights.finish(inert=INERT_OF_WEIGHTS)
    return found


def _weights(weights: Settings) -> CompressedTensors:
    bits = weights.bits("num_bits")
    weights.require("type", ("int",), "weights of whole numbers are read")
    weights.require_empty("dynamic", "weights are rounded once")
    weights.require_empty("block_structure", "blocks are not read")
    weights.require("actorder", (False, "weight", "static", "group", "dynamic"), "its order of inputs is not known")
    strategy = weights.get("strategy")
    if strategy is None:
        raise ValueError(f"{weights.where} lacks the key 'strategy'; use the checkpoint as its repository has it")
    weights.require("strategy", ("group", "channel"), "a scale for each row or for groups of a row is read")
    group_size = weights.group_size("group_size") if strategy == "group" else None
    if strategy == "channel":
        weights.require("group_size", (-1,), "a scale for each row has no groups")
    symmetric = weights.flag("symmetric", default=True)
    if bits == 8 and group_size is not None:
        raise weights.refused("group_size", "8 bits are read with a scale for each row alone")
    if bits == 8 and not symmetric:
        raise weights.refused("symmetric", "8 bits are read with symmetric weights alone")
    by_g_idx = weights.get("actorder") in ("group", "dynamic") and group_size is not None
    return CompressedTensors(bits=bits, group_size=group_size, symmetric=symmetric, by_g_idx=by_g_idx)

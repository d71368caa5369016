"""What every format of stored layers tells, and what they share.

Shapes: N rows (outputs), K columns (inputs), G groups of columns that share a scale.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from llm_quant.bnb import Bit4, Bit4Linear, Bit8, Bit8Linear, BnbLinear
from llm_quant.canonical import Int4, Int8, Quantized, pack_nibbles, unpack_nibbles
from llm_quant.linear import QuantizedLinear

SCALES = (torch.bfloat16, torch.float16, torch.float32)
WHOLE = (torch.int32, torch.int64)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A tensor that a stored layer has: its shape, the dtypes that it may have, and whether it may be absent.

    One that is `text` is of any length from 1 to the one of its shape.
    """

    shape: tuple[int, ...]
    dtypes: tuple[torch.dtype, ...]
    optional: bool = False
    text: bool = False

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor may have this shape."""
        return shape == self.shape or (self.text and len(shape) == 1 and 1 <= shape[0] <= self.shape[0])


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A stored layer: its weight, which is canonical or one of bitsandbytes'.

    `order` (K,) int64 is the order of inputs in which the weight's columns stand, None where it is their own: the
    product is that of `x.index_select(-1, order)`.
    """

    weight: Quantized | Bit4 | Bit8
    order: Tensor | None = None

    def linear(self, bias: Tensor | None = None) -> QuantizedLinear | BnbLinear:
        """The layer as a module, in the layout that it is stored in."""
        if isinstance(self.weight, Bit4):
            return Bit4Linear(self.weight, bias)
        if isinstance(self.weight, Bit8):
            return Bit8Linear(self.weight, bias)
        return QuantizedLinear(self.weight, bias, order=self.order)


@dataclass(frozen=True, kw_only=True)
class Format(ABC):
    """How the layers of a checkpoint are stored, all alike: `bits` of a weight, inputs in a group (None: all of them).

    `packed` is the tensor by which a quantized layer is known; `empty_biases` tells whether layers without a bias may
    have one of zeros.
    """

    method: ClassVar[str]
    packed: ClassVar[str]
    empty_biases: ClassVar[bool] = False

    bits: int
    group_size: int | None

    def __str__(self) -> str:
        groups = "a scale for each row" if self.group_size is None else f"groups of {self.group_size}"
        return f"int{self.bits}, {groups} ({self.method})"

    @property
    def kind(self) -> str:
        """What a weight is, in a word."""
        return f"int{self.bits}"

    @property
    @abstractmethod
    def suffixes(self) -> tuple[str, ...]:
        """What the names of a layer's tensors may end in, in the place of "weight"."""

    @abstractmethod
    def entries(self, n: int, k: int) -> dict[str, Entry]:
        """The tensors of a layer (N, K) by suffix. ValueError for a size that the format can't have."""

    @abstractmethod
    def decode(self, tensors: Mapping[str, Tensor], n: int, k: int) -> Layer:
        """The layer (N, K) that `tensors` are, which agree with `entries`; ValueError for contents that can't be."""

    def groups(self, n: int, k: int) -> int:
        """How many groups a row has. ValueError where its columns are no whole groups, or no whole bytes."""
        size = k if self.group_size is None else self.group_size
        if k % size:
            raise ValueError(f"{k} inputs are no whole groups of {size}")
        if self.bits == 4 and k % 2:
            raise ValueError(f"{k} inputs of 4 bits are no whole bytes")
        return k // size


def to_bytes(words: Tensor) -> Tensor:
    """The bytes of int32 numbers (..., W), the lowest first: (..., 4 W) uint8."""
    # flat first: a dimension of 1 may have any stride, which view refuses
    return words.reshape(-1).view(torch.uint8).view(*words.shape[:-1], 4 * words.size(-1))


def to_words(some: Tensor) -> Tensor:
    """int32 numbers (..., W) of bytes (..., at most 4 W), the last filled up with zeros."""
    whole = torch.nn.functional.pad(some, (0, -some.size(-1) % 4))
    return whole.reshape(-1).view(torch.int32).view(*whole.shape[:-1], whole.size(-1) // 4)


def int8_of(whole: Tensor, scale: Tensor, zero: Tensor | None) -> Int8:
    """Numbers of 0 to 255 (N, K) uint8 and scales (N, 1) as `Int8`; ValueError for a zero (N, 1) other than 128."""
    if zero is not None and bool((zero != 128).any()):
        raise ValueError("its zero points are not all 128, and 8 bits are read with symmetric weights alone")
    return Int8(value=(whole ^ 128).contiguous().view(torch.int8), scale=compact(scale[:, 0]))


def int4_of(value: Tensor, scale: Tensor, zero: Tensor | None) -> Int4:
    """Bytes of two columns (N, K/2), scales (N, G) and zeros (N, G) or None for the middle, as `Int4`."""
    if zero is None:
        zero = torch.full(scale.shape, 8, dtype=torch.uint8, device=scale.device)
    return Int4(value=value.contiguous(), scale=compact(scale), zero=zero.contiguous())


def compact(scale: Tensor) -> Tensor:
    """Scales in the 16 bits that hold them exactly, if there are such: the kernels read those."""
    if scale.dtype == torch.float32:
        for dtype in (torch.bfloat16, torch.float16):
            short = scale.to(dtype)
            if torch.equal(short.float(), scale):
                return short.contiguous()
    return scale.contiguous()


def by_group(weight: Int4, groups_of: Tensor) -> Layer:
    """The layer of a weight whose column k has the scale of group `groups_of[k]` (K,), in any order of columns.

    ValueError unless each group has as many columns as the others, and nothing is out of range.
    """
    k, count, groups_of = weight.shape[1], weight.scale.size(1), groups_of.long()
    if bool(((groups_of < 0) | (groups_of >= count)).any()):
        raise ValueError(f"its g_idx names groups beyond the {count} that there are")
    if torch.equal(groups_of, torch.arange(k, device=groups_of.device) // weight.group):
        return Layer(weight=weight)
    if bool((groups_of.bincount(minlength=count) != weight.group).any()):
        raise ValueError(f"its g_idx doesn't give each group {weight.group} inputs")
    order = groups_of.argsort(stable=True)
    value = pack_nibbles(unpack_nibbles(weight.value)[:, order])
    return Layer(weight=replace(weight, value=value), order=order)

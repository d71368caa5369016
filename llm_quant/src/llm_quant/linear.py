"""Linear layers whose weights are whole numbers, and one that reads bf16 weights by the kernels.

Shapes: M rows of x, N outputs, K inputs, G groups of inputs.
"""

from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_quant import aten, blocks, native, operations, ops, tiles
from llm_quant.blocks import Blocks
from llm_quant.canonical import Int4, Int8, Quantized
from llm_quant.memory import Arena
from llm_quant.moving import bits_kept

BF16_LEVELS = ("avx512",)  # where the kernels read bf16 weights faster than torch's own product; not measured on Arm
FEW_BF16 = 8  # rows of x up to which every level of kernels reads bf16 weights faster than torch's product does
_NAMES = ("value", "scale", "zero")


class QuantizedLinear(nn.Module):
    """x W^T + b (..., K) -> (..., N), for a W that is `Int8` or `Int4`.

    With `order` (K,) the columns of W belong to the inputs `order`, in which some files have them sorted by group.

    The weight is kept in one layout: canonical, in blocks for the kernels of the CPU, or in tiles for torch's int4
    product on CUDA (`prepare`). `weight` gives it back unchanged from each. Gradients reach x, never the weight.
    """

    value: Tensor
    scale: Tensor
    zero: Tensor | None
    tile_scales: Tensor | None
    bias: Tensor | None
    order: Tensor | None

    def __init__(self, weight: Quantized, bias: Tensor | None = None, *, order: Tensor | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.kind = "int8" if isinstance(weight, Int8) else "int4"
        self.group_size = self.in_features if isinstance(weight, Int8) else weight.group
        self.blocks: Blocks | None = None
        for name in _NAMES:
            self.register_buffer(name, getattr(weight, name, None))
        self.register_buffer("tile_scales", None, persistent=False)
        self.register_buffer("bias", None if bias is None else bias.detach().float())
        self.register_buffer("order", order)

    @property
    def weight(self) -> Quantized:
        """The canonical weight; computed where it lies in blocks."""
        if self.blocks is not None:
            return blocks.from_blocks(self.blocks)
        if self.tile_scales is not None:
            assert self.zero is not None
            value = tiles.from_tiles(self.value, self.out_features, self.in_features, self.group_size)
            return Int4(value=value, scale=self.scale, zero=self.zero)
        if self.zero is None:
            return Int8(value=self.value, scale=self.scale)
        return Int4(value=self.value, scale=self.scale, zero=self.zero)

    def prepare(self, arena: Arena | None = None) -> Self:
        """Put the weight into the layout that is fastest where it is, in the memory of `arena` where there is one.

        Where there are no kernels nothing changes.
        """
        weight = self.weight
        if self.value.device.type == "cpu" and native.level() is not None and blocks.fits(weight):
            self._keep(blocks.to_blocks(weight, arena))
        elif isinstance(weight, Int4) and self.tile_scales is None and tiles.usable(weight):
            self.value, self.tile_scales = tiles.to_tiles(weight.value), tiles.scales_and_zeros(weight)
        return self

    def unprepare(self) -> Self:
        """Put the weight into the canonical layout, in which it may be moved to another device."""
        weight, self.blocks, self.tile_scales = self.weight, None, None
        for name in _NAMES:
            setattr(self, name, getattr(weight, name, None))
        return self

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features)
        if self.order is not None:
            rows = rows.index_select(1, self.order)
        if rows.requires_grad and torch.is_grad_enabled():
            y = _Product.apply(rows, self)
        else:
            y = self._product(rows)
        return y.view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        group = f", group_size={self.group_size}" if self.kind == "int4" else ""
        layout = "blocks" if self.blocks else "canonical" if self.tile_scales is None else "tiles"
        bias = self.bias is not None
        return f"{self.in_features}, {self.out_features}, bias={bias}, {self.kind}{group}, {layout}"

    def _product(self, x: Tensor) -> Tensor:
        if self.tile_scales is not None:
            y = tiles.linear(x, self.value, self.tile_scales, self.group_size)
            return y if self.bias is None else y + self.bias.to(y.dtype)
        if self.blocks is None:
            return aten.linear(x, self.weight, self.bias)
        taken = x if x.dtype in (torch.float32, torch.bfloat16) else x.float()
        return _in_blocks(taken.contiguous(), self.blocks, self.bias).to(x.dtype)

    def _keep(self, packed: Blocks) -> None:
        self.blocks = packed
        self.value, self.scale, self.zero = packed.weight, packed.scale, packed.zero

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Move the tensors and never convert them, whatever `module.to(dtype)` asks of the others."""
        prepared = self.blocks is not None or self.tile_scales is not None
        if prepared:
            self.unprepare()
        moved = super()._apply(bits_kept(fn), recurse)
        return moved.prepare() if prepared else moved


class KernelLinear(nn.Linear):
    """A Linear in bf16 on the CPU, whose product is that of the kernels where they are the faster ones."""

    def forward(self, input: Tensor) -> Tensor:
        return _by_kernels(input, self.weight, self.bias)


def kernel_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., K) times the transpose of a weight (N, K), plus a bias (N,), as F.linear: (..., N).

    By the kernels where they `read_bf16` and are the faster ones for that x, and where nothing learns from it.
    """
    return _by_kernels(x, weight, bias) if read_bf16(weight) else F.linear(x, weight, bias)


def read_bf16(weight: Tensor) -> bool:
    """Whether the kernels read a weight (N, K) faster than torch's product does."""
    fits = weight.size(0) % 16 == 0 and weight.is_contiguous()
    return weight.dtype == torch.bfloat16 and weight.device.type == "cpu" and fits and native.level() in BF16_LEVELS


def _by_kernels(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    rows, k = x.numel() // weight.size(1), weight.size(1)
    few = rows <= FEW_BF16 or (not torch.compiler.is_compiling() and k % 2 == 0 and native.takes_many())
    usable = few and x.dtype == weight.dtype == torch.bfloat16 and x.device.type == "cpu"
    if not usable or (torch.is_grad_enabled() and _learns(x, weight, bias)):
        return F.linear(x, weight, bias)
    flat = x.reshape(rows, k).contiguous()
    y = _in_bf16(flat, weight, None if bias is None else bias.float())
    return y.view(*x.shape[:-1], weight.size(0))


def _learns(*tensors: Tensor | None) -> bool:
    return any(each is not None and each.requires_grad for each in tensors)


def _in_blocks(x: Tensor, b: Blocks, bias: Tensor | None) -> Tensor:
    if torch.compiler.is_compiling():  # an operator, which costs more to call
        return ops.blocks_linear(x, b.weight, b.scale, b.zero, bias, b.kind, b.rows, b.columns, b.group)
    return blocks.linear(x, b, bias)


def _in_bf16(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if torch.compiler.is_compiling():
        return ops.bf16_linear(x, weight, bias)
    y = native.linear(x, weight, kind=native.BF16, n=weight.size(0), group=weight.size(1), bias=bias)
    if operations.here.recorder is not None:
        operations.note_linear(x, y, native.BF16, weight.size(1), (weight, None, None, bias))
    return y


class _Product(torch.autograd.Function):
    """The product of a `QuantizedLinear`, whose gradient goes through the dequantized weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer = layer
        return layer._product(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] @ ctx.layer.weight.dequantize(grads[0].dtype), None

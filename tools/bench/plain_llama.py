"""The baseline of gpu.py: the least Llama with a static cache, as gpt-fast (github.com/meta-pytorch/gpt-fast) has it,
with nothing of this project but the quantized layers' arithmetic. One row, positions as a tensor, one compiled step.

Shapes: T time, C width, H heads, K kv heads, D head size, S slots of the cache, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_quant import round_int4, round_int8, tiles

GROUP = 64
EPS = 1e-5


class Product(nn.Module):
    """A random matrix (N, K) in one of the precisions; int4 by torch's own product for it."""

    def __init__(self, inputs: int, outputs: int, precision: str, device: torch.device) -> None:
        super().__init__()
        weight = torch.empty(outputs, inputs, dtype=torch.bfloat16, device=device).normal_(0, 0.02)
        self.precision = precision
        if precision == "int8":
            rounded = round_int8(weight)
            self.register_buffer("weight", rounded.value)
            self.register_buffer("scale", rounded.scale.to(torch.bfloat16))
        elif precision == "int4":
            packed = round_int4(weight, GROUP)
            self.register_buffer("weight", tiles.to_tiles(packed.value))
            self.register_buffer("scale", tiles.scales_and_zeros(packed))
        else:
            self.register_buffer("weight", weight)
            self.register_buffer("scale", None)

    def forward(self, x: Tensor) -> Tensor:
        weight: Any = self.weight
        scale: Any = self.scale
        if self.precision == "int8":
            return F.linear(x, weight.to(x.dtype)) * scale
        if self.precision == "int4":
            return tiles.linear(x, weight, scale, GROUP)
        return F.linear(x, weight)


class Layer(nn.Module):
    def __init__(self, shape: dict[str, int], slots: int, make: Callable[[int, int], Product], device: Any) -> None:
        super().__init__()
        width, hidden = shape["hidden_size"], shape["intermediate_size"]
        self.heads, self.kv_heads = shape["num_attention_heads"], shape["num_key_value_heads"]
        self.dim = width // self.heads
        self.qkv = make(width, (self.heads + 2 * self.kv_heads) * self.dim)
        self.out, self.gate, self.up, self.down = (
            make(*size) for size in ((width, width), (width, hidden), (width, hidden), (hidden, width))
        )
        for name in ("k", "v"):
            cache = torch.zeros(1, self.kv_heads, slots, self.dim, dtype=torch.bfloat16, device=device)
            self.register_buffer(name, cache)
        for name in ("norm_1", "norm_2"):
            self.register_buffer(name, torch.ones(width, dtype=torch.bfloat16, device=device))

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self._attend(_norm(x, self.norm_1), positions, mask, turn)
        y = _norm(x, self.norm_2)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))

    def _attend(self, x: Tensor, positions: Tensor, mask: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        parts = self.qkv(x).view(1, -1, self.heads + 2 * self.kv_heads, self.dim).transpose(1, 2)
        q, k, v = parts.split([self.heads, self.kv_heads, self.kv_heads], dim=1)  # (1, H or K, T, D)
        keys: Any = self.k
        values: Any = self.v
        keys.index_copy_(2, positions, _turned(k, turn))
        values.index_copy_(2, positions, v)
        groups = self.heads // self.kv_heads
        all_k, all_v = (each.repeat_interleave(groups, dim=1) for each in (keys, values))
        y = F.scaled_dot_product_attention(_turned(q, turn), all_k, all_v, attn_mask=mask)
        return self.out(y.transpose(1, 2).reshape(x.shape[0], -1))


class PlainLlama(nn.Module):
    """Ids (T,) and positions (T,) to the logits (V,) after the last of them; it keeps what it has read."""

    def __init__(self, shape: dict[str, int], slots: int, precision: str, device: torch.device, theta: float) -> None:
        super().__init__()

        def make(inputs: int, outputs: int) -> Product:
            return Product(inputs, outputs, precision, device)

        width, vocabulary = shape["hidden_size"], shape["vocab_size"]
        table = torch.empty(vocabulary, width, dtype=torch.bfloat16, device=device).normal_(0, 0.02)
        self.register_buffer("table", table)
        self.layers = nn.ModuleList(Layer(shape, slots, make, device) for _ in range(shape["num_hidden_layers"]))
        self.head = make(width, vocabulary)
        self.register_buffer("norm", torch.ones(width, dtype=torch.bfloat16, device=device))
        half = width // shape["num_attention_heads"] // 2
        angles = torch.outer(torch.arange(slots).float(), theta ** -(torch.arange(half).float() / half))
        self.register_buffer("angles", angles.to(device))
        self.slots = slots

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        angles = self.angles[positions]  # type: ignore[index]
        mask = torch.arange(self.slots, device=ids.device) <= positions[:, None]  # (T, S)
        x = F.embedding(ids, self.table)  # type: ignore[arg-type]
        turn = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        for layer in self.layers:
            x = layer(x, positions, mask, turn)
        return self.head(_norm(x[-1:], self.norm))[0]

    def bytes_read(self) -> int:
        """By a step: all weights but the table of embeddings, of which it reads a row, and not the cache."""
        left_out = ("table", "angles", "k", "v")
        named = self.named_buffers()
        return sum(each.nbytes for name, each in named if name.rpartition(".")[2] not in left_out)


def _norm(x: Tensor, weight: Any) -> Tensor:
    return F.rms_norm(x, (x.size(-1),), weight, EPS)


def _turned(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = turn
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)

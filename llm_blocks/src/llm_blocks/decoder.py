"""What every decoder of layers does alike: its parts, its forward, its cache.

Shapes: B batch, T time, C width, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from llm_blocks.attention import last_real
from llm_blocks.cache import KVCache
from llm_blocks.plan import Plan, plan_attention
from llm_blocks.slices import part_layers, require_input
from llm_quant import steps
from llm_sepweight import PartSpec

LARGEST = 2**28


@dataclass(frozen=True, kw_only=True)
class CacheShape:
    """What a layer keeps of a position, in each of its kv heads, and the window of each layer of the model.

    `windows` is empty where no layer has one, else it has an entry for every layer: None for one that sees all.
    `long_from` is the trained length of a model with LongRoPE.
    """

    num_kv_heads: int
    head_dim: int
    value_dim: int | None = None
    windows: tuple[int | None, ...] = ()
    long_from: int | None = None


class TokenEmbedding(nn.Module):
    """The beginning of most models: a row of a table for each id."""

    def __init__(self, vocab_size: int, dim: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab_size, dim)

    def forward(self, x: Tensor, plan: Plan) -> Tensor:
        return self.embed(x)  # (B, T) -> (B, T, C)


class ScaledEmbedding(nn.Module):
    """The beginning of a Gemma: a row of a table for each id, times `scale` in the dtype of the table."""

    def __init__(self, vocab_size: int, dim: int, scale: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab_size, dim)
        self.scale = scale

    def forward(self, x: Tensor, plan: Plan) -> Tensor:
        x = self.embed(x)  # (B, T) -> (B, T, C)
        return x * x.new_full((), self.scale)  # a number would multiply unrounded, which is not how they were trained

    def extra_repr(self) -> str:
        return f"scale={self.scale:.6g}"


class Head(nn.Module):
    """The end of most models: a last norm, then logits."""

    def __init__(self, norm: nn.Module, dim: int, vocab_size: int, *, bias: bool = False) -> None:
        super().__init__()
        self.norm = norm
        self.head = nn.Linear(dim, vocab_size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x))  # (B, T, C) -> (B, T, V)


class SoftcappedHead(nn.Module):
    """The end of a model whose logits s become cap * tanh(s / cap) (Gemma 2, arXiv 2408.00118 §2)."""

    def __init__(self, norm: nn.Module, dim: int, vocab_size: int, *, cap: float) -> None:
        super().__init__()
        self.norm = norm
        self.head = nn.Linear(dim, vocab_size, bias=False)
        self.cap = cap

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.norm(x))  # (B, T, C) -> (B, T, V)
        capped = steps.softcap(y, self.cap)
        return torch.tanh(y / self.cap) * self.cap if capped is None else capped

    def extra_repr(self) -> str:
        return f"cap={self.cap:.6g}"


def _require_sizes(config: Any, cache: CacheShape) -> None:
    """Raise ValueError for a size that no model has: bytes of a weight are counted in 63 bits."""
    sizes = {each.name: getattr(config, each.name) for each in fields(config)}
    sizes["heads"] = sizes.get("num_heads", cache.num_kv_heads) * cache.head_dim
    for name, size in sizes.items():
        if isinstance(size, int) and name != "max_positions" and size > LARGEST:
            raise ValueError(f"{name} is {size}, which is not supported: the limit is 2^28")


class Decoder(nn.Module, ABC):
    """The layers of `part` of a model, weights only; the cache is an argument.

    `begin` (a module with .embed) and `end` (a module with .head) are None in a part without them; `mid` is keyed by
    the absolute layer number. With tied embeddings the head's weight is the embedding's own parameter where the part
    has both. A model gives the makers of its modules, which are called for what the part has: `begin()` takes ids
    (B, T) and the plan, `block(layer)` hidden states (B, T, C), the context and the plan, `end()` hidden states.

    `exact` are ends of names of parameters that are loaded in fp32 whatever the model's dtype. `cache_dtype` is that of
    new caches: None for the activations' own, torch.int8 for half the memory of bf16 (`KVCache`).
    """

    exact: ClassVar[tuple[str, ...]] = ()
    cache_dtype: torch.dtype | None = None

    def __init__(
        self,
        config: Any,
        part: str | PartSpec,
        *,
        begin: Callable[[], nn.Module],
        block: Callable[[int], nn.Module],
        end: Callable[[], nn.Module],
        cache: CacheShape,
    ) -> None:
        super().__init__()
        _require_sizes(config, cache)
        self.config = config
        self.part, layers = part_layers(part, config.num_layers)
        self.begin: Any = begin() if self.part.begin else None
        self.mid = nn.ModuleDict({str(layer): block(layer) for layer in layers})
        self.end: Any = end() if self.part.end else None
        self.cache_shape = cache
        self.windows = {layer: cache.windows[layer] if cache.windows else None for layer in layers}
        if config.tie_embeddings and self.begin is not None and self.end is not None:
            self.end.head.weight = self.begin.embed.weight

    @abstractmethod
    def context(self, plan: Plan, dtype: torch.dtype) -> Any:
        """What every block is given beside x, computed once a forward: tables of rotary angles, for most."""

    def forward(
        self, x: Tensor, cache: KVCache | None = None, *, counts: list[int] | None = None, last_only: bool = False
    ) -> Tensor:
        """Logits (B, T, V) where the part has the end, else hidden states (B, T, C).

        x is ids (B, T) where the part has the beginning, else hidden states (B, T, C). Its positions follow what each
        row of the cache holds, or start at 0 without one. The first counts[b] positions of row b are real and the rest
        right padding, whose output means nothing. `last_only` gives the logits of each row's last real position alone,
        (B, 1, V). ValueError for a wrong shape or counts, and for a cache without room, before anything is written.
        """
        plan, x, context = self.enter(x, cache, counts)
        return self.leave(x, context, plan, counts=counts, last_only=last_only)

    def hidden(self, x: Tensor, *, counts: list[int] | None = None, segments: Sequence[int] | None = None) -> Tensor:
        """What the end is given: hidden states (B, T, C) after all blocks of x, which is that of `forward`.

        With `segments` the one row (1, T) is packed: texts of these lengths, which sum to T, one after the other; each
        has positions of its own and sees itself alone, so that each comes out as it would alone. ValueError for counts
        or segments that don't fit.
        """
        plan, x, context = self.enter(x, counts=counts, segments=segments)
        return self._through(x, context, plan)

    def enter(
        self,
        x: Tensor,
        cache: KVCache | None = None,
        counts: list[int] | None = None,
        segments: Sequence[int] | None = None,
    ) -> tuple[Plan, Tensor, Any]:
        """The first half of a forward: the plan of its positions, hidden states (B, T, C), and the context."""
        require_input(x, begin=self.begin is not None, dim=self.config.dim)
        batch, time, *_ = x.shape
        plan = plan_attention(
            batch, time, counts=counts, cache=cache, device=x.device, layers=self.windows, segments=segments
        )
        if self.begin is not None:
            x = self.begin(x, plan)  # (B, T) -> (B, T, C)
        return plan, x, self.context(plan, x.dtype)

    def leave(
        self, x: Tensor, context: Any, plan: Plan, *, counts: list[int] | None = None, last_only: bool = False
    ) -> Tensor:
        """The second half, of what `enter` gave: all blocks, and the end where the part has it."""
        x = self._through(x, context, plan)
        if self.end is None:
            return x
        return self.end(last_real(x, counts) if last_only else x)  # (B, T, C) -> (B, T, V)

    def _through(self, x: Tensor, context: Any, plan: Plan) -> Tensor:
        for block in self.mid.values():
            x = block(x, context, plan)
        plan.commit()
        return x

    def new_cache(
        self, batch: int, length: int, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> KVCache:
        """An empty cache for `batch` rows of up to `length` positions, by default in `cache_dtype` where the norms are.

        Layers with a sliding window keep no more than the window and what rolling back needs.
        """
        # norms are never quantized, so they have the dtype of the activations
        norms = (p for name, p in self.named_parameters() if "norm" in name)
        like = next(norms, None)
        if like is None:
            like = next(self.parameters())
        shape = self.cache_shape
        return KVCache(
            [int(layer) for layer in self.mid],
            batch=batch,
            num_kv_heads=shape.num_kv_heads,
            length=length,
            head_dim=shape.head_dim,
            value_dim=shape.value_dim,
            windows={layer: window for layer, window in self.windows.items() if window is not None},
            long_from=shape.long_from,
            dtype=dtype or self.cache_dtype or like.dtype,
            device=device or like.device,
        )

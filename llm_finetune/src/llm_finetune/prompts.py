"""LLaMA-Adapter: trained prompts that a layer's attention sees beside the text (arXiv 2303.16199, 2304.15010).

Shapes: B batch, T time, P positions of a prompt, C width, H heads, K kv heads, D head size, N outputs.
"""

from typing import Any

import torch
from torch import Tensor, nn

from llm_blocks import Beside, BesidePlan, Parts, split_heads, spread
from llm_finetune.adapted import Adapted
from llm_finetune.linears import device_of, is_linear, sizes_of
from llm_finetune.slots import of_part


class Prompt(nn.Module):
    """The prompt (P, C) of one layer and what multiplies the attention to it in each head, gate (H,); both fp32.

    The prompt is standard normal, and the gate 0: it begins as nothing.
    """

    def __init__(self, length: int, dim: int, heads: int, *, seed: int, device: torch.device) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.prompt = nn.Parameter(torch.randn(length, dim, generator=generator).to(device))
        self.gate = nn.Parameter(torch.zeros(heads, device=device))

    def extra_repr(self) -> str:
        return f"{self.prompt.size(0)} positions"


class PromptedAttention(Adapted):
    """An attention layer whose positions also see prompts (§3.2 of the paper).

    A prompt's keys and values are what the layer's own projections make of it, neither normed nor turned, anew in each
    forward: what is trained is never older than its weights. The attention to it has a softmax of its own, and is
    added, times the gate of each head, to that to the text.
    """

    def __init__(self, base: nn.Module, fused: Parts | None) -> None:
        super().__init__(base)
        self.fused = fused

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """As that of the base, whose last argument is the plan: (B, T, C) -> (B, T, C)."""
        if not self.active:
            return self.base(x, *context)
        *others, plan = context
        more = [self._beside(self.slots[name], weight, x.dtype) for name, weight in self.active.items()]
        return self.base(x, *others, BesidePlan(plan, more))

    def _beside(self, slot: Any, weight: float, dtype: torch.dtype) -> Beside:
        attention: Any = self.base
        x = slot.prompt.to(dtype)[None]  # (1, P, C)
        if self.fused is None:
            made = attention.k(x), attention.v(x)
        else:
            both = attention.qkv(x)
            made = tuple(of_part(both, self.fused, part) for part in ("k", "v"))
        keys, values = (split_heads(each, attention.head_dim) for each in made)  # (1, K, P, D)
        return Beside(keys=keys, values=values, gate=slot.gate if weight == 1 else slot.gate * weight)


def attention_sizes(attention: Any) -> tuple[int, int, torch.device]:
    """The width C that an attention layer takes, its heads H, and where it is. ValueError where it has no k and v."""
    names = {name for name, each in attention.named_children() if is_linear(getattr(each, "base", each))}
    if not ({"k", "v", "o"} <= names or {"qkv", "o"} <= names):
        raise ValueError(
            f"the layers of {type(attention).__module__} have no projections k and v of their own, which adapters of "
            "prompts need; use LoRA there"
        )
    projection, o = (getattr(attention, "k", None) or attention.qkv), attention.o
    width = sizes_of(getattr(o, "base", o))[1]
    layer = getattr(projection, "base", projection)
    return sizes_of(layer)[1], width // attention.head_dim, device_of(layer)


class Scale(nn.Module):
    """scale (N,) times the sum of what a linear layer gives and bias (N,), both fp32: it begins as nothing."""

    def __init__(self, n: int, device: torch.device) -> None:
        super().__init__()
        self.scale, self.bias = nn.Parameter(torch.ones(n, device=device)), nn.Parameter(torch.zeros(n, device=device))

    def forward(self, y: Tensor) -> Tensor:
        return (y + spread(self.bias.to(y.dtype), y)) * spread(self.scale.to(y.dtype), y)  # (..., N)


class ScaledLinear(Adapted):
    """A linear layer whose outputs are shifted and scaled (arXiv 2304.15010, §4.1)."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.out_features, self.in_features = sizes_of(base)

    def forward(self, x: Tensor) -> Tensor:
        y = self.base(x)
        return _changed(y, {name: self.slots[name](y) for name in self.active}, self.active)


class RetrainedNorm(Adapted):
    """A norm in whose place trained copies of it stand."""

    def forward(self, x: Tensor) -> Tensor:
        if list(self.active.values()) == [1]:
            return self.slots[next(iter(self.active))](x)
        return _changed(self.base(x), {name: self.slots[name](x) for name in self.active}, self.active)


def _changed(y: Tensor, others: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """y with what each of the others differs by, times its weight."""
    if list(weights.values()) == [1]:
        return next(iter(others.values()))
    out = y
    for name, other in others.items():
        out = out + (other - y) * weights[name]
    return out

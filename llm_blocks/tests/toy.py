"""The smallest architecture that uses everything here: embedding, attention with rotary heads, norm, head."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn

from llm_blocks import (
    ConfigKeys,
    KVCache,
    RMSNorm,
    Rope,
    attend,
    last_real,
    parse_rope,
    part_layers,
    plan_attention,
    require_input,
    rope_table,
    rope_to_hf,
    rotate,
)


@dataclass(frozen=True, kw_only=True)
class Config:
    model_type: ClassVar[str] = "toy"
    dim: int = 16
    vocab_size: int = 23
    num_layers: int = 3
    num_kv_heads: int = 2
    rope: Rope = field(default_factory=Rope)
    tie_embeddings: bool = False

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Config":
        keys = ConfigKeys(raw)
        config = cls(
            dim=keys.integer("dim"),
            num_layers=keys.integer("layers"),
            rope=parse_rope(keys, max_positions=32),
            tie_embeddings=keys.flag("tied", default=False),
        )
        keys.finish(inert={"model_type", "dtype", "eos_token_id"})
        return config

    def to_hf(self) -> dict[str, Any]:
        shape = {"dim": self.dim, "layers": self.num_layers, "tied": self.tie_embeddings}
        return {"model_type": "toy", "rope_parameters": rope_to_hf(self.rope)} | shape


class Block(nn.Module):
    def __init__(self, c: Config) -> None:
        super().__init__()
        self.norm = RMSNorm(c.dim, 1e-5)
        self.q = nn.Linear(c.dim, c.dim, bias=False)
        self.kv = nn.Linear(c.dim, c.dim, bias=True)
        self.kv_heads = c.num_kv_heads

    def forward(self, x, rope, plan, layer):
        y = self.norm(x)
        q = self.q(y).unflatten(-1, (4, -1)).transpose(1, 2)
        k, v = self.kv(y).unflatten(-1, (2 * self.kv_heads, -1)).transpose(1, 2).chunk(2, dim=1)
        k, v = plan.remember(layer, rotate(k, rope), v)
        return x + attend(rotate(q, rope), k, v, plan).transpose(1, 2).flatten(2)


class Model(nn.Module):
    def __init__(self, config: Config, part="f") -> None:
        super().__init__()
        self.config = config
        self.part, layers = part_layers(part, config.num_layers)
        embed = nn.Embedding(config.vocab_size, config.dim)
        self.begin = nn.ModuleDict({"embed": embed}) if self.part.begin else None
        self.mid = nn.ModuleDict({str(layer): Block(config) for layer in layers})
        head = nn.Linear(config.dim, config.vocab_size, bias=False)
        self.end = nn.ModuleDict({"norm": RMSNorm(config.dim, 1e-5), "head": head}) if self.part.end else None
        if config.tie_embeddings and self.begin is not None and self.end is not None:
            head.weight = embed.weight

    def forward(self, x, cache=None, *, counts=None, last_only=False):
        require_input(x, begin=self.begin is not None, dim=self.config.dim)
        plan = plan_attention(x.size(0), x.size(1), counts=counts, cache=cache, device=x.device)
        if self.begin is not None:
            x = self.begin["embed"](x)
        rope = rope_table(self.config.rope, self.config.dim // 4, plan.positions, ends=plan.ends)
        for layer, block in self.mid.items():
            x = block(x, rope, plan, int(layer))
        plan.commit()
        if self.end is None:
            return x
        return self.end["head"](self.end["norm"](last_real(x, counts) if last_only else x))

    def new_cache(self, batch, length, *, dtype=None, device="cpu"):
        like = next(self.parameters()).dtype
        layers, sizes = [int(layer) for layer in self.mid], {"num_kv_heads": 2, "head_dim": self.config.dim // 4}
        return KVCache(layers, batch=batch, length=length, dtype=dtype or like, device=device, **sizes)


NAMES = {
    "embed.weight": "begin.embed.weight",
    "layers.{i}.norm.weight": "mid.{i}.norm.weight",
    "layers.{i}.query.weight": "mid.{i}.q.weight",
    "layers.{i}.key_value.weight": "mid.{i}.kv.weight",
    "layers.{i}.key_value.bias": "mid.{i}.kv.bias",
    "norm.weight": "end.norm.weight",
    "head.weight": "end.head.weight",
}
PRESETS: dict[str, Config] = {}

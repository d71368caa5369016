"""The smallest architecture that uses everything here: embedding, attention with rotary heads, norm, head."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

import llm_sepweight
from llm_blocks import (
    CacheShape,
    ConfigKeys,
    Decoder,
    Head,
    Importer,
    RMSNorm,
    Rope,
    TokenEmbedding,
    attend,
    merge_heads,
    parse_rope,
    rope_to_hf,
    rotate,
    split_heads,
)
from llm_blocks.names import decider


@dataclass(frozen=True, kw_only=True)
class Config:
    model_type: ClassVar[str] = "toy"
    dim: int = 16
    vocab_size: int = 23
    num_layers: int = 3
    num_kv_heads: int = 2
    max_positions: int = 256
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
    def __init__(self, c: Config, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, c.dim // 4
        self.norm = RMSNorm(c.dim, 1e-5)
        self.q = nn.Linear(c.dim, c.dim, bias=False)
        self.kv = nn.Linear(c.dim, c.dim, bias=True)

    def forward(self, x, rope, plan):
        y = self.norm(x)
        q = split_heads(self.q(y), self.head_dim)
        k, v = split_heads(self.kv(y), self.head_dim).chunk(2, dim=1)
        k, v, view = plan.remember(self.layer, rotate(k, rope), v)
        return x + merge_heads(attend(rotate(q, rope), k, v, view))


class Model(Decoder):
    def __init__(self, config: Config, part="f") -> None:
        c = config
        super().__init__(
            c,
            part,
            begin=lambda: TokenEmbedding(c.vocab_size, c.dim),
            block=lambda layer: Block(c, layer),
            end=lambda: Head(RMSNorm(c.dim, 1e-5), c.dim, c.vocab_size),
            cache=CacheShape(num_kv_heads=c.num_kv_heads, head_dim=c.dim // 4),
        )

    def context(self, plan, dtype):
        return plan.rope_table(self.config.rope, self.config.dim // 4, dtype=dtype)


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


def open_toy_format(path: Path) -> tuple[Config, llm_sepweight.Weights]:
    """A folder whose configuration is called toy.json."""
    config = Config.from_hf(llm_sepweight.read_json(path / "toy.json"))
    return config, llm_sepweight.open(path, decider=decider(NAMES))


IMPORTER = Importer(claims=lambda path: (path / "toy.json").is_file(), open=open_toy_format)

"""Foreign checkpoint formats of Llamas: llama2.c's .bin, and Meta's consolidated.*.pth with params.json.

Both turn neighbouring pairs of a head's dimensions (Meta's layout), where our rotation turns the first half against the
second, so the rows of the q and k weights are put in that order as each is read.
"""

import math
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

import llm_sepweight
from llm_blocks import ConfigKeys, Importer, Rope
from llm_blocks.checking import require_layers
from llm_blocks.meta import without_storage
from llm_blocks.names import decider
from llm_model_llama.llama import PRESETS, Config, Model
from llm_sepweight import TensorInfo, Weights, WeightsError, read_json
from llm_sepweight.formats.base import Found, TensorFile

Places = Mapping[str, tuple[int, tuple[int, ...]]]  # sectioned name -> offset in floats, shape

# Meta's name -> ours; llama2.c uses the same names without ".weight"
_META_NAMES: dict[str, str] = {
    "tok_embeddings.weight": "begin.embed.weight",
    "layers.{i}.attention_norm.weight": "mid.{i}.attention_norm.weight",
    "layers.{i}.attention.wq.weight": "mid.{i}.attention.q.weight",
    "layers.{i}.attention.wk.weight": "mid.{i}.attention.k.weight",
    "layers.{i}.attention.wv.weight": "mid.{i}.attention.v.weight",
    "layers.{i}.attention.wo.weight": "mid.{i}.attention.o.weight",
    "layers.{i}.ffn_norm.weight": "mid.{i}.mlp_norm.weight",
    "layers.{i}.feed_forward.w1.weight": "mid.{i}.mlp.gate.weight",
    "layers.{i}.feed_forward.w2.weight": "mid.{i}.mlp.down.weight",
    "layers.{i}.feed_forward.w3.weight": "mid.{i}.mlp.up.weight",
    "norm.weight": "end.norm.weight",
    "output.weight": "end.head.weight",
}

_HEADER = struct.Struct("<7i")


def is_llama2c(path: Path) -> bool:
    """Whether the path is a file that begins as llama2.c's do."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        header = file.read(_HEADER.size)
    return len(header) == _HEADER.size and _is_plausible(_HEADER.unpack(header))


def open_llama2c(path: Path) -> tuple[Config, Weights]:
    """Open a version 0 .bin of llama2.c (fp32). WeightsError for a header or a size that can't be right."""
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; a llama2.c checkpoint is one .bin file")
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise WeightsError(f"{path}: {size} bytes are too few for a llama2.c header of {_HEADER.size}")
    config = _llama2c_config(_HEADER.unpack(header), path)
    places, expected = _llama2c_places(config)
    if size != expected:
        raise WeightsError(f"{path}: has {size} bytes, its header asks for {expected}; truncated or another format")
    stored = _Llama2cFile(path, places)
    found = Found(layout="llama2c", path=path, entries={name: (stored, name) for name in places})
    return config, _in_our_order(Weights(found).sectioned(_section), config)


def is_meta(path: Path) -> bool:
    """Whether the path is a folder with Meta's files, be they complete or not."""
    return (path / "params.json").is_file() and any(path.glob("consolidated.*.pth"))


def open_meta(path: Path) -> tuple[Config, Weights]:
    """Open a folder of params.json and consolidated.*.pth, whose model-parallel shards are merged tensor by tensor.

    params.json doesn't state the context: it is taken from the release that the rotary settings belong to. Raises
    WeightsError for a damaged file and for tensors of other shapes than params.json asks for, ValueError for a
    parameter that a Llama doesn't have.
    """
    path = Path(path)
    weights = llm_sepweight.open(path, decider=decider(_META_NAMES, source=path))
    config = _meta_config(ConfigKeys(read_json(path / "params.json"), where=f"{path / 'params.json'}"), weights)
    _check_shapes(config, weights)
    return config, _in_our_order(weights, config)


llama2c = Importer(claims=is_llama2c, open=open_llama2c)
meta = Importer(claims=is_meta, open=open_meta)


def _llama2c_config(header: tuple[int, ...], path: Path) -> Config:
    dim, hidden_dim, layers, heads, kv_heads, vocab, length = header
    if not _is_plausible(header):
        raise WeightsError(f"{path}: no llama2.c model, its header reads {header}")
    return Config(
        vocab_size=abs(vocab),
        dim=dim,
        hidden_dim=hidden_dim,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=dim // heads,
        max_positions=length,
        tie_embeddings=vocab > 0,
    )


def _is_plausible(header: tuple[int, ...]) -> bool:
    dim, hidden_dim, layers, heads, kv_heads, vocab, length = header
    return (
        min(dim, hidden_dim, layers, heads, kv_heads, abs(vocab), length) > 0 and not dim % heads and layers <= 10_000
    )


def _llama2c_places(c: Config) -> tuple[Places, int]:
    """Where each tensor lies, and the bytes of the whole file."""
    kv_dim = c.num_kv_heads * c.head_dim
    places: dict[str, tuple[int, tuple[int, ...]]] = {}
    offset = _HEADER.size // 4

    def add(pattern: str, *shape: int, count: int = 1) -> None:
        nonlocal offset
        for layer in range(count):
            places[pattern.replace("{i}", str(layer))] = offset, shape
            offset += math.prod(shape)

    add("begin.embed.weight", c.vocab_size, c.dim)
    for key, *shape in (
        ("attention_norm", c.dim),
        ("attention.q", c.dim, c.dim),
        ("attention.k", kv_dim, c.dim),
        ("attention.v", kv_dim, c.dim),
        ("attention.o", c.dim, c.dim),
        ("mlp_norm", c.dim),
        ("mlp.gate", c.hidden_dim, c.dim),
        ("mlp.down", c.dim, c.hidden_dim),
        ("mlp.up", c.hidden_dim, c.dim),
    ):
        add(f"mid.{{i}}.{key}.weight", *shape, count=c.num_layers)
    add("end.norm.weight", c.dim)
    offset += c.max_positions * c.head_dim  # cosines and sines, which follow from the header
    if not c.tie_embeddings:
        add("end.head.weight", c.vocab_size, c.dim)
    return places, offset * 4


class _Llama2cFile(TensorFile):
    """The tensors of a llama2.c file at their places, mapped from it."""

    def __init__(self, path: Path, places: Places) -> None:
        self.path, self._places = path, places
        self.infos = {
            name: TensorInfo(shape=shape, dtype=torch.float32, file=path, nbytes=4 * math.prod(shape))
            for name, (_, shape) in places.items()
        }
        self._data: Tensor | None = None

    def view(self, key: str) -> Tensor:
        if self._data is None:
            with self.path.open("rb") as file:  # copy-on-write, since torch has no read-only tensors
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            self._data = torch.frombuffer(mapped, dtype=torch.float32)
        offset, shape = self._places[key]
        return self._data[offset : offset + math.prod(shape)].view(shape)

    def read_into(self, key: str, out: Tensor) -> None:
        out.copy_(self.view(key))

    def close(self) -> None:
        self._data = None


class _Turned(TensorFile):
    """Weights in Meta's order of rows, read in ours."""

    def __init__(self, weights: Weights, config: Config) -> None:
        self.path, self._weights, self._half = weights.path, weights, config.head_dim // 2
        self.infos = {name: weights.info(name) for name in weights.names}

    def view(self, key: str) -> Tensor:
        weight = self._weights.read(key)
        if not key.endswith((".attention.q.weight", ".attention.k.weight")):
            return weight
        # rows (H * D, C) from neighbouring pairs to first half and second half
        return weight.unflatten(0, (-1, self._half, 2)).transpose(1, 2).reshape(weight.shape)

    def read_into(self, key: str, out: Tensor) -> None:
        out.copy_(self.view(key))

    def close(self) -> None:
        self._weights.close()


def _in_our_order(weights: Weights, config: Config) -> Weights:
    file = _Turned(weights, config)
    entries: dict[str, tuple[TensorFile, str]] = {name: (file, name) for name in weights.names}
    return Weights(
        Found(layout=weights.layout, path=weights.path, entries=entries, sectioned=True, tied=dict(weights.tied))
    )


def _section(name: str) -> list[str]:
    return name.split(".", 2 if name.startswith("mid.") else 1)


def _meta_config(keys: ConfigKeys, weights: Weights) -> Config:
    dim, heads = keys.integer("dim"), keys.integer("n_heads")
    layers = keys.integer("n_layers")
    require_layers(weights, range(layers), source="params.json")
    if weights.num_layers > layers:
        raise WeightsError(f"{weights.path}: has {weights.num_layers} layers, params.json says {layers}")
    rope, max_positions = _meta_rope(keys, dim, layers)
    config = Config(
        vocab_size=weights.info("begin.embed.weight").shape[0],  # params.json may say -1
        dim=dim,
        hidden_dim=weights.info("mid.0.mlp.gate.weight").shape[0],
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=keys.integer("n_kv_heads", default=heads),
        head_dim=dim // heads,
        max_positions=keys.integer("max_seq_len", default=max_positions),
        norm_eps=keys.number("norm_eps"),
        rope=rope,
        tie_embeddings="end.head.weight" not in weights or "end.head.weight" in {*weights.tied, *weights.tied.values()},
    )
    keys.finish(inert={"vocab_size", "multiple_of", "ffn_dim_multiplier", "model_parallel_size", "max_batch_size"})
    return config


def _meta_rope(keys: ConfigKeys, dim: int, layers: int) -> tuple[Rope, int]:
    """The rotary settings, and the context of the release that has them."""
    theta = keys.number("rope_theta", default=10_000.0)
    # params.json seldom states the factor, and it isn't the same in every release: 8 in Llama 3.1, 32 in 3.2
    ropes = [release.rope for release in PRESETS.values() if (release.dim, release.num_layers) == (dim, layers)]
    factors = [rope.factor for rope in ropes if rope.kind == "llama3"]
    factor = keys.number("rope_scaling_factor", default=factors[0] if factors else 8.0)
    if keys.flag("use_scaled_rope", default=False):
        return Rope(kind="llama3", theta=theta, factor=factor, original_max_positions=8_192), 131_072
    contexts = {10_000.0: 4_096, 500_000.0: 8_192, 1_000_000.0: 16_384}  # Llama 2, Llama 3, CodeLlama
    return Rope(theta=theta), contexts.get(theta, 4_096)


def _check_shapes(config: Config, weights: Weights) -> None:
    with without_storage():
        parameters = dict(Model(config).named_parameters())
    for name, parameter in parameters.items():
        info = weights.info(name)
        if info.shape != tuple(parameter.shape):
            raise WeightsError(
                f"{info.file}: {name} has shape {info.shape}, params.json asks for {tuple(parameter.shape)}"
            )

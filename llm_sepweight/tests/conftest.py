"""A tiny checkpoint and the ways to lay it out on disk."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

LAYERS = 3


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    """Hugging Face names: embedding (7, 4), three layers, norm and head; several dtypes."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    result = {"model.embed_tokens.weight": draw(7, 4)}
    for layer in range(LAYERS):
        result[f"model.layers.{layer}.mlp.up.weight"] = draw(6, 4).bfloat16()
        result[f"model.layers.{layer}.norm.weight"] = draw(4).half()
    return result | {"model.norm.weight": draw(4), "lm_head.weight": draw(7, 4)}


@pytest.fixture
def sectioned(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under the names that the default decider gives."""
    result = {"begin.embed_tokens.weight": tensors["model.embed_tokens.weight"]}
    for layer in range(LAYERS):
        for key in ("mlp.up.weight", "norm.weight"):
            result[f"mid.{layer}.{key}"] = tensors[f"model.layers.{layer}.{key}"]
    return result | {"end.norm.weight": tensors["model.norm.weight"], "end.lm_head.weight": tensors["lm_head.weight"]}


@pytest.fixture
def sharded(tmp_path: Path, tensors: dict[str, Tensor]) -> Path:
    """A Hugging Face folder with two shards and an index."""
    folder = tmp_path / "sharded"
    folder.mkdir()
    names = list(tensors)
    shards = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    for file, keys in shards.items():
        save_file({key: tensors[key] for key in keys}, folder / file)
    write_index(folder, {key: file for file, keys in shards.items() for key in keys})
    return folder


def write_index(folder: Path, weight_map: object, name: str = "model.safetensors.index.json") -> None:
    (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.fixture
def index() -> Callable[..., None]:
    return write_index

"""Writing a model as a Hugging Face folder, which transformers and everybody else reads."""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llm_blocks.architectures import find
from llm_blocks.names import to_hf_name
from llm_blocks.parameters import pieces, shared_names
from llm_sepweight.atomic import atomic_file, atomic_folder
from llm_sepweight.stored import Pending, pending, write_file

GIGABYTE = 10**9


def save(
    model: Any,
    path: str | Path,
    *,
    max_shard_bytes: int = 5 * GIGABYTE,
    extra_config: Mapping[str, Any] | None = None,
    copy: Iterable[str | Path] = (),
) -> None:
    """Write the whole model to the new folder `path`: config.json and sharded safetensors under Hugging Face's names.

    The folder appears complete or not at all; one tensor is copied at a time, a tied head is stored once.
    `extra_config` adds keys that the model doesn't read, such as eos_token_id; `copy` files, such as the tokenizer's,
    go along. Raises ValueError for a part of a model and for an extra key that contradicts the model's own,
    WeightsError where `path` is taken.
    """
    if len(model.mid) != model.config.num_layers or model.begin is None or model.end is None:
        raise ValueError(f"only a whole model makes a Hugging Face folder, this is part {model.part}; load part 'f'")
    with atomic_folder(path) as folder:
        for file in copy:
            shutil.copyfile(file, folder / Path(file).name)
        write_weights(folder, _stored(model), max_shard_bytes=max_shard_bytes)
        write_json(folder / "config.json", _config(model, extra_config or {}))


def write_weights(folder: Path, tensors: Mapping[str, Pending], *, max_shard_bytes: int = 5 * GIGABYTE) -> None:
    """Write tensors under Hugging Face's names into `folder`, with an index where they need several files.

    Each is read when its turn comes, so that one is in memory at a time.
    """
    shards = _shards(tensors, max_shard_bytes)
    files: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else "model.safetensors"
        with atomic_file(folder / name) as file:
            write_file(file, {key: tensors[key] for key in names}, folder / name, metadata={"format": "pt"})
        files |= dict.fromkeys(names, name)
    if len(shards) > 1:
        total = sum(tensor.nbytes for tensor in tensors.values())
        write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": files})


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object as Hugging Face's files have it: two spaces, any script as it is."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _config(model: Any, extra: Mapping[str, Any]) -> dict[str, Any]:
    own = model.config.to_hf() | {"dtype": str(model.begin.embed.weight.dtype).removeprefix("torch.")}
    clash = [key for key in extra if key in own and extra[key] != own[key]]
    if clash:
        raise ValueError(f"extra_config has {clash[0]} = {extra[clash[0]]!r}, the model says {own[clash[0]]!r}")
    return own | dict(extra)


def _stored(model: Any) -> dict[str, Pending]:
    """Each tensor of the model by the name it has in files; experts go there one by one, as other readers expect."""
    table = find(model.config.model_type).NAMES
    parameters = dict(model.named_parameters(remove_duplicate=False))
    parts = pieces(model)
    stored: dict[str, Pending] = {}
    for name, *_ in shared_names(model):
        named = parts.get(name, {name: parameters[name]})
        stored |= {to_hf_name(table, own): pending(tensor) for own, tensor in named.items()}
    return stored


def _shards(stored: Mapping[str, Pending], max_bytes: int) -> list[list[str]]:
    """Names in order, cut where the next tensor would make a shard larger than max_bytes."""
    shards: list[list[str]] = [[]]
    room = max_bytes
    for name, tensor in stored.items():
        if tensor.nbytes > room and shards[-1]:
            shards.append([])
            room = max_bytes
        shards[-1].append(name)
        room -= tensor.nbytes
    return shards

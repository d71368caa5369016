"""What a folder or file without readable weights holds instead, for the sentence that refuses it."""

import re
from pathlib import Path

from .errors import WeightsError
from .layout import MANIFEST, file_section
from .safe import names_in, read_json

_SHARD = re.compile(r"((?:model|pytorch_model)(?:-[0-9]{5})?)-of-[0-9]{5}(\.safetensors|\.bin)")
_READABLE = re.compile(r"(model\.safetensors|pytorch_model\.bin)(\.index\.json)?|consolidated\.[0-9]{2}\.pth")
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")


def why_unread(path: Path) -> str | None:
    """A sentence on what is at `path` and the way out, where it is of a known kind that isn't read; else None.

    Known are GGUF files, adapters of PEFT, and shards without their index. Where weights are there that are read,
    it is None whatever lies beside them. WeightsError for a folder that can't be listed.
    """
    if not path.is_dir():
        return _why_gguf(path) if path.suffix.lower() == ".gguf" else None
    names = names_in(path)
    if any(name == MANIFEST or file_section(name) or _READABLE.fullmatch(name) for name in names):
        return None
    if any(name in names for name in _ADAPTER):
        return _why_adapter(path)
    shards = [match for name in names if (match := _SHARD.fullmatch(name))]
    if shards:
        return _why_shards(path, shards)
    gguf = next((name for name in names if name.lower().endswith(".gguf")), None)
    return _why_gguf(path / gguf) if gguf else None


def _why_gguf(file: Path) -> str:
    return (
        f"{file}: GGUF files aren't read; give a folder in Hugging Face's form (config.json with safetensors), "
        "as the original repository of the model has it"
    )


def _why_adapter(folder: Path) -> str:
    base = _base_of(folder / _ADAPTER[0])
    return (
        f"{folder}: holds an adapter (PEFT), which changes a model and is none; give its base model{base}, "
        "or a folder into which the two were merged (merge_and_unload in PEFT)"
    )


def _base_of(config: Path) -> str:
    try:
        base = read_json(config).get("base_model_name_or_path")
    except WeightsError:
        return ""  # the sentence holds without it
    return f" {base[:200]!r}" if isinstance(base, str) and base else ""


def _why_shards(folder: Path, shards: list[re.Match[str]]) -> str:
    first = shards[0]
    index = f"{first[1].partition('-')[0]}{first[2]}.index.json"
    others = f" and {len(shards) - 1} more" if len(shards) > 1 else ""
    return (
        f"{folder / index}: missing, though the shard {first[0]}{others} is there; it says which tensor is in which, "
        "so get that file too from where the shards come"
    )

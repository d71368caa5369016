"""An adapter's folder as PEFT writes it, checked as a stranger's: settings, and the factors of each layer.

Shapes: N outputs, K inputs, r rank.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from llm_finetune.lora_settings import Lora
from llm_finetune.peft_config import PeftConfig, read_config
from llm_sepweight import WeightsError
from llm_sepweight.formats.safetensors_file import SafetensorsFile

WEIGHTS, PICKLED = "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."
A, B, MAGNITUDE = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"
PARTS = "llm_finetune.parts"
"""Of the header's metadata: a JSON object, Hugging Face's path of a fused projection -> the parts that are adapted."""
_COPIED = ".base_layer.weight"  # the base's own, which PEFT stores beside the factors of a head
_FLOATS = ("torch.float32", "torch.bfloat16", "torch.float16", "torch.float64")


@dataclass(frozen=True, kw_only=True, eq=False)
class Factors:
    """Those of one layer: A (r, K), B (N, r), DoRA's magnitudes (N,), and the settings that they have."""

    a: Tensor
    b: Tensor
    magnitude: Tensor | None
    settings: Lora


@dataclass(frozen=True, kw_only=True, eq=False)
class AdapterFile:
    """An adapter: its folder, the base model's name or path as written there, and the factors by Hugging Face's paths.

    `parts` are those of fused projections that alone are adapted, where the file says so.
    """

    folder: Path
    base: str | None
    lora: Lora
    factors: Mapping[str, Factors]
    parts: Mapping[str, tuple[str, ...]]


def read_adapter(folder: str | Path) -> AdapterFile:
    """The adapter in a folder. WeightsError for files that are missing, damaged, malformed or not to be honoured."""
    folder = Path(folder)
    config = read_config(folder)
    file = folder / WEIGHTS
    if not file.exists() and (folder / PICKLED).exists():
        raise WeightsError(f"{folder / PICKLED}: pickled files aren't read; save it as safetensors with PEFT")
    opened = SafetensorsFile(file)
    names = _by_layer(opened, file)
    factors = {path: _factors(opened, path, found, config) for path, found in names.items()}
    if not factors:
        raise WeightsError(f"{file}: holds no factors of an adapter")
    parts = _parts(opened.metadata.get(PARTS, "{}"), file, factors)
    return AdapterFile(folder=folder, base=config.base, lora=config.lora, factors=factors, parts=parts)


def _by_layer(opened: SafetensorsFile, file: Path) -> dict[str, dict[str, str]]:
    """Each layer's tensors by what they are."""
    found: dict[str, dict[str, str]] = {}
    for name in sorted(opened.infos):
        bare = name.removesuffix(".weight") if name.endswith(f"{MAGNITUDE}.weight") else name  # older files have it
        kind = next((kind for kind in (A, B, MAGNITUDE) if bare.endswith(kind)), None)
        if name.endswith(_COPIED):
            continue
        if kind is None or not name.startswith(PREFIX):
            raise WeightsError(f"{file}: {name[:200]!r} is no tensor of LoRA on a linear layer, and others aren't read")
        found.setdefault(bare.removeprefix(PREFIX).removesuffix(kind), {})[kind] = name
    return found


def _factors(opened: SafetensorsFile, path: str, names: Mapping[str, str], config: PeftConfig) -> Factors:
    where, settings = f"{opened.path}: {path[:200]}", config.settings(path)
    if not {A, B} <= names.keys() or (MAGNITUDE in names) != settings.dora:
        wanted = "A, B and magnitudes" if settings.dora else "A and B"
        raise WeightsError(f"{where} must have {wanted}, as the config beside it says")
    infos = {kind: opened.infos[name] for kind, name in names.items()}
    if any(str(info.dtype) not in _FLOATS for info in infos.values()):
        raise WeightsError(f"{where} has factors that are no floating numbers")
    shapes = [infos[kind].shape for kind in (A, B)]
    if [len(shape) for shape in shapes] != [2, 2] or not shapes[0][0] == shapes[1][1] == settings.r:
        raise WeightsError(f"{where} has shapes {shapes[0]} and {shapes[1]}, which are not of the rank {settings.r}")
    if settings.dora and infos[MAGNITUDE].shape != shapes[1][:1]:
        raise WeightsError(f"{where} has magnitudes of shape {infos[MAGNITUDE].shape} for {shapes[1][0]} outputs")
    tensors = {kind: opened.view(name).float() for kind, name in names.items()}
    return Factors(a=tensors[A], b=tensors[B], magnitude=tensors.get(MAGNITUDE), settings=settings)


def _parts(text: str, file: Path, factors: Mapping[str, Factors]) -> dict[str, tuple[str, ...]]:
    try:
        raw = json.loads(text)
        found = {path: tuple(names) for path, names in raw.items()}
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise WeightsError(f"{file}: its metadata {PARTS} must be an object of lists") from None
    known = all(isinstance(name, str) for names in found.values() for name in names) and found.keys() <= factors.keys()
    if not known:
        raise WeightsError(f"{file}: its metadata {PARTS} names what the file doesn't hold")
    return found

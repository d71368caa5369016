"""Loading a part into memory or into a module."""

from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor, nn

from .errors import WeightsError
from .layout import split_name
from .opening import open
from .part_state_dict import PartStateDict
from .spec import PartSpec
from .weights import Weights


def load(path: str | Path, spec: str | PartSpec) -> PartStateDict:
    """The part `spec` of the checkpoint at `path`, mapped where the format allows it; in the file's dtypes."""
    return PartStateDict.from_part_spec(path, spec)


def lazy_load(module: nn.Module, path: str | Path, spec: str | PartSpec) -> None:
    """Fills a module whose parameters have sectioned names (such as `Part`), file by file, in the module's dtypes.

    Parameters on the meta device are replaced by tensors on the CPU. WeightsError, before anything is changed, when a
    tensor is missing, unexpected or of another shape.
    """
    with open(path) as weights:
        part = weights.part(spec)
        targets = module.state_dict(keep_vars=True)
        _check_match(targets, part)
        made: dict[int, Tensor] = {}
        for _, names in groupby(part.names, key=lambda name: split_name(name)[0]):
            _fill(module, targets, part, list(names), made)


def _check_match(targets: dict[str, Tensor], part: Weights) -> None:
    missing, unexpected = set(targets) - set(part.names), set(part.names) - set(targets)
    if missing or unexpected:
        raise WeightsError(
            f"{part.path}: doesn't fit the module; missing in the checkpoint: {_few(missing)}, "
            f"unexpected by the module: {_few(unexpected)}"
        )
    for name, target in targets.items():
        info = part.info(name)
        if info.shape != tuple(target.shape):
            raise WeightsError(f"{info.file}: {name!r} has shape {info.shape}, the module wants {tuple(target.shape)}")


def _few(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:5])
    return (shown + f" and {len(names) - 5} more" if len(names) > 5 else shown) or "none"


def _fill(
    module: nn.Module, targets: dict[str, Tensor], part: Weights, names: list[str], made: dict[int, Tensor]
) -> None:
    """Fills one section. `made` maps the id of a replaced parameter to its successor, so that tied ones stay one."""
    replaced: dict[str, Tensor] = {}
    for name in names:
        target = targets[name]
        if not target.is_meta:
            part.read(name, out=target)
        else:
            if id(target) not in made:
                made[id(target)] = _materialise(target, name, part)
            replaced[name] = made[id(target)]
    if replaced:
        module.load_state_dict(replaced, strict=False, assign=True)  # _check_match has compared all names


def _materialise(target: Tensor, name: str, part: Weights) -> Tensor:
    tensor = part.read(name, out=torch.empty(target.shape, dtype=target.dtype))
    return nn.Parameter(tensor, requires_grad=target.requires_grad) if isinstance(target, nn.Parameter) else tensor

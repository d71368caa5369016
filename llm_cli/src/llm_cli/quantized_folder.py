"""A checkpoint as a folder whose linear layers are stored as whole numbers, written layer by layer.

The form is compressed-tensors' (llm_quant.formats.compressed_tensors), which transformers reads too.
Shapes: N rows (outputs), K columns (inputs) of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

import llm_blocks
import llm_quant
from llm_blocks.names import spellings, to_hf_name
from llm_blocks.saving import write_json, write_weights
from llm_cli.calibrating import Calibration
from llm_cli.checkpoints import HEAD, Checkpoint
from llm_cli.config_json import hf_config
from llm_cli.conversion import hf_tensors, new_folder
from llm_cli.exporting import reported, write_ids
from llm_cli.matrices import Matrix, matrices, unquantized
from llm_cli.output import human_bytes
from llm_cli.quantizing import check_scheme, group_size, require_linear
from llm_quant.formats import CompressedTensors
from llm_sepweight.stored import Pending

Wrote: TypeAlias = Callable[[int], None]
SHARD_BYTES = 2 * 10**9  # the scales of a shard's layers wait in memory until its whole numbers are written


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will be quantized: `layers`, Hugging Face's names -> ours, and those that are `left` as they are.

    `matrices` has the shapes of the layers by our names.
    """

    source: Checkpoint
    form: CompressedTensors
    layers: dict[str, str]
    left: tuple[str, ...]
    matrices: dict[str, Matrix]


def plan_folder(source: Checkpoint, scheme: str, *, group: int | None = None, skip: Collection[str] = ()) -> Plan:
    """What `scheme` ("int8", "int4") makes of a checkpoint's linear layers; nothing is read.

    `group` is how many inputs of int4 share a scale: None for the largest usual number that all layers have. Layers
    that match a pattern of `skip`, by Hugging Face's names or ours, stay as they are, and so does a head that is tied
    to the embedding. ValueError for a model that isn't made of linear layers, for groups that don't fit, and for a
    pattern that no layer matches.
    """
    check_scheme(scheme, folder=True)
    model, config = source.skeleton, source.config
    require_linear(model)
    table = llm_blocks.find(config.model_type).NAMES
    linear = matrices(model)
    names = {path: to_hf_name(table, f"{path}.weight").removesuffix(".weight") for path in linear}
    others = {path: to_hf_name(table, f"{path}.weight").removesuffix(".weight") for path in unquantized(model)}
    skipped = _skipped(names, skip, others)
    if config.tie_embeddings:
        skipped.add(HEAD.removesuffix(".weight"))
    chosen = {names[path]: layer for path, layer in linear.items() if path not in skipped}
    if not chosen:
        raise ValueError("every linear layer is left out, so nothing would be quantized; give fewer --skip")
    return Plan(
        source=source,
        form=_form(scheme, group, group_size(model), chosen),
        layers={names[path]: path for path in linear if path not in skipped},
        left=(*(names[path] for path in linear if path in skipped), *others.values()),
        matrices=linear,
    )


def write_folder(
    plan: Plan,
    destination: Path,
    *,
    wrote: Wrote = lambda nbytes: None,
    calibration: Calibration | None = None,
) -> None:
    """Write the new folder `destination`; it appears when it is complete, or not at all.

    A layer is in memory at a time, with the scales of those before it, and what `calibration` holds where the layers
    come from one. `wrote` is told the bytes of the source's tensors as they are read. Raises WeightsError where the
    destination is taken or the source is damaged as far as its checksums tell.
    """
    with new_folder(plan.source, destination, None) as new:
        write_weights(new.path, _tensors(plan, wrote, calibration), max_shard_bytes=SHARD_BYTES)
        if calibration is not None:
            calibration.finish()
        config = hf_config(plan.source) | {"quantization_config": plan.form.to_hf(_every_spelling(plan))}
        write_json(new.path / "config.json", config)
        write_ids(new, config)


def told(plan: Plan, folder: Path) -> list[str]:
    """What to say of a folder that was made: the sizes before and after, and what was left as it was."""
    before, after = plan.source.nbytes(), written_bytes(folder)
    sizes = f"{human_bytes(before)} to {human_bytes(after)}, {after / before:.0%}"
    lines = [f"{plan.source.kind} to {plan.form}: {len(plan.layers):,} layers, {sizes}"]
    if plan.left:
        more = f" and {len(plan.left) - 3:,} more" if len(plan.left) > 3 else ""
        lines.append(f"left as they are: {', '.join(plan.left[:3])}{more}")
    return lines


def written_bytes(folder: Path) -> int:
    """Bytes of the weights in a folder."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _every_spelling(plan: Plan) -> list[str]:
    """The layers that are left, by each name that a reader may have for them."""
    table = llm_blocks.find(plan.source.config.model_type).NAMES
    left = (spelling for name in plan.left for spelling in spellings(table, f"{name}.weight"))
    return [name.removesuffix(".weight") for name in left]


def _skipped(names: dict[str, str], skip: Collection[str], others: dict[str, str]) -> set[str]:
    """The paths of the layers that a pattern matches, by either name; `others` stay in any case."""
    found: set[str] = set()
    for pattern in skip:
        matching = {path for path, name in names.items() if fnmatchcase(name, pattern) or fnmatchcase(path, pattern)}
        if not matching and not any(fnmatchcase(name, pattern) for each in others.items() for name in each):
            raise ValueError(
                f"no linear layer matches --skip {pattern!r}; their names are as {next(iter(names.values()))}"
            )
        found |= matching
    return found


def _form(scheme: str, group: int | None, usual: int, layers: dict[str, Matrix]) -> CompressedTensors:
    """How the layers will be stored. ValueError where their inputs are no whole groups."""
    if scheme == "int8":
        if group is not None:
            raise ValueError("int8 has a scale for each row and no groups; leave --group_size out, or take int4")
        return CompressedTensors(bits=8, group_size=None, symmetric=True)
    size = usual if group is None else group
    form = CompressedTensors(bits=4, group_size=size, symmetric=False)
    for name, layer in layers.items():
        if size < 2 or layer.in_features % size:
            raise ValueError(
                f"{name} has {layer.in_features} inputs, which are no whole groups of {size}; choose another "
                f"--group_size, or leave the layer out with --skip {name}"
            )
    return form


def _tensors(plan: Plan, wrote: Wrote, calibration: Calibration | None) -> dict[str, Pending]:
    """Each tensor of the new folder by its name there."""
    stored, found = plan.source.names(), dict[str, Pending]()
    for name, tensor in hf_tensors(plan.source).items():
        layer = name.removesuffix(".weight")
        if layer in plan.layers and layer != name:
            path = plan.layers[layer]
            if calibration is not None and path in calibration.layers:
                found |= _stored(plan, layer, tensor.nbytes, partial(calibration.take, path), wrote)
            else:
                nearest = partial(_nearest, plan, path, tensor, stored.get(f"{path}.weight"))
                found |= _stored(plan, layer, tensor.nbytes, nearest, wrote)
        else:
            found[name] = reported(tensor, wrote)
    return found


def _stored(
    plan: Plan, layer: str, nbytes: int, quantized: Callable[[], llm_quant.Int8 | llm_quant.Int4], wrote: Wrote
) -> dict[str, Pending]:
    """The tensors of a layer, which `quantized` gives, of a weight that takes `nbytes` in the source."""
    form, prefix, matrix = plan.form, f"{layer}.", plan.matrices[plan.layers[layer]]
    made: dict[str, Tensor] = {}

    def read(suffix: str) -> Tensor:
        if suffix not in made:
            made.update(form.encode(quantized()))
            wrote(nbytes)
        return made.pop(suffix)

    n, k = matrix.out_features, matrix.in_features
    found: dict[str, Pending] = {}
    for suffix, entry in form.entries(n, k).items():
        dtype = _dtype(form, suffix)
        found[prefix + suffix] = Pending(dtype=dtype, shape=entry.shape, read=lambda suffix=suffix: read(suffix))
    shape = torch.tensor([n, k])  # known without the layer, which is read when its numbers are written
    found[f"{prefix}weight_shape"] = Pending(dtype=shape.dtype, shape=(2,), read=lambda: shape)
    return found


def _nearest(plan: Plan, path: str, tensor: Pending, stored: str | None) -> llm_quant.Int8 | llm_quant.Int4:
    """A layer rounded to the nearest; `stored` is the weight's name in the source, None for a part of a stack."""
    # in memory of its own: the pages of a mapped file would stay
    own = None if stored is None else torch.empty(tensor.shape, dtype=tensor.dtype)
    weight = tensor.read() if stored is None else plan.source.weights.read(stored, out=own)
    matrix = plan.matrices[path].of(weight)
    if plan.form.group_size is None:
        return llm_quant.round_int8(matrix)
    return llm_quant.round_int4(matrix, plan.form.group_size)


def _dtype(form: CompressedTensors, suffix: str) -> torch.dtype:
    """Scales have the dtype that rounding gives them, the rest is packed."""
    if suffix == "weight_scale":
        return torch.float32 if form.bits == 8 else torch.bfloat16
    return torch.int32

"""Reading a checkpoint folder into the Model of its architecture, or into a part of it."""

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import torch

import llm_sepweight
from llm_blocks.architectures import ArchitectureError, claimed_by, find, find_importer
from llm_blocks.checking import EMBEDDING, HEAD, is_quantized, require_layers
from llm_blocks.meta import without_storage
from llm_blocks.names import decider, is_computed
from llm_blocks.parameters import assign
from llm_blocks.reading import Reader
from llm_blocks.replacing import Replace, put_in, take_out
from llm_blocks.slices import part_layers
from llm_sepweight import PartSpec, Weights, WeightsError
from llm_sepweight.unread import why_unread

QUANTIZATION = "quantization_config"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """An open checkpoint: its sectioned `weights`, none of them read yet, and the architecture's `config`.

    `kind` is "hf", "sepweight" or the name of a foreign format. `raw` is the config.json, or for a foreign format what
    it would be. `quantization` says how layers are stored as whole numbers (llm_quant.formats), None where none are.
    Use it in a `with` block to let go of the files.
    """

    kind: str
    path: Path
    raw: dict[str, Any]
    config: Any
    weights: Weights
    quantization: Any = None

    @property
    def dtype(self) -> torch.dtype:
        """The checkpoint's own dtype, which `load` takes by default."""
        return main_dtype(self.weights, self.quantization)

    @property
    def left_out(self) -> tuple[str, ...]:
        """The file's names of tensors that this architecture has no use for, such as those of an image tower.

        Buffers that follow from config.json don't count, and neither does the second copy of a tied tensor.
        """
        names = find(self.config.model_type).NAMES
        return tuple(name for name in self.weights.dropped if not is_computed(names, name))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.weights.close()


def open_checkpoint(path: str | Path) -> Checkpoint:
    """The checkpoint at `path`: a folder with config.json, else whatever an installed importer claims.

    Raises ArchitectureError for an unknown model_type, ValueError for a configuration that can't be honoured,
    WeightsError for files that are missing or damaged.
    """
    path = Path(path)
    kind = _foreign(path)
    if kind is not None:
        config, weights = find_importer(kind).open(path)
        return Checkpoint(kind=kind, path=path, raw=config.to_hf(), config=config, weights=weights)
    raw, architecture, config, form = _read(path)
    parts = _parts(form)
    decide = decider(architecture.NAMES, source=path, num_layers=config.num_layers, parts=parts)
    weights = llm_sepweight.open(path, decider=decide)
    kind = "sepweight" if weights.layout.startswith("sepweight") else "hf"
    return Checkpoint(kind=kind, path=path, raw=raw, config=config, weights=weights, quantization=form)


def load_config(path: str | Path) -> Any:
    """The Config of the checkpoint at `path`, which may lack its weights if it has config.json; raises as above."""
    path = Path(path)
    if _foreign(path) is not None:
        with open_checkpoint(path) as checkpoint:
            return checkpoint.config
    return _read(path)[2]


def _read(path: Path) -> tuple[dict[str, Any], ModuleType, Any, Any]:
    """The config.json of a folder, the architecture that it names, that one's Config, and how layers are quantized."""
    raw, file = read_config(path), path / "config.json"
    if raw.get("model_type") is None:
        raise ArchitectureError(
            f"{file} lacks the key 'model_type', which names the architecture; take the file as the model's repository "
            "has it, or add the key"
        )
    try:
        architecture = find(raw["model_type"])
    except ArchitectureError as error:
        raise ArchitectureError(f"{file}: {error}") from error
    try:
        form = _quantization(raw)
        # what is left of the file is what the architecture computes with
        config = architecture.Config.from_hf({key: raw[key] for key in raw if key != QUANTIZATION})
        part_layers("f", config.num_layers)  # refuses more layers than any model has
        return raw, architecture, config, form
    except ValueError as error:
        # A Config is made of any dictionary and calls it config.json, if anything; the file itself is known here.
        said = str(error)
        named = said.replace("config.json", str(file), 1) if "config.json" in said else f"{file}: {said}"
        raise ValueError(named) from error


def _quantization(raw: dict[str, Any]) -> Any:
    """How layers are stored as whole numbers, None where none are; ValueError for a way that can't be honoured."""
    if raw.get(QUANTIZATION) is None:
        return None
    from llm_quant import formats

    return formats.parse(raw[QUANTIZATION])


def _parts(form: Any) -> tuple[str, ...]:
    if form is None:
        return ()
    from llm_blocks.quantized import parts_of_names

    return parts_of_names(form)


def _foreign(path: Path) -> str | None:
    return None if (path / "config.json").exists() else claimed_by(path)


def read_config(path: str | Path) -> dict[str, Any]:
    """The config.json of a checkpoint folder; WeightsError names the file when it is missing or malformed."""
    path = Path(path)
    unread = None if (path / "config.json").exists() or not path.exists() else why_unread(path)
    if unread is not None:  # an adapter or a GGUF file, for which a config.json would be no help
        raise WeightsError(unread)
    return dict(llm_sepweight.read_json(path / "config.json"))


def load(
    path: str | Path,
    part: str | PartSpec = "f",
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    trainable: bool = False,
    replace: Replace | None = None,
) -> Any:
    """The Model of the checkpoint folder `path`, or its `part` (e.g. "b 0-12"), in evaluation mode.

    The folder is read in place, tensor by tensor, in any layout that llm_sepweight or an installed importer reads.
    dtype None means the checkpoint's own: the one that takes the most bytes. Layers that are stored as whole numbers
    become `llm_quant.QuantizedLinear` in the layout that is fastest on the device, those of bitsandbytes
    `llm_quant.BnbLinear`; of a `trainable` model their numbers stay as they are.

    `replace` is given the model before anything is read, and names layers that are replaced as soon as their weights
    are there: so a model is quantized layer by layer, and never whole in memory as it was (see `fill`). Raises
    ArchitectureError for an unknown model_type, ValueError for a config.json or a part that can't be honoured,
    WeightsError for a tensor that is missing, unexpected or of another shape than config.json says.
    """
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"dtype must be a floating dtype of torch, such as torch.float16, not {dtype!r}")
    with open_checkpoint(path) as checkpoint:
        config, weights = checkpoint.config, checkpoint.weights
        _, layers = part_layers(part, config.num_layers)
        require_layers(weights, layers)
        with without_storage():
            model = find(config.model_type).Model(config, part)
        if checkpoint.quantization is None:
            fill(model, weights, device=device, dtype=dtype, trainable=trainable, replace=replace)
        elif replace is not None:
            raise ValueError(f"{path}: its weights are quantized, so no layer of it is replaced; leave replace out")
        else:
            _fill_quantized(model, checkpoint, device, dtype)
            model.requires_grad_(trainable)
    return model.eval()


def fill(
    model: Any,
    weights: Weights,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    trainable: bool = False,
    replace: Replace | None = None,
) -> None:
    """Give a model built on the meta device its tensors of sectioned `weights`; all is checked before any is read.

    The layers that `replace` names are read after all else, each when the one before it has been replaced. Their
    matrices come as the file has them, in its dtype, which is what the layer's replacement is made of.
    """
    reader = Reader(model, weights, dtype=dtype or main_dtype(weights), device=device)
    if model.config.tie_embeddings and model.end is not None:
        check_tied(weights)
    makers = {} if replace is None else replace(model)
    layers = take_out(model, makers)
    assign(model, lambda names: reader.read(names[0]), trainable=trainable)
    put_in(model, layers, makers, reader.stored)


def _fill_quantized(model: Any, checkpoint: Checkpoint, device: torch.device | str, dtype: torch.dtype | None) -> None:
    """`fill` for a checkpoint some of whose layers are quantized."""
    from llm_blocks import quantized

    form = checkpoint.quantization
    rest, layers = quantized.take_out(model, checkpoint.weights, form)
    dtype = dtype or checkpoint.dtype
    fill(model, rest, device=device, dtype=dtype)
    quantized.put_in(model, layers, checkpoint.weights, form, device=device, dtype=dtype)


def check_tied(weights: Weights) -> None:
    """A tied checkpoint may store the head a second time, but then it must be the embedding."""
    if HEAD not in weights or EMBEDDING not in weights or HEAD in weights.tied or EMBEDDING in weights.tied:
        return
    if not torch.equal(weights.read(HEAD), weights.read(EMBEDDING)):
        raise WeightsError(
            f"{weights.info(HEAD).file}: the head differs from the embedding, though config.json ties them; "
            "set tie_word_embeddings to false there"
        )


def main_dtype(weights: Weights, quantization: Any = None) -> torch.dtype:
    """The dtype that takes the most bytes of the whole checkpoint, so that every part of it gets the same.

    Quantized tensors don't count, for nothing is computed in their dtypes, nor do the scales of the layers that
    `quantization` describes; fp32 where there are no others.
    """
    if quantization is not None:
        from llm_blocks.quantized import unquantized

        weights = unquantized(weights, quantization)
    sizes: dict[torch.dtype, int] = {}
    for name in weights.names:
        info = weights.info(name)
        if not is_quantized(info.dtype):
            sizes[info.dtype] = sizes.get(info.dtype, 0) + info.nbytes
    return max(sizes, key=lambda dtype: sizes[dtype], default=torch.float32)

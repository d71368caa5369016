"""Where an `LLM` comes from (a checkpoint, or random numbers in the shape of a known model), and where it goes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import llm_blocks
from llm_blocks.loading import load_config, open_checkpoint
from llm_cli import models
from llm_cli.errors import suggestion
from llm_cli.placement import Placement
from llm_cli.quantizing import finish, is_quantized, quantize, while_read
from llm_tokenizer import Tokenizer, TokenizerError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer.bin")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model that can be put on a device: its config, and where to read it or None for random weights."""

    config: Any
    path: Path | None
    seed: int = 0

    def stored_dtype(self) -> torch.dtype:
        """The dtype that most bytes of the checkpoint have; bfloat16 for random weights. Reads headers alone."""
        if self.path is None:
            return torch.bfloat16
        with open_checkpoint(self.path) as checkpoint:
            return checkpoint.dtype

    def build(self, placement: Placement) -> Any:
        """The model on its device, in evaluation mode; a quantized one is rounded layer by layer as it is read."""
        where: dict[str, Any] = {"device": placement.device, "dtype": placement.dtype}
        where["replace"] = while_read(placement.quantize)
        if placement.quantize is not None:
            self._require_unquantized()
        if self.path is not None:
            model = llm_blocks.load(self.path, **where)
        else:
            model = llm_blocks.new_model(self.config, seed=self.seed, **where).eval()
        model.cache_dtype = placement.cache_dtype
        finish(model, placement.dtype)
        return model

    def _require_unquantized(self) -> None:
        if self.path is None:
            return
        with open_checkpoint(self.path) as checkpoint:
            if checkpoint.quantization is not None:
                raise ValueError(
                    f"the weights of '{self.path}' are quantized already ({checkpoint.quantization}); "
                    "leave quantize out, or load the unquantized checkpoint"
                )


def change(model: Any, now: Placement | None, wanted: Placement) -> None:
    """Move a loaded model to another placement, in place. ValueError to quantize weights that were read quantized."""
    scheme = wanted.quantize if now is None or now.quantize is None else None
    if scheme is not None and is_quantized(model):
        raise ValueError("the weights are quantized already; leave quantize out, or load the unquantized checkpoint")
    model.to(device=wanted.device, dtype=wanted.dtype)
    if scheme is not None:
        quantize(model, scheme)
    model.cache_dtype = wanted.cache_dtype
    finish(model, wanted.dtype)


def pretrained(path: Path) -> Source:
    """The checkpoint at a path; its configuration is read, its weights are not. Raises ValueError."""
    return Source(config=load_config(path), path=path)


def random_weights(model: str | Path, *, seed: int) -> Source:
    """A preset by name (in any case), or the config.json of a folder, without its weights. Raises ValueError."""
    if (Path(model) / "config.json").exists():
        return Source(config=pretrained(Path(model)).config, path=None, seed=seed)
    presets = _presets()
    by_name = {name.lower(): name for name in presets}
    name = by_name.get(str(model).lower()) or by_name.get(str(model).rpartition("/")[2].lower())
    if name is None:
        hint = suggestion(str(model), presets) or f"; there are {', '.join(sorted(presets))}"
        raise ValueError(
            f"init='random' needs a preset or a folder with config.json, and {str(model)!r} is neither{hint}"
        )
    return Source(config=presets[name], path=None, seed=seed)


def find_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer of a folder, None where it has no tokenizer file at all.

    TokenizerError for one that can't be read, with the way out where another file could take its place.
    """
    found = [name for name in TOKENIZER_FILES if (folder / name).exists()]
    if not found:
        return None
    try:
        return Tokenizer.load(folder)
    except TokenizerError as error:
        if found[0] == "tokenizer.json":
            raise
        raise TokenizerError(
            f"{error} Put the tokenizer.json of the model's Hugging Face repository into '{folder}', where it is read "
            "first, or give a folder that has one as tokenizer_dir."
        ) from error


def resolve_tokenizer(folder: str | Path, access_token: str | None) -> Tokenizer:
    """The tokenizer of a path, a name under checkpoints/ or a hub id. Raises ValueError."""
    return Tokenizer.load(models.resolve(folder, access_token=access_token, tokenizer_only=True))


def write_checkpoint(model: Any, tokenizer: Tokenizer | None, folder: str | Path) -> None:
    """Write a Hugging Face folder: config, weights and the tokenizer's files, complete or not at all.

    ValueError for a quantized model, whose weights have no place there.
    """
    if is_quantized(model):
        raise ValueError(
            "a quantized model can't be saved in this version; save the unquantized one, and `llm quantize` makes a "
            "quantized folder of that"
        )
    if tokenizer is None:
        return llm_blocks.save(model, folder)
    return llm_blocks.save(model, folder, extra_config=special_ids(tokenizer), copy=tokenizer.files)


def special_ids(tokenizer: Tokenizer) -> dict[str, Any]:
    """What config.json says of a tokenizer: the ids that begin and end a text, as far as it has them."""
    ends = list(tokenizer.end_ids)
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": ends[0] if len(ends) == 1 else ends or None}
    return {name: value for name, value in ids.items() if value is not None}


def _presets() -> dict[str, Any]:
    """The Config of every preset of the installed architectures, by name."""
    modules = map(llm_blocks.find, llm_blocks.installed_architectures())
    return {name: config for module in modules for name, config in module.PRESETS.items()}

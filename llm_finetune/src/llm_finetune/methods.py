"""What a method of finetuning does to a model: which parameters train, and what the finished folder holds."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

import llm_blocks
from llm_finetune.freezing import freeze, train_layers
from llm_finetune.objectives import Reference
from llm_tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Method:
    """How a model is made ready, and what comes of it.

    `prepare` is given the model, changes it in place and leaves requires_grad on what trains; a checkpoint holds those
    parameters by their names in the model. `reference(model)` is called after it, before anything is trained or read
    back, and gives the context that preferences compare with. `finish` writes the new folder of the result from the
    model and its tokenizer, complete or not at all. `rates` gives factors of the learning rate by parameter.
    """

    name: str
    prepare: Callable[[Any], None]
    finish: Callable[[Any, Path, Tokenizer | None], None]
    reference: Callable[[Any], Reference]
    rates: Callable[[Any], dict[str, float]] = lambda model: {}


def full(*, layers: str | None = None, frozen: str | None = None) -> Method:
    """All parameters train; the result is a Hugging Face folder.

    With `layers`, half-open ranges such as "24-32", those layers alone do; with `frozen` all but those. ValueError for
    both.
    """
    if layers is not None and frozen is not None:
        raise ValueError("the layers that train and those that are frozen can't both be chosen; give one of the two")

    def prepare(model: Any) -> None:
        _require_unrounded(model)
        if layers is not None:
            train_layers(model, layers)
        else:
            freeze(model, layers=frozen)

    return Method(name="full", prepare=prepare, finish=write_model, reference=_copied)


def write_model(model: Any, folder: Path, tokenizer: Tokenizer | None) -> None:
    """A whole model as a Hugging Face folder, with its tokenizer's files and the ids that begin and end a text."""
    if tokenizer is None:
        llm_blocks.save(model, folder)
        return
    ends = list(tokenizer.end_ids)
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": ends[0] if len(ends) == 1 else ends or None}
    known = {name: value for name, value in ids.items() if value is not None}
    llm_blocks.save(model, folder, extra_config=known, copy=tokenizer.files)


def _require_unrounded(model: nn.Module) -> None:
    if any(True for _ in model.buffers()):
        raise ValueError("a quantized model has no weights that could all be trained; load the unquantized checkpoint")


def _copied(model: nn.Module) -> Reference:
    """Where everything trains, the model before training is a frozen copy, made here."""
    frozen = copy.deepcopy(model).requires_grad_(False).eval()

    @contextmanager
    def reference(trained: nn.Module) -> Iterator[nn.Module]:
        yield frozen

    return reference

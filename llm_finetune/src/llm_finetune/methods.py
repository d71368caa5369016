"""What a method of finetuning does to a model: which parameters train, and what the finished folder holds."""

import copy
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

import llm_blocks
from llm_finetune.freezing import freeze, train_layers
from llm_finetune.objectives import Reference
from llm_finetune.spans import end_of_turn
from llm_tokenizer import Tokenizer
from llm_tokenizer.chat import read_templates
from llm_tokenizer.files import read_json_if_any

TEMPLATE, GENERATION = "chat_template.jinja", "generation_config.json"


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
    """A whole model as a Hugging Face folder, with its tokenizer's files and the ids that begin and end a text.

    A tokenizer with another chat template than its folder's (`Tokenizer.with_chat_template`) is written with that one,
    and the token that it ends an answer with is among those that end a text, so that what was trained is served.
    """
    if tokenizer is None:
        llm_blocks.save(model, folder)
        return
    ends = list(dict.fromkeys([*_end_of_turn(tokenizer), *tokenizer.end_ids]))
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": ends[0] if len(ends) == 1 else ends or None}
    known = {name: value for name, value in ids.items() if value is not None}
    with tempfile.TemporaryDirectory() as temporary:
        files = _tokenizer_files(tokenizer, known, Path(temporary))
        llm_blocks.save(model, folder, extra_config=known, copy=files)


def _end_of_turn(tokenizer: Tokenizer) -> list[int]:
    """What the chat template ends an answer with, where there is one."""
    found = None if tokenizer.chat_template is None else end_of_turn(tokenizer)
    return [] if found is None else [found]


def _tokenizer_files(tokenizer: Tokenizer, ids: dict[str, Any], temporary: Path) -> list[Path]:
    """The tokenizer's files, with a template and with ids of generating that are its own where its folder's aren't."""
    files = {path.name: path for path in tokenizer.files}
    source = tokenizer.files[0].parent
    given = tokenizer.chat_template
    if given is not None and given != _template_of(source):
        files = {name: path for name, path in files.items() if not name.startswith("chat_template.")}
        files = {name: path for name, path in files.items() if not name.endswith(".jinja")}
        files[TEMPLATE] = temporary / TEMPLATE
        files[TEMPLATE].write_bytes(given.encode())
    stated = read_json_if_any(source / GENERATION) if GENERATION in files else {}
    if set(_end_of_turn(tokenizer)) - set(tokenizer.end_ids):
        files[GENERATION] = temporary / GENERATION
        files[GENERATION].write_text(json.dumps({**stated, **ids}, indent=2) + "\n")
    return list(files.values())


def _template_of(folder: Path) -> str | None:
    return read_templates(folder, read_json_if_any(folder / "tokenizer_config.json")).get("default")


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

"""What `LLM.load` opens: a checkpoint or random weights, and the tokenizer for it."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from llm_cli import adapters, belonging, models
from llm_cli.source import Source, find_tokenizer, pretrained, random_weights, resolve_tokenizer
from llm_tokenizer import Tokenizer

TEMPLATE = "chat_template.jinja"


def open_model(
    model: str | Path | None,
    init: str,
    tokenizer_dir: str | Path | None,
    access_token: str | None,
    *,
    seed: int,
    named: Mapping[str, str | Path],
) -> tuple[Source, Tokenizer | None, dict[str, Path]]:
    """What the arguments of `LLM.load` ask for, none of the weights read yet: source, tokenizer, adapters' folders.

    Raises ValueError; warns, as from the caller of the caller, of a tokenizer that is probably another model's.
    """
    if init not in ("pretrained", "random"):
        raise ValueError(f"init must be 'pretrained' or 'random', not {init!r}")
    tokenizer = None if tokenizer_dir is None else resolve_tokenizer(tokenizer_dir, access_token)
    if init == "random":
        if model is None or tokenizer is None:
            raise ValueError(
                "init='random' needs the name of a preset (`llm info --presets` lists them) and tokenizer_dir=, "
                "a folder with a tokenizer"
            )
        return random_weights(model, seed=seed), tokenizer, _folders(named)
    adapter, folders = adapters.located(model), _folders(named)
    if adapter is None:
        path = models.resolve(model, access_token=access_token)
    else:
        path, folders = adapters.base_path(adapter, access_token=access_token), {adapters.DEFAULT: adapter} | folders
    source, tokenizer = pretrained(path), tokenizer or _tokenizer([*folders.values(), path])
    doubt = None if tokenizer is None else belonging.doubt(tokenizer, source.config.vocab_size)
    if doubt is not None:
        warnings.warn(doubt, belonging.TokenizerWarning, stacklevel=3)
    return source, tokenizer, folders


def _folders(named: Mapping[str, str | Path]) -> dict[str, Path]:
    found = {name: adapters.located(path) for name, path in named.items()}
    for name, folder in found.items():
        if folder is None:
            raise models.ModelNotFoundError(
                f"'{named[name]}' is no folder of an adapter, which has adapter_config.json and no config.json"
            )
    return {name: folder for name, folder in found.items() if folder is not None}


def _tokenizer(folders: Sequence[Path]) -> Tokenizer | None:
    """The tokenizer of the first folder that has one: an adapter's goes before its base's.

    An adapter without one may have the chat template that it was trained with, which goes before the base's.
    """
    found = next((found for folder in folders if (found := find_tokenizer(folder)) is not None), None)
    template = next((file for folder in folders if (file := folder / TEMPLATE).is_file()), None)
    if found is None or template is None or template.parent == found.files[0].parent:
        return found
    return found.with_chat_template(template.read_text(encoding="utf-8"))

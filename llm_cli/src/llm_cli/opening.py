"""What `LLM.load` opens: a checkpoint or random weights, and the tokenizer for it."""

import warnings
from pathlib import Path

from llm_cli import belonging, models
from llm_cli.source import Source, find_tokenizer, pretrained, random_weights, resolve_tokenizer
from llm_tokenizer import Tokenizer


def open_model(
    model: str | Path | None,
    init: str,
    tokenizer_dir: str | Path | None,
    access_token: str | None,
    *,
    seed: int,
) -> tuple[Source, Tokenizer | None]:
    """The source and tokenizer that the arguments of `LLM.load` ask for, none of the weights read yet.

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
        return random_weights(model, seed=seed), tokenizer
    path = models.resolve(model, access_token=access_token)
    source, tokenizer = pretrained(path), tokenizer or find_tokenizer(path)
    doubt = None if tokenizer is None else belonging.doubt(tokenizer, source.config.vocab_size)
    if doubt is not None:
        warnings.warn(doubt, belonging.TokenizerWarning, stacklevel=3)
    return source, tokenizer

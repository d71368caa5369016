"""`llm evaluate`: how good a model is, in numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from llm_cli.commands.sampling import AccessToken, Adapter, Model, Precision, TokenizerDir
from llm_cli.errors import UsageError, usage
from llm_cli.output import noticed, write_json, write_notice, write_text

if TYPE_CHECKING:
    from llm_cli.llm import LLM
    from llm_cli.measured_text import Text

NONE = "none"
BOS = {"auto": None, "true": True, "false": False}


def evaluate(
    model: Model = None,
    /,
    *,
    perplexity: Annotated[
        str | None, Parameter(help="A file of UTF-8 text to foretell token by token; - reads it from stdin.")
    ] = None,
    quantize: Annotated[
        str, Parameter(help="Round the weights as they are read; several with commas, as in none,int8,int4.")
    ] = NONE,
    precision: Precision = None,
    against: Annotated[
        str | None,
        Parameter(
            help="A model of the same tokenizer to compare with; default: the same one unquantized; none for no other."
        ),
    ] = None,
    against_precision: Annotated[
        Precision, Parameter(help="Precision of the model to compare with; by default as --precision.")
    ] = None,
    window: Annotated[
        int | None, Parameter(help="Tokens that the model sees at once; default: its context, or 2048 if that is less.")
    ] = None,
    stride: Annotated[
        int | None,
        Parameter(help="Tokens from one window to the next, by default the window; fewer give each more context."),
    ] = None,
    max_tokens: Annotated[int | None, Parameter(help="Use this many tokens of the text.")] = None,
    bos: Annotated[
        Literal["auto", "true", "false"], Parameter(help="Begin each window with BOS; auto: where the tokenizer does.")
    ] = "auto",
    batch_size: Annotated[int, Parameter(help="Windows in one forward.")] = 1,
    adapter: Adapter = None,
    tokenizer_dir: TokenizerDir = None,
    json: Annotated[bool, Parameter(help="Print one JSON object.")] = False,
    access_token: AccessToken = None,
) -> None:
    """Measure a model: perplexity on a text, and how far from the unquantized model its distributions are.

    Speed is that of reading, as of a prompt; memory is that of the weights.
    `llm generate` tells the speed of decoding. docs/evaluation.md explains
    the figures.
    """
    if perplexity is None:
        raise UsageError("there is nothing to measure; name a text with --perplexity FILE")
    from llm_cli.comparison import Sides, compare, read_schemes
    from llm_cli.evaluation_table import as_dict, table
    from llm_cli.measured_text import check_sizes, prepare, read_file

    sizes: dict[str, Any] = {"window": window, "stride": stride, "max_tokens": max_tokens, "batch_size": batch_size}
    with usage():  # what is wrong is told before anything is read
        schemes = read_schemes(quantize)
        check_sizes(**sizes)
        if against == NONE and against_precision is not None:
            raise ValueError("--against none leaves out the model whose precision --against_precision is; give one")
    source = read_file(perplexity)
    llm = _opened(model, tokenizer_dir, access_token, adapter)
    if not llm.has_tokenizer:
        raise ValueError("this checkpoint has no tokenizer to read the text with; name one with --tokenizer_dir")
    base = None if against == NONE else llm if against is None else _opened(against, None, access_token)
    text = prepare(llm, source, against=base, bos=BOS[bos], **sizes)
    write_notice(_described(text))
    sides = Sides(model=llm, base=base, precision=precision, base_precision=against_precision or precision)
    rows, base_row = compare(sides, text, schemes)
    if json:
        return write_json({"file": perplexity, **as_dict(text, rows, base_row)})
    return write_text(table(rows, base_row))


def _opened(model: str | None, tokenizer_dir: str | None, access_token: str | None, adapter: str | None = None) -> LLM:
    """A model whose weights are not read yet."""
    from llm_cli.adapters import read_named
    from llm_cli.belonging import TokenizerWarning
    from llm_cli.llm import LLM

    named = None if adapter is None else read_named([adapter])
    with noticed(TokenizerWarning):
        return LLM.load(model, tokenizer_dir=tokenizer_dir, access_token=access_token, distribute=None, adapters=named)


def _described(text: Text) -> str:
    overlap = "" if text.stride == text.window else f", a new one every {text.stride:,}"
    return f"{text.scored:,} tokens in windows of {text.window:,}{overlap}{'' if text.prefix else ', without BOS'}"

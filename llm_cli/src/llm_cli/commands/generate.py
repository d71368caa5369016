"""`llm generate`: continue a prompt."""

from __future__ import annotations

import secrets
import sys
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from llm_cli.commands.sampling import DEFAULT_SAMPLING, AccessToken, Model, Precision, Sampling, SystemPrompt
from llm_cli.errors import usage
from llm_cli.output import write_json

if TYPE_CHECKING:
    from llm_cli.completion import Completion
    from llm_cli.llm import LLM

QUESTION = "What food do llamas eat?"


def generate(
    model: Model = None,
    /,
    *,
    prompt: Annotated[
        str, Parameter(help="The text to continue or answer; - reads it from stdin, without its last newline.")
    ] = QUESTION,
    sys_prompt: SystemPrompt = None,
    num_samples: Annotated[int, Parameter(help="How many continuations to make.")] = 1,
    max_new_tokens: Annotated[int, Parameter(help="Most tokens of a continuation.")] = 50,
    min_new_tokens: Annotated[int, Parameter(help="No end before this many tokens.")] = 0,
    sampling: Sampling = DEFAULT_SAMPLING,
    prompt_ids: Annotated[
        str | None, Parameter(help="Ids instead of a text, as in 1,403,407; no template, needs no tokenizer.")
    ] = None,
    raw: Annotated[bool, Parameter(help="Leave the chat template out.")] = False,
    ignore_eos: Annotated[bool, Parameter(help="Go on past the ids that end a text.")] = False,
    precision: Precision = None,
    json: Annotated[bool, Parameter(help="One JSON object a sample, on a line of its own.")] = False,
    access_token: AccessToken = None,
) -> None:
    """Continue a prompt. The text alone goes to stdout, as it comes where there is one sample."""
    options: dict[str, Any] = {"seed": secrets.randbits(31), **sampling.given()}
    options |= {"max_new_tokens": max_new_tokens, "min_new_tokens": min_new_tokens}
    options |= {"ignore_eos": ignore_eos, "num_samples": num_samples}
    with usage():
        given = None if prompt_ids is None else parse_ids(prompt_ids)
    text = sys.stdin.read().removesuffix("\n") if prompt == "-" and given is None else prompt
    from llm_cli.generation import check_prompts
    from llm_cli.llm import LLM
    from llm_cli.options import Options

    # Wrong values, and a prompt that doesn't fit, are told before the weights are read.
    with usage():
        Options(**options)
    llm = LLM.load(model, access_token=access_token, distribute=None)
    ids = given or llm.encode(text, sys_prompt=sys_prompt, raw=raw)
    check_prompts([ids], vocab_size=llm.config.vocab_size, limit=llm.context_length)
    if not json and not llm.has_tokenizer:
        raise ValueError("this checkpoint has no tokenizer to make text with; add --json to get the ids")
    llm.distribute(precision=precision)
    completions = write_samples(llm, ids, options, as_json=json)
    _report(completions, options["seed"] if sampling.temperature > 0 else None)


def parse_ids(text: str) -> list[int]:
    """`1,403,407` as a list. Raises ValueError."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--prompt_ids takes numbers with commas between, as in 1,403,407, not {text!r}") from None


def write_samples(llm: LLM, ids: list[int], options: dict[str, Any], *, as_json: bool) -> list[Completion]:
    """Generate and write the samples to stdout: as text, streamed where there is one, or as JSON lines."""
    run = llm.start(ids, **options)
    if as_json or options["num_samples"] > 1:
        for completion in run.finish():
            if as_json:
                write_json(as_dict(completion))
            else:
                sys.stdout.write(f"{completion.text}\n")
        return run.completions
    for piece in run:
        sys.stdout.write(piece.text)
        sys.stdout.flush()
    sys.stdout.write("\n")
    return run.completions


def as_dict(completion: Completion) -> dict[str, Any]:
    """What --json says of a sample; `tokens_per_second` is that of decoding, without the prompt."""
    names = ("text", "token_ids", "finish_reason", "prompt_tokens", "seconds", "tokens_per_second")
    return {name: getattr(completion, name) for name in names}


def _report(completions: list[Completion], seed: int | None) -> None:
    """One line on stderr: how long it took, and the seed that repeats it."""
    tokens = sum(len(one.token_ids) for one in completions)
    seconds = max(one.seconds for one in completions)
    speeds = [one.tokens_per_second for one in completions if one.tokens_per_second]
    parts = [f"{tokens} tokens in {seconds:.2f} s", f"prompt of {completions[0].prompt_tokens} tokens"]
    parts += [f"decoding {sum(speeds):.1f} tokens/s"] if speeds else []
    parts += [] if seed is None else [f"seed {seed}"]
    sys.stderr.write(", ".join(parts) + "\n")

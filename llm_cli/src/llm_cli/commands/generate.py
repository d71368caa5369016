"""`llm generate`: continue a prompt."""

from __future__ import annotations

import secrets
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from llm_cli.commands.prompt_cache import NO_PROMPT_CACHE, Keeper, PromptCacheFile
from llm_cli.commands.sampling import (
    DEFAULT_SAMPLING,
    HUGE_PAGES,
    AccessToken,
    Adapter,
    Compile,
    HugePages,
    KvCache,
    Model,
    Precision,
    Quantize,
    Sampling,
    SystemPrompt,
    TokenizerDir,
)
from llm_cli.commands.speculation import NO_SPECULATION, Speculation, report
from llm_cli.errors import usage
from llm_cli.output import noticed, write_json, write_lines, write_notice, write_text

if TYPE_CHECKING:
    from llm_cli.completion import Completion
    from llm_cli.llm import LLM
    from llm_cli.prompts import Prompt

QUESTION = "What food do llamas eat?"


def generate(
    model: Model = None,
    /,
    *,
    prompt: Annotated[
        str | None,
        Parameter(help=f"The text to continue or answer, by default {QUESTION!r}; - reads it from stdin."),
    ] = None,
    sys_prompt: SystemPrompt = None,
    num_samples: Annotated[int, Parameter(help="How many continuations to make.")] = 1,
    max_new_tokens: Annotated[int, Parameter(help="Most tokens of a continuation.")] = 50,
    min_new_tokens: Annotated[int, Parameter(help="No end before this many tokens.")] = 0,
    sampling: Sampling = DEFAULT_SAMPLING,
    speculation: Speculation = NO_SPECULATION,
    prompt_ids: Annotated[
        str | None, Parameter(help="Ids instead of a text, as in 1,403,407; no template, needs no tokenizer.")
    ] = None,
    prompt_file: PromptCacheFile = NO_PROMPT_CACHE,
    raw: Annotated[bool, Parameter(help="Leave the chat template out.")] = False,
    ignore_eos: Annotated[bool, Parameter(help="Go on past the ids that end a text.")] = False,
    precision: Precision = None,
    quantize: Quantize = None,
    kv_cache: KvCache = None,
    huge_pages: HugePages = "auto",
    compile: Compile = False,
    adapter: Adapter = None,
    tokenizer_dir: TokenizerDir = None,
    json: Annotated[bool, Parameter(help="One JSON object a sample, on a line of its own.")] = False,
    logprobs: Annotated[
        int | None, Parameter(help="With --json: log-probabilities of each id, and of this many best ones.")
    ] = None,
    access_token: AccessToken = None,
) -> None:
    """Continue a prompt. The text alone goes to stdout, as it comes where there is one sample."""
    options: dict[str, Any] = {"seed": secrets.randbits(31), **sampling.given(), "num_samples": num_samples}
    options |= {"max_new_tokens": max_new_tokens, "min_new_tokens": min_new_tokens, "ignore_eos": ignore_eos}
    options |= {"logprobs": logprobs, "compile": compile}
    from llm_cli import compiling
    from llm_cli.adapters import read_named
    from llm_cli.belonging import TokenizerWarning
    from llm_cli.generation import check_prompts
    from llm_cli.llm import LLM
    from llm_cli.options import Options
    from llm_cli.placement import settle_threads
    from llm_cli.quantizing import tell_lost

    # Wrong values, and a prompt that doesn't fit, are told before the weights are read.
    with usage():
        source = read_text(prompt) if prompt_ids is None else parse_ids(prompt_ids, prompt)
        options |= speculation.given()
        Options(**options)
        if logprobs is not None and not json:
            raise ValueError("--logprobs are told in JSON alone; add --json")
        if raw and sys_prompt is not None:
            raise ValueError("--raw leaves out the chat template that --sys_prompt needs; give one of them")
    keeper = prompt_file.keeper()
    if compile:
        compiling.begin()
    with noticed(TokenizerWarning):
        places: dict[str, Any] = {"tokenizer_dir": tokenizer_dir, "draft_model": speculation.draft_model}
        places["adapters"] = None if adapter is None else read_named([adapter])
        llm = LLM.load(model, access_token=access_token, distribute=None, **places)
    check_tokenizer(llm, source, as_json=json)
    ids = llm.encode(source, sys_prompt=sys_prompt, raw=raw)
    check_prompts([ids], vocab_size=llm.config.vocab_size, limit=llm.context_length)
    llm.distribute(precision=precision, quantize=quantize, kv_cache=kv_cache, huge_pages=HUGE_PAGES[huge_pages])
    settle_threads(llm.model)
    tell_lost(llm)
    options |= {"sys_prompt": sys_prompt, "raw": raw, "cache": None if keeper is None else keeper.open(llm)}
    completions = write_samples(llm, source, options, as_json=json, keeper=keeper)
    _report(completions, options["seed"] if sampling.temperature > 0 else None, reused=keeper is not None)
    if any(one.context_ended(max_new_tokens) for one in completions):
        write_notice(f"the context of {llm.context_length} tokens is full, so the text ended before --max_new_tokens")


def check_tokenizer(llm: LLM, source: str | list[int], *, as_json: bool) -> None:
    """Raise ValueError where a tokenizer is needed, to read the prompt or to make text, and the checkpoint has none."""
    if llm.has_tokenizer or (as_json and not isinstance(source, str)):
        return
    raise ValueError(
        "this checkpoint has no tokenizer; name one with --tokenizer_dir, or give ids with --prompt_ids and get ids "
        "with --json"
    )


def read_text(prompt: str | None) -> str:
    """The prompt itself, or for `-` what stands on stdin, without its last newline."""
    return sys.stdin.read().removesuffix("\n") if prompt == "-" else QUESTION if prompt is None else prompt


def parse_ids(text: str, prompt: str | None = None) -> list[int]:
    """`1,403,407` as a list. Raises ValueError, also where a prompt in words was given as well."""
    if prompt is not None:
        raise ValueError("--prompt and --prompt_ids both say what to continue; give one of them")
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--prompt_ids takes numbers with commas between, as in 1,403,407, not {text!r}") from None


def write_samples(
    llm: LLM, prompt: Prompt, options: dict[str, Any], *, as_json: bool, keeper: Keeper | None = None
) -> list[Completion]:
    """Generate and write the samples to stdout: as text, streamed where there is one, or as JSON lines.

    The prompt is kept when the first token has come, so that it is there whatever ends the text.
    """
    run, streamed = llm.start(prompt, **options), not as_json and options["num_samples"] == 1
    for number, piece in enumerate(run):
        if streamed:
            write_text(piece.text)
        if number == 0 and keeper is not None:
            keeper.keep()
    if streamed:
        write_text("\n")
    for completion in [] if streamed else run.completions:
        if as_json:
            write_json(as_dict(completion))
        else:
            write_lines(completion.text or "")
    return run.completions


def as_dict(completion: Completion) -> dict[str, Any]:
    """What --json says of a sample; `tokens_per_second` is that of decoding, without the prompt."""
    names = ("text", "token_ids", "finish_reason", "prompt_tokens", "cached_tokens", "seconds", "tokens_per_second")
    told = {name: getattr(completion, name) for name in names}
    if completion.passes:
        names = ("proposed_tokens", "accepted_tokens", "passes", "speed_up")
        told |= {name: getattr(completion, name) for name in names}
    if completion.logprobs is not None:
        told["logprobs"] = [asdict(one) for one in completion.logprobs]
    return told


def _report(completions: list[Completion], seed: int | None, *, reused: bool) -> None:
    """On stderr: how long it took, what a prompt cache gave, the seed that repeats it, what came of speculating."""
    tokens = sum(len(one.token_ids) for one in completions)
    seconds = max(one.seconds for one in completions)
    speeds = [one.tokens_per_second for one in completions if one.tokens_per_second]
    parts = [f"{tokens} tokens in {seconds:.2f} s", f"prompt of {completions[0].prompt_tokens} tokens"]
    parts += [f"{completions[0].cached_tokens} of them from the prompt cache"] if reused else []
    parts += [f"decoding {sum(speeds):.1f} tokens/s"] if speeds else []
    parts += [] if seed is None else [f"seed {seed}"]
    sys.stderr.write(", ".join(parts) + "\n")
    told = report(completions)
    if told:
        write_notice(told)

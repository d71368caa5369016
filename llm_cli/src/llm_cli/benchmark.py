"""Measure one generation after another: the numbers behind `LLM.benchmark`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from llm_cli.completion import Completion
from llm_cli.options import check_keywords

if TYPE_CHECKING:
    from llm_cli.llm import LLM

Measures = dict[str, float | list[float]]


def run_benchmark(llm: LLM, num_iterations: int, **arguments: Any) -> tuple[str, Measures]:
    """The last text, and what `measures` says: numbers for one iteration, lists of numbers for several."""
    if num_iterations < 1:
        raise ValueError(f"num_iterations must be 1 or more, not {num_iterations}")
    check_keywords(arguments)
    for name in ("stream", "return_as_token_ids"):  # accepted as in generate; they change nothing that is measured
        arguments.pop(name, None)
    rounds, text = [], ""
    for _ in range(num_iterations):
        if llm.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(llm.device)
        completions = llm.complete(**arguments)
        if len(completions) > 1:
            raise ValueError(f"benchmark measures one prompt and one sample, not {len(completions)}")
        rounds.append(measures(llm, completions[0]))
        text = completions[0].text or ""
    if num_iterations == 1:
        return text, {**rounds[0]}
    return text, {name: [one[name] for one in rounds] for name in rounds[0]}


def measures(llm: LLM, completion: Completion) -> dict[str, float]:
    """What one completion says about speed. Decoding leaves out the prompt and the first token, which comes with it.

    The bytes that a decoding step reads are the weights it multiplies with and the cache up to the middle of the
    answer; with speculation a step is a pass, which may give several tokens, and what a draft reads is left out. A
    measure that needs two tokens is 0 where there is one.
    """
    tokens = len(completion.token_ids)
    speed = completion.tokens_per_second or 0.0
    steps = speed * completion.passes / (tokens - 1) if completion.passes else speed
    middle = completion.prompt_tokens + tokens // 2
    result = {
        "Inference speed in tokens/sec": tokens / completion.seconds,
        "Seconds to first token": completion.first_token_seconds,
        "Seconds total": completion.seconds,
        "Tokens generated": tokens,
        "Prefill speed in tokens/sec": completion.prompt_tokens / completion.first_token_seconds,
        "Decode speed in tokens/sec": speed,
        "Bytes read per second": steps * bytes_per_token(llm.model, middle),
    }
    if llm.device.type == "cuda":
        result["Total GPU memory allocated in GB"] = torch.cuda.max_memory_allocated(llm.device) / 1e9
    return result


def bytes_per_token(model: Any, length: int) -> int:
    """Bytes that decoding one token reads with `length` positions in the cache.

    An embedding table counts only where it is also the head: of an embedding one row is read.
    """
    tables = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    heads = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Linear)}
    weights = sum(p.numel() * p.element_size() for p in model.parameters() if id(p) in heads or id(p) not in tables)
    if length == 0:
        return weights
    cache = model.new_cache(1, length, device="meta")
    return weights + sum(stored.nbytes for each in (cache.k, cache.v) for stored in each.values())

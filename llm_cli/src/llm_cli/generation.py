"""One generation: prompts as ids in, pieces of text and completions out. Shapes: B batch, T time, V vocabulary."""

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import llm_sampler
from llm_cli.completion import Completion, Piece, Row, TokenLogprob, with_speculation
from llm_cli.drafting import Propose, proposer
from llm_cli.feeding import Feeder
from llm_cli.huge_pages import Settling
from llm_cli.options import Options
from llm_cli.reading import PromptCache, padded
from llm_cli.stopping import StopText
from llm_sampler import Pace, SpeculativeReport
from llm_tokenizer import TextStream, Tokenizer

CONTEXT = 16  # ids: more than the bytes of a character, so that decoding is in step after so many


class Generation:
    """Iterate (once) for the pieces as they come; leaving early is allowed.

    `continued` says that the prompts are beginnings of the texts that are generated. `completions` has what there is so
    far: prompt by prompt, and sample by sample of each. What can be wrong with
    prompts and options raises ValueError here, before any work. `draft` is the draft model of speculative decoding,
    `step` what is called in place of the model to read and to decode, `settling` what may be done between two steps.
    """

    def __init__(
        self,
        model: Any,
        prompts: list[list[int]],
        options: Options,
        *,
        tokenizer: Tokenizer | None,
        continued: bool = False,
        limit: int,
        fixed_length: int | None = None,
        cache: PromptCache | None = None,
        draft: Any = None,
        step: Any = None,
        settling: Settling | None = None,
    ) -> None:
        check_prompts(prompts, vocab_size=model.config.vocab_size, limit=limit)
        if options.stop_texts and tokenizer is None:
            raise ValueError("stop strings need a tokenizer, which this checkpoint lacks; stop at ids instead")
        if cache is not None and len(prompts) > 1:
            raise ValueError("a PromptCache goes with one prompt; leave it out for several, which share what they can")
        self._model, self._prompts, self._options = model, prompts, options
        self._end_ids = options.end_ids(tokenizer)
        self._rows = [
            Row(
                prompt_tokens=len(ids),
                budget=min(options.max_new_tokens, limit - len(ids)),
                stop=StopText(options.stop_texts),
                stream=None if tokenizer is None else _stream(tokenizer, ids if continued else []),
                min_new_tokens=options.min_new_tokens,
            )
            for ids in prompts
            for _ in range(options.num_samples)
        ]
        caller = model if step is None else step
        feeder = Feeder(caller, prompts, self._rows, limit=limit, fixed_length=fixed_length, cache=cache)
        self._speculation: SpeculativeReport | None = None
        followed = cache if options.num_samples == 1 else None
        steps = self._sampler_steps(feeder, proposer(options, feeder, model, draft, cache=followed))
        self._steps = steps if settling is None else settling.between(steps)
        self._pieces = self._run()

    def __iter__(self) -> Iterator[Piece]:
        return self._pieces

    @property
    def completions(self) -> list[Completion]:
        plain = [row.completion(with_logprobs=self._options.logprobs is not None) for row in self._rows]
        return plain if self._speculation is None else with_speculation(plain, self._speculation)

    def finish(self) -> list[Completion]:
        """Run to the end; the completions."""
        for _ in self:
            pass
        return self.completions

    def _sampler_steps(self, feeder: Feeder, propose: Propose | None) -> Iterator[llm_sampler.Step]:
        samples, seed = self._options.num_samples, self._options.seed
        device = next(self._model.parameters()).device
        ids = [ids for ids in self._prompts for _ in range(samples)]
        arguments: dict[str, Any] = {
            "lengths": torch.tensor([len(row) for row in ids], device=device),
            "end_ids": self._end_ids,
            "seeds": None if seed is None else [seed + i for _ in self._prompts for i in range(samples)],
            **self._options.sampling(),
        }
        prompts, budgets = padded(ids).to(device), [row.budget for row in self._rows]
        if propose is None:
            return llm_sampler.steps(feeder.one, prompts, budgets, cached=True, **arguments)
        self._speculation = SpeculativeReport()
        arguments |= {"pace": Pace(self._options.speculative_tokens), "report": self._speculation}
        return llm_sampler.speculative_steps(feeder.several, propose, prompts, budgets, **arguments)

    @torch.inference_mode()
    def _run(self) -> Iterator[Piece]:
        began, waited = time.perf_counter(), 0.0
        for step in self._steps:
            ids = step.ids.tolist()
            seconds = time.perf_counter() - began - waited
            logprobs = _logprobs(step, ids)
            handed_over = time.perf_counter()
            for index, row in enumerate(self._rows):
                if row.finish_reason is None and ids[index] >= 0:
                    row.logprobs += logprobs[index : index + 1]
                    yield Piece(row=index, id=ids[index], text=row.push(ids[index], self._end_ids, seconds))
            waited += time.perf_counter() - handed_over  # what the caller does with a piece is no part of our speed
            if all(row.finish_reason is not None for row in self._rows):
                return


def _stream(tokenizer: Tokenizer, before: list[int]) -> TextStream:
    """A decoder for what follows the ids: a word in the middle of a text keeps the space in front of it."""
    stream = tokenizer.stream()
    for known in before[-CONTEXT:]:
        stream.push(known)
    return stream


def texts_of(run: Generation) -> Iterator[str]:
    """The pieces of text of a generation with one row, without the empty ones."""
    return (piece.text for piece in run if piece.text)


def ids_of(run: Generation) -> Iterator[Tensor]:
    """The ids (1,) of a generation with one row."""
    return (torch.tensor([piece.id]) for piece in run)


def result_of(completion: Completion, as_ids: bool, whole: bool) -> str | Tensor | Completion | None:
    """What a caller gets of one completion: all of it, its ids (T,), or its text."""
    if whole:
        return completion
    return torch.tensor(completion.token_ids, dtype=torch.int64) if as_ids else completion.text


def check_prompts(prompts: list[list[int]], *, vocab_size: int, limit: int) -> None:
    """Raise ValueError for a prompt that is empty, holds an id outside the vocabulary or leaves no room for an answer.

    `limit` is the number of tokens that prompt and answer may have together.
    """
    for ids in prompts:
        if not ids:
            raise ValueError("the prompt is empty and this tokenizer puts no BOS id in front; write at least a word")
        wrong = next((i for i in ids if not 0 <= i < vocab_size), None)
        if wrong is not None:
            raise ValueError(f"the prompt holds the id {wrong}, but this model knows the ids 0 to {vocab_size - 1}")
        if len(ids) >= limit:
            raise ValueError(
                f"the prompt has {len(ids)} tokens and the context holds {limit}, the answer included; "
                f"shorten the prompt to {limit - 1} tokens or fewer, or use a model with a longer context"
            )


def _logprobs(step: llm_sampler.Step, ids: list[int]) -> list[TokenLogprob]:
    """One entry a row, or none where none were asked for."""
    if step.logprobs is None:
        return []
    top: list[list[tuple[int, float]]] = [[] for _ in ids]
    if step.top_ids is not None and step.top_logprobs is not None:
        rows = zip(step.top_ids.tolist(), step.top_logprobs.tolist(), strict=True)
        top = [list(zip(*row, strict=True)) for row in rows]
    chosen = step.logprobs.tolist()
    return [TokenLogprob(id=i, logprob=c, top=tuple(t)) for i, c, t in zip(ids, chosen, top, strict=True)]

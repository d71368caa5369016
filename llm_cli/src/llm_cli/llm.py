"""The class that composes the family: weights, model, tokenizer and sampler. Shapes: B batch, T time, V vocabulary."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self, Unpack, overload

import torch
from torch import Tensor

from llm_cli import belonging
from llm_cli.benchmark import Measures, run_benchmark
from llm_cli.call import Call
from llm_cli.completion import Completion
from llm_cli.generation import Generation, ids_of, result_of, texts_of
from llm_cli.huge_pages import Settling
from llm_cli.learning import finetuned
from llm_cli.opening import open_model
from llm_cli.options import GenerateOptions
from llm_cli.pairing import check_pair, precision_of
from llm_cli.placement import place, placed
from llm_cli.prompts import Prompt, Prompts, as_list
from llm_cli.running import Running
from llm_cli.source import Source, write_checkpoint
from llm_tokenizer import Tokenizer


class LLM:
    """A language model with its tokenizer: `LLM.load(...)`, then `generate`."""

    def __init__(self, source: Source, tokenizer: Tokenizer | None, adapters: Mapping[str, Path] | None = None) -> None:
        self._source, self._tokenizer, self._adapters = source, tokenizer, dict(adapters or {})
        self._running: Running | None = None
        self._draft: LLM | None = None

    def __repr__(self) -> str:
        path = "random weights" if self._source.path is None else repr(str(self._source.path))
        return f"<LLM {self.config.model_type}: {placed(self._running and self._running.model)}, {path}>"

    @classmethod
    def load(
        cls,
        model: str | Path | None = None,
        init: Literal["pretrained", "random"] = "pretrained",
        tokenizer_dir: str | Path | None = None,
        access_token: str | None = None,
        distribute: Literal["auto"] | None = "auto",
        *,
        seed: int = 0,
        draft_model: str | Path | None = None,
        adapters: Mapping[str, str | Path] | None = None,
    ) -> Self:
        """Load a model: a folder, a name under checkpoints/, a hub id (fetched when absent), or None for the demo.

        An adapter's folder is its base model with the adapter; `adapters` are more of them by name, of which the first
        is used unless a call says otherwise.

        init="random" takes the name of a preset or a folder with config.json and needs `tokenizer_dir`; `seed` sets
        the weights. distribute=None reads no weights until `.distribute(...)` says where they go. `draft_model` names
        a smaller model of the same tokenizer, which goes where this one goes and proposes tokens (docs/speculation.md).
        Raises ValueError for anything that can't be loaded; warns of a tokenizer that is probably another model's.
        """
        if distribute not in ("auto", None):
            raise ValueError(f"distribute must be 'auto' or None (then call .distribute()), not {distribute!r}")
        llm = cls(*open_model(model, init, tokenizer_dir, access_token, seed=seed, named=adapters or {}))
        if draft_model is not None:
            draft = llm._draft = cls.load(draft_model, access_token=access_token, distribute=None)
            check_pair(llm._tokenizer, llm.config.vocab_size, draft._tokenizer, draft.config.vocab_size)
        if distribute == "auto":
            llm.distribute()
        return llm

    def distribute(
        self,
        accelerator: str = "auto",
        devices: str | int = "auto",
        precision: str | None = None,
        quantize: str | None = None,
        generate_strategy: str | None = None,
        fixed_kv_cache_size: int | Literal["max_model_supported"] | None = None,
        kv_cache: Literal["int8"] | None = None,
        huge_pages: bool | None = None,
    ) -> None:
        """Read the weights onto a device, or move them where they are loaded already.

        accelerator: "auto" takes cuda, else mps, else cpu. precision: "32-true", "bf16-true" or "16-true"; by default
        the checkpoint's own, except that a CPU runs half types in bfloat16 where it has instructions for that and
        else in float32. fixed_kv_cache_size: how many tokens prompt and answer may have together, allocated whole.
        kv_cache: "int8" keeps keys and values in half the memory of bf16. quantize: "int8" or "int4" rounds weights
        to whole numbers as they are read, "bnb.nf4", "bnb.fp4" (also with "-dq") and "bnb.int8" as bitsandbytes does.
        huge_pages: copy mapped weights to memory that kernels read faster at once, never or, by default, in long use.
        Raises ValueError for what this version lacks, and for another precision where this one has rounded the weights.
        """
        stored = self._source.stored_dtype()
        where: dict[str, Any] = {"accelerator": accelerator, "devices": devices, "generate_strategy": generate_strategy}
        what: dict[str, Any] = {"precision": precision, "quantize": quantize, "huge_pages": huge_pages}
        cache: dict[str, Any] = {"fixed_kv_cache_size": fixed_kv_cache_size, "kv_cache": kv_cache}
        placement = place(stored=stored, **where, **what, **cache)
        if self._running is None:
            self._running = Running.start(self._source, placement, self._adapters)
        else:
            self._running = self._running.moved(self._source, placement)
        if self._draft is not None:
            self._draft.distribute(accelerator, devices, precision_of(placement.dtype), kv_cache=kv_cache)
        self._running.settling = Settling([llm.model for llm in (self, self._draft) if llm is not None], huge_pages)

    @property
    def model(self) -> Any:
        """The `torch.nn.Module`. Raises ValueError before `.distribute()` when loaded with distribute=None."""
        return self._placed.model

    @property
    def _placed(self) -> Running:
        if self._running is None:
            raise ValueError("the weights are not loaded yet (distribute=None); call .distribute() first")
        return self._running

    @property
    def adapters(self) -> list[str]:
        """The names of the adapters that were loaded, the first of which is used unless a call says otherwise."""
        return list(self._adapters if self._running is None else self._running.folders)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def config(self) -> Any:
        """The architecture's Config."""
        return self._source.config

    @property
    def tokenizer(self) -> Tokenizer:
        """Raises ValueError where the checkpoint has none; ids work without it."""
        if self._tokenizer is None:
            raise ValueError("this checkpoint has no tokenizer; load with tokenizer_dir=, or work with ids alone")
        return self._tokenizer

    @property
    def has_tokenizer(self) -> bool:
        return self._tokenizer is not None

    @property
    def context_length(self) -> int:
        """How many tokens prompt and answer may have together."""
        fixed = None if self._running is None else self._running.placement.fixed_kv_cache_size
        return min(fixed, self.config.max_positions) if isinstance(fixed, int) else self.config.max_positions

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits (B, T, V) of ids (B, T), wherever they are; gradients as torch's mode and the weights have it."""
        return self.model(input_ids.to(self.device))

    __call__ = forward

    def encode(self, prompt: Prompt, *, sys_prompt: str | None = None, raw: bool = False) -> list[int]:
        """The ids that `generate` would give the model for one prompt, in its chat template if it has one."""
        size = self.config.vocab_size
        return belonging.encode(prompt, self._tokenizer, vocab_size=size, sys_prompt=sys_prompt, raw=raw)

    def start(
        self,
        prompt: Prompt | Prompts,
        *,
        logprobs: int | None = None,
        num_samples: int = 1,
        **options: Unpack[GenerateOptions],
    ) -> Generation:
        """A generation to iterate over: pieces of text as they come, with `completions` at any time.

        The arguments are those of `generate`. Raises ValueError for what is wrong with them, before any work.
        """
        given = {**options, "logprobs": logprobs, "num_samples": num_samples}
        call = Call.read(prompt, given, self.encode, self._tokenizer)
        draft = None if self._draft is None else self._draft._placed.caller(call.options)
        return self._placed.begin(call, self._tokenizer, limit=self.context_length, draft=draft)

    def complete(
        self,
        prompt: Prompt | Prompts,
        *,
        logprobs: int | None = None,
        num_samples: int = 1,
        **options: Unpack[GenerateOptions],
    ) -> list[Completion]:
        """Like `generate`, with all that is known of each continuation: prompt by prompt, and sample by sample."""
        return self.start(prompt, logprobs=logprobs, num_samples=num_samples, **options).finish()

    @overload
    def generate(
        self,
        prompt: Prompt,
        *,
        stream: Literal[False] = False,
        return_as_token_ids: Literal[False] = False,
        **options: Unpack[GenerateOptions],
    ) -> str: ...
    @overload
    def generate(
        self,
        prompt: Prompts,
        *,
        stream: Literal[False] = False,
        return_as_token_ids: Literal[False] = False,
        **options: Unpack[GenerateOptions],
    ) -> list[str]: ...
    @overload
    def generate(
        self, prompt: Prompt | Prompts, *, num_samples: int, **options: Unpack[GenerateOptions]
    ) -> list[str]: ...
    @overload
    def generate(
        self,
        prompt: Prompt,
        *,
        stream: Literal[True],
        return_as_token_ids: Literal[False] = False,
        **options: Unpack[GenerateOptions],
    ) -> Iterator[str]: ...
    @overload
    def generate(
        self,
        prompt: Prompt,
        *,
        stream: Literal[True],
        return_as_token_ids: Literal[True],
        **options: Unpack[GenerateOptions],
    ) -> Iterator[Tensor]: ...
    @overload
    def generate(
        self, prompt: Prompt, *, return_as_token_ids: Literal[True], **options: Unpack[GenerateOptions]
    ) -> Tensor: ...
    @overload
    def generate(
        self, prompt: Prompts, *, return_as_token_ids: Literal[True], **options: Unpack[GenerateOptions]
    ) -> list[Tensor]: ...
    @overload
    def generate(self, prompt: Prompt, *, logprobs: int, **options: Unpack[GenerateOptions]) -> Completion: ...
    @overload
    def generate(self, prompt: Prompts, *, logprobs: int, **options: Unpack[GenerateOptions]) -> list[Completion]: ...
    def generate(
        self,
        prompt: Prompt | Prompts,
        *,
        stream: bool = False,
        return_as_token_ids: bool = False,
        logprobs: int | None = None,
        num_samples: int | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Any:
        """Continue a prompt: a text, messages (dicts with role and content), a list of ids, or a list of these.

        A text or messages go through the checkpoint's chat template where it has one; `raw=True` leaves a text alone
        and `sys_prompt` adds a system message. The prompt isn't part of the result; a text without template and its
        result make one text when joined. Prompts of unequal length run as one batch. Prompt and answer share
        `context_length` tokens: a longer prompt raises, a longer answer ends there.

        Gives a str; with stream=True an iterator of pieces (never half a character, never a part of a stop string);
        with return_as_token_ids=True a Tensor (T,) int64, an end id included, or an iterator of (1,); with `logprobs`
        (how many of the most probable ids to tell, 0 for the chosen alone) a Completion. A list of prompts gives a
        list, and so does num_samples=n, prompt by prompt. The other options are fields of `options.Options`, such as
        max_new_tokens (50), temperature (1.0; 0 is greedy), top_p, stop, seed and speculative; `adapter` is the name of
        the adapter that answers, several with weights ({"sql": 0.5}), or None for the base alone.
        """
        several = as_list(prompt)[1] or num_samples is not None
        if not return_as_token_ids and logprobs is None and self._tokenizer is None:
            raise ValueError("this checkpoint has no tokenizer to make text with; use return_as_token_ids=True")
        if stream and (several or logprobs is not None):
            raise ValueError("stream=True gives the text of one prompt; use start() to follow several, or logprobs")
        run = self.start(prompt, logprobs=logprobs, num_samples=num_samples or 1, **options)
        if stream:
            return ids_of(run) if return_as_token_ids else texts_of(run)
        results = [result_of(one, return_as_token_ids, logprobs is not None) for one in run.finish()]
        return results if several else results[0]

    def benchmark(self, num_iterations: int = 1, **arguments: Any) -> tuple[str, Measures]:
        """Generate and measure: the text of the last iteration, and numbers by name (lists for several iterations).

        The arguments are those of `generate` for one prompt; it always streams, so that the first token is timed.
        """
        return run_benchmark(self, num_iterations, **arguments)

    def finetune(self, data: Any, **options: Any) -> Any:
        """Train on rows, or a file of them, with the options of `llm_finetune.finetune`; gives its Run.

        Then this LLM has learnt. Without `method` it is LoRA, as `lora=Lora(...)` says, which is merged at the end
        but beside quantized weights. ValueError for what doesn't go together, and while it has adapters.
        """
        self._running, run = finetuned(self._placed, self._source, self._tokenizer, data, **options)
        return run

    def merge(self) -> None:
        """Add the first adapter to the weights, for full speed, and drop the others. ValueError for rounded weights."""
        self._running = self._placed.merged()

    def save(self, out_dir: str | Path) -> None:
        """Write a Hugging Face folder (config, weights, tokenizer) that `LLM.load` and transformers read.

        The folder appears complete or not at all. Raises ValueError where a checkpoint stands already.
        """
        write_checkpoint(self.model, self._tokenizer, out_dir)

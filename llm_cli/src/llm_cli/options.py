"""What a caller may ask of a generation."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, get_args

from torch import Tensor

import llm_sampler
from llm_cli.errors import suggestion
from llm_cli.reading import PromptCache
from llm_tokenizer import Tokenizer

Speculative = Literal["ngram", "draft", "self", "off"]
MOST_PROPOSALS = 32  # a round has up to twice as many, and windowed layers can be rolled back by 64 positions


class SamplingOptions(TypedDict, total=False):
    """The keywords that say how to continue a prompt; `Options` has their meaning and defaults."""

    max_new_tokens: int
    min_new_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    logit_bias: Mapping[int, float] | Tensor | None
    stop: str | int | Sequence[str | int] | None
    ignore_eos: bool
    seed: int | None
    speculative: Speculative | None
    speculative_tokens: int
    speculative_layers: int | None
    compile: bool


class GenerateOptions(SamplingOptions, total=False):
    """The keywords of `LLM.generate`, `start` and `complete`: how to read the prompt, and how to continue it."""

    sys_prompt: str | None
    raw: bool
    cache: PromptCache | None
    adapter: str | Mapping[str, float] | None


# All that `LLM.generate` takes, for whoever misspells one of them.
KEYWORDS = (
    *sorted(GenerateOptions.__optional_keys__),
    "logprobs",
    "num_samples",
    "prompt",
    "return_as_token_ids",
    "stream",
)


def check_keywords(given: Iterable[str]) -> None:
    """ValueError for a keyword that `LLM.generate` doesn't have, with the nearest one."""
    for name in given:
        if name not in KEYWORDS:
            hint = suggestion(name, KEYWORDS) or f"; there are {', '.join(KEYWORDS)}"
            raise ValueError(f"there is no option {name!r} of a generation{hint}")


MOST_SAMPLES = 4096


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to continue a prompt. The filters are those of llm_sampler, which checks their values.

    `stop` holds strings (the text ends before the first of them, wherever token borders are) and single ids.
    Sample i of each prompt draws with `seed` + i, so a prompt and a seed give the same text in any company.

    `speculative` says who proposes tokens that the model then checks, several at once: "ngram" the text so far,
    "draft" the draft model that was loaded, "self" the model's first `speculative_layers` (by default a quarter of
    them); None is "draft" where there is a draft model, else "off". The text is the same in any case. About
    `speculative_tokens` are proposed at a time: more where they are right, none where they aren't.

    `compile` has torch.compile make one function of each step, which takes from seconds to minutes the first time.
    """

    max_new_tokens: int = 50
    min_new_tokens: int = 0
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = 1.0
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Mapping[int, float] | Tensor | None = None
    stop: str | int | Sequence[str | int] | None = None
    ignore_eos: bool = False
    seed: int | None = None
    speculative: Speculative | None = None
    speculative_tokens: int = 4
    speculative_layers: int | None = None
    compile: bool = False
    num_samples: int = 1
    logprobs: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_samples"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number from 1 up, not {value!r}")
        if not isinstance(self.compile, bool):
            raise ValueError(f"compile must be True or False, not {self.compile!r}")
        if self.num_samples > MOST_SAMPLES:  # each takes a row of the batch, with a cache of its own
            raise ValueError(f"num_samples must be at most {MOST_SAMPLES}, not {self.num_samples}; call again for more")
        if any(stop == "" or not isinstance(stop, str | int) for stop in self.stops):
            raise ValueError(f"stop must hold non-empty strings or ids, not {self.stop!r}")
        self._check_seed()
        self._check_speculation()
        llm_sampler.SamplingOptions(**self.sampling())  # checks the values of the filters

    def _check_seed(self) -> None:
        low, high = -(2**63), 2**63 - self.num_samples  # sample i draws with seed + i, all of them of 64 bits
        if self.seed is not None and not (isinstance(self.seed, int) and low <= self.seed <= high):
            raise ValueError(f"seed must be a whole number from {low} to {high}, not {self.seed!r}")

    def _check_speculation(self) -> None:
        names, tokens, layers = get_args(Speculative), self.speculative_tokens, self.speculative_layers
        if self.speculative not in (None, *names):
            raise ValueError(f"speculative must be one of {', '.join(names)}, not {self.speculative!r}")
        if type(tokens) is not int or not 1 <= tokens <= MOST_PROPOSALS:
            raise ValueError(f"speculative_tokens must be a whole number from 1 to {MOST_PROPOSALS}, not {tokens!r}")
        if layers is not None and (type(layers) is not int or layers < 1):
            raise ValueError(f"speculative_layers must be a whole number from 1 up, not {layers!r}")
        if layers is not None and self.speculative != "self":
            raise ValueError("speculative_layers goes with speculative='self' alone; leave it out, or say that")

    @property
    def stops(self) -> tuple[str | int, ...]:
        """The stop strings and ids, also when one alone was given."""
        return (self.stop,) if isinstance(self.stop, str | int) else tuple(self.stop or ())

    @property
    def stop_texts(self) -> tuple[str, ...]:
        return tuple(stop for stop in self.stops if isinstance(stop, str))

    def end_ids(self, tokenizer: Tokenizer | None) -> tuple[int, ...]:
        """The ids that end a text: the tokenizer's, unless they are to be ignored, and those among the stops."""
        own = () if tokenizer is None or self.ignore_eos else tokenizer.end_ids
        return (*own, *(stop for stop in self.stops if isinstance(stop, int)))

    def sampling(self) -> dict[str, Any]:
        """The arguments that llm_sampler takes as they are."""
        names = "temperature top_k top_p min_p typical_p repetition_penalty presence_penalty frequency_penalty"
        return {name: getattr(self, name) for name in [*names.split(), "logit_bias", "min_new_tokens", "logprobs"]}

"""The options of sampling, the same in every command that generates."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from cyclopts import Parameter

Precision = Annotated[
    Literal["32-true", "bf16-true", "16-true"] | None,
    Parameter(help="Default: the checkpoint's own; on a CPU half types run as bf16-true, or 32-true without BF16."),
]
Quantize = Annotated[
    Literal["int8", "int4", "bnb.nf4", "bnb.nf4-dq", "bnb.fp4", "bnb.fp4-dq", "bnb.int8"] | None,
    Parameter(help="Round the weights of linear layers and experts as they are read; bnb.int8 needs bitsandbytes."),
]
KvCache = Annotated[
    Literal["int8"] | None,
    Parameter(help="Keep keys and values as int8, in half the memory of bf16; default: in the precision."),
]
HugePages = Annotated[
    Literal["auto", "true", "false"],
    Parameter(help="Copy mapped bf16 weights to huge pages, which a CPU reads faster: at once, never, or in long use."),
]
HUGE_PAGES = {"auto": None, "true": True, "false": False}
Compile = Annotated[
    bool, Parameter(help="Compile the decoding step, which takes a while the first time and is kept for later runs.")
]
Model = Annotated[
    str | None, Parameter(help="A folder (an adapter's too), a name under checkpoints/ or a hub id; default: the demo.")
]
Adapter = Annotated[str | None, Parameter(help="The folder of an adapter to put onto MODEL, its base.")]
SystemPrompt = Annotated[str | None, Parameter(help="System prompt, for models with a chat template.")]
TokenizerDir = Annotated[
    str | None, Parameter(help="Where the tokenizer is, if not beside the weights: a folder, a file, or a hub id.")
]
AccessToken = Annotated[str | None, Parameter(help="Hub token, for models that need one.")]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to draw tokens and when to stop; flags of the command line by the same names."""

    top_k: Annotated[int | None, Parameter(help="Draw from the k most probable tokens.")] = 50
    top_p: Annotated[float, Parameter(help="Draw from the most probable tokens that have this mass together.")] = 1.0
    temperature: Annotated[float, Parameter(help="0 always takes the most probable token.")] = 0.8
    min_p: Annotated[float | None, Parameter(help="Leave out tokens below this share of the best one's mass.")] = None
    typical_p: Annotated[float | None, Parameter(help="Locally typical sampling with this mass.")] = None
    repetition_penalty: Annotated[float | None, Parameter(help="Above 1 discourages tokens seen before.")] = None
    presence_penalty: Annotated[float | None, Parameter(help="Subtracted once from tokens of the answer.")] = None
    frequency_penalty: Annotated[float | None, Parameter(help="Subtracted for each use of a token.")] = None
    stop: Annotated[list[str] | None, Parameter(help="A text that ends the answer; may be repeated.")] = None
    seed: Annotated[int | None, Parameter(help="Repeats a run; sample or answer i draws with seed + i.")] = None

    def given(self) -> dict[str, Any]:
        """The options that have a value, as keywords of `LLM.generate`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


DEFAULT_SAMPLING = Sampling()

"""Every option of a training run, with its default. Plain dataclasses: they are made without torch.

A key that isn't there is refused by Python, and by pydantic where a dictionary is read (`TypeAdapter(Settings)`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter

Schedule = Literal["cosine", "linear", "constant", "wsd"]
OptimizerName = Literal["AdamW", "SGD", "Muon", "AdamW8bit", "PagedAdamW", "PagedAdamW8bit"]
Objective = Literal["sft", "dpo", "orpo"]
Precision = Literal["32-true", "bf16-true", "bf16-mixed", "16-true", "16-mixed"]

_TWINS = (("lr", "learning_rate"), ("weight_decay", "weight_decay"), ("betas", "beta1"), ("betas", "beta2"))
_OWN = {"SGD": ("momentum", "nesterov"), "Muon": ("betas", "eps", "momentum", "nesterov")}
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True)
class Train:
    """How long and how fast. Whichever of epochs, max_steps, max_tokens and max_time is reached first ends the run.

    A step is one update of the weights, from `global_batch_size` rows, `micro_batch_size` of which are computed at a
    time: fewer take less memory and change nothing else. `max_tokens` counts positions that went through the model,
    `max_time` seconds. Warm-up is a number of steps or a fraction of all. `max_norm` clips the norm of all gradients.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    save_interval: int | None = 1000  # steps between checkpoints; None for one at the end alone
    log_interval: int = 1
    global_batch_size: int = 16
    micro_batch_size: int = 1
    lr_warmup_steps: int | None = None  # None: 100, or a tenth of a run that has no more than 100
    lr_warmup_fraction: float | None = None
    epochs: int = 5
    max_steps: int | None = None
    max_tokens: int | None = None
    max_time: float | None = None
    max_seq_length: int | None = None  # tokens of a row beyond these are cut off; None for the model's context
    learning_rate: float = 3e-4
    min_lr: float = 6e-5
    schedule: Schedule = "cosine"
    cooldown_fraction: float = 0.2  # of all steps, in which wsd falls to min_lr
    weight_decay: float = 0.02
    beta1: float = 0.9
    beta2: float = 0.95
    max_norm: float | None = None
    tie_embeddings: bool | None = None  # of full finetuning: one weight for embedding and head; None: as the model is
    chunk_size: int = 256  # positions whose logits are in memory at once
    activation_checkpointing: bool = False  # compute layers again in backward instead of keeping what they made
    shard: Literal["auto"] | bool = "auto"  # over processes, by FSDP2; auto: on CUDA, where the model allows it
    keep: int = 2  # newest checkpoints
    keep_best: bool = True
    patience: int | None = None  # evaluations without a better loss that end the run

    def __post_init__(self) -> None:
        _at_least(self, 1, "save_interval log_interval global_batch_size micro_batch_size epochs max_steps max_tokens")
        _at_least(self, 1, "chunk_size keep patience")
        _at_least(self, 2, "max_seq_length")
        _at_least(self, 0, "lr_warmup_steps lr_warmup_fraction max_time learning_rate min_lr weight_decay max_norm")
        _below(self, 1, "lr_warmup_fraction cooldown_fraction beta1 beta2")
        if self.max_norm == 0:
            raise ValueError("train.max_norm is 0, with which nothing is learnt; leave it out for no clipping")


@dataclass(frozen=True, kw_only=True)
class Eval:
    """How often the validation rows are looked at, and how many of them; `max_iters` counts micro-batches.

    With a tokenizer each evaluation also continues the prompt of one row, greedily, by up to `max_new_tokens`: that of
    `evaluate_example`, the first, one at random (by the seed, the same each time) or the one of this number from 0.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    interval: int | None = 100  # steps; None for none between the first and the last
    max_iters: int = 100
    initial_validation: bool = False
    final_validation: bool = True
    max_new_tokens: int | None = 100  # None for no text
    evaluate_example: Literal["first", "random"] | int = "first"

    def __post_init__(self) -> None:
        _at_least(self, 1, "interval max_iters max_new_tokens")
        if isinstance(self.evaluate_example, int):
            _at_least(self, 0, "evaluate_example")


@dataclass(frozen=True, kw_only=True)
class Log:
    """What loggers call a run; the loop itself only passes it on with its first event."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    project: str | None = None
    run: str | None = None
    group: str | None = None


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """An optimizer by name, and what it has instead of the values of `Train`; None leaves those.

    `momentum` and `nesterov` are those of SGD and Muon. AdamW8bit and the paged ones are bitsandbytes'.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: OptimizerName = "AdamW"
    lr: float | None = None
    weight_decay: float | None = None
    betas: tuple[float, float] | None = None
    eps: float | None = None
    momentum: float | None = None
    nesterov: bool | None = None

    def __post_init__(self) -> None:
        _at_least(self, 0, "lr weight_decay eps momentum")
        _below(self, 1, "momentum")
        if self.betas is not None and not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optimizer.betas are two numbers from 0 to below 1, not {self.betas}")
        own = _OWN.get(self.name, ("betas", "eps"))
        for name in ("betas", "eps", "momentum", "nesterov"):
            if getattr(self, name) is not None and name not in own:
                raise ValueError(f"{self.name} has no {name}, only {', '.join(own)}; leave it out")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A whole run. `seed` decides the order of rows and what dropout drops; `beta`, `label_smoothing` are DPO's.

    `precision` is the dtype of weights and products; the mixed ones keep fp32 weights and multiply in 16 bits. Adapters
    are fp32 in all of them.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    train: Train = field(default_factory=Train)
    eval: Eval = field(default_factory=Eval)
    log: Log = field(default_factory=Log)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    objective: Objective | None = None  # None: by the rows, dpo for pairs and sft else
    beta: float = 0.1
    label_smoothing: float = 0.0
    precision: Precision | None = None  # None: the dtype that the model has
    seed: int = 1337

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(f"beta is {self.beta}, but must be above 0")
        if not 0 <= self.label_smoothing <= 0.5:
            raise ValueError(f"label_smoothing is {self.label_smoothing}, but must be from 0 to 0.5")
        plain = Train()
        for name, twin in _TWINS:
            if getattr(self.optimizer, name) is not None and getattr(self.train, twin) != getattr(plain, twin):
                raise ValueError(f"optimizer.{name} and train.{twin} say the same thing; give one of them")
        if self.train.schedule != "constant" and self.train.min_lr > self.learning_rate:
            raise ValueError(f"train.min_lr {self.train.min_lr} is above the learning rate {self.learning_rate}")

    @property
    def learning_rate(self) -> float:
        """The peak of the schedule."""
        return self.train.learning_rate if self.optimizer.lr is None else self.optimizer.lr


def make_settings(given: Mapping[str, Any]) -> Settings:
    """Settings of nested dictionaries, as JSON and YAML have them; ValueError names a key that isn't one."""
    return TypeAdapter(Settings).validate_python(dict(given))


def _at_least(settings: Any, least: float, names: str) -> None:
    for name in names.split():
        value = getattr(settings, name)
        if value is not None and not least <= value < float("inf"):
            raise ValueError(f"{_option(settings, name)} is {value}, but must be at least {least}")


def _below(settings: Any, limit: float, names: str) -> None:
    for name in names.split():
        value = getattr(settings, name)
        if value is not None and not 0 <= value < limit:
            raise ValueError(f"{_option(settings, name)} is {value}, but must be from 0 to below {limit}")


def _option(settings: Any, name: str) -> str:
    assert name in {each.name for each in fields(settings)}
    return f"{type(settings).__name__.lower().removesuffix('settings')}.{name}"

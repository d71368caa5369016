"""All that a finetuning command can be told, in one value. Plain dataclasses: it is made without torch."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pydantic import ConfigDict

from llm_finetune.data_settings import DataSettings
from llm_finetune.lora_settings import Lora
from llm_finetune.settings import Settings

MethodName = Literal["lora", "full", "adapter", "adapter_v2"]
Quantization = Literal["int8", "int4", "bnb.nf4", "bnb.nf4-dq", "bnb.fp4", "bnb.fp4-dq", "bnb.int8"]
LoggerName = Literal["csv", "tensorboard", "wandb", "mlflow"]

_OF = {  # what goes with some methods alone
    "lora": ("lora",),
    "lora_plus_ratio": ("lora",),
    "adapter_prompt_length": ("adapter", "adapter_v2"),
    "adapter_start_layer": ("adapter", "adapter_v2"),
    "freeze_layers": ("full",),
    "train_layers": ("full",),
    "merge": ("lora",),
    "quantize": ("lora", "adapter", "adapter_v2"),
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run of finetuning: which model, which data, which method, and the settings of the loop.

    model: a folder, a name or a hub id; None is the model that ships with the command. out_dir: None is
    out/finetune/ and the method. quantize: how the base model's weights are rounded while they are read (QLoRA).
    resume: true, "auto" or a checkpoint's folder. merge: the result of LoRA is a whole model; else, and of a quantized
    one, it is the adapter.

    ValueError for what doesn't go with the method.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    method: MethodName = "lora"
    model: str | None = None
    out_dir: str | None = None
    quantize: Quantization | None = None
    devices: int | Literal["auto"] = 1
    num_nodes: int = 1
    lora: Lora = field(default_factory=Lora)
    lora_plus_ratio: float | None = None
    merge: bool = True
    adapter_prompt_length: int = 10
    adapter_start_layer: int = 2
    freeze_layers: str | None = None
    train_layers: str | None = None
    data: DataSettings = field(default_factory=DataSettings)
    settings: Settings = field(default_factory=Settings)
    logger_name: LoggerName = "csv"
    resume: bool | str = False

    def __post_init__(self) -> None:
        for name, methods in _OF.items():
            if self.method not in methods and getattr(self, name) != _default(name):
                options = "the lora_ options go" if name == "lora" else f"{name} goes"
                raise ValueError(f"{options} with the method {' or '.join(methods)}, not with {self.method}")
        if self.method != "full" and self.settings.train.tie_embeddings is not None:
            raise ValueError(f"train.tie_embeddings goes with the method full, not with {self.method}")
        if self.freeze_layers is not None and self.train_layers is not None:
            raise ValueError("freeze_layers and train_layers both say which layers train; give one of them")
        if self.devices != "auto" and self.devices < 1:
            raise ValueError(f"devices is {self.devices}, but must be at least 1, or auto for all that there are")
        if self.num_nodes < 1:
            raise ValueError(f"num_nodes is {self.num_nodes}, but must be at least 1")

    @property
    def folder(self) -> str:
        """Where the run writes: out_dir, or the method's own folder."""
        return self.out_dir or f"out/finetune/{self.method.replace('_', '-')}"


def _default(name: str) -> object:
    default = Job.__dataclass_fields__[name]
    return default.default_factory() if callable(default.default_factory) else default.default

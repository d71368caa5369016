"""A finished adapter's folder, whatever its kind, put onto the model that it was trained on."""

from pathlib import Path

from torch import nn

from llm_finetune.adapter_file import read_adapter
from llm_finetune.peft_config import CONFIG, read_config
from llm_finetune.peft_format import apply
from llm_finetune.prompt_format import apply_prompts, is_prompts, read_prompt_config


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder holds an adapter rather than a whole model."""
    folder = Path(folder)
    return (folder / CONFIG).is_file() and not (folder / "config.json").exists()


def base_of(folder: str | Path) -> str | None:
    """The base model's name or path as the adapter's folder has it. WeightsError for a folder that isn't one."""
    folder = Path(folder)
    return (read_prompt_config(folder) if is_prompts(folder) else read_config(folder)).base


def load_adapter(model: nn.Module, folder: str | Path, *, name: str = "default") -> nn.Module:
    """Put the adapter in `folder` onto `model` in place, as `name`, and make it the active one; gives `model`.

    WeightsError for files that are damaged or can't be honoured, ValueError where the model is another than its base.
    """
    folder = Path(folder)
    if is_prompts(folder):
        return apply_prompts(model, folder, name=name)
    return apply(model, read_adapter(folder), name)

"""LoRA as a method of finetuning: what trains, what preferences are compared with, and the result."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from llm_finetune.lora import add_lora, disabled, lora_layers, lora_parameters
from llm_finetune.lora_settings import Lora
from llm_finetune.merging import unload
from llm_finetune.methods import Method, write_model
from llm_finetune.peft_format import write_adapter
from llm_finetune.targets import lora_targets
from llm_quant import LinearLike
from llm_tokenizer import Tokenizer

ADAPTER = "adapter"


def with_lora(
    lora: Lora | None = None, *, base: str | None = None, seed: int = 1337, plus_ratio: float | None = None
) -> Method:
    """Adapters train and everything else is frozen; `seed` decides where they begin.

    Beside the folder of the result there is `adapter`, in PEFT's form, whose base model's name or path is `base`. The
    result is the model with its adapter merged, in memory as in the folder. A quantized model (QLoRA) has no room for
    it: there the result is the adapter itself, for which `base` is needed. `plus_ratio` is how many times faster B
    learns than A (LoRA+, arXiv 2402.12354). ValueError where the settings mean no layer of the model.
    """
    settings = lora or Lora()
    if plus_ratio is not None and not 0 < plus_ratio < float("inf"):
        raise ValueError(f"plus_ratio is a number above 0, not {plus_ratio}; 16 is usual")

    def prepare(model: Any) -> None:
        targets = lora_targets(model, settings)
        if base is None and any(_is_rounded(model.get_submodule(path)) for path in targets):
            raise ValueError("the result for a quantized model is an adapter, which names its base model: give base")
        add_lora(model, targets, settings, seed=seed)

    def finish(model: Any, folder: Path, tokenizer: Tokenizer | None) -> None:
        if any(_is_rounded(layer.base) for layer in lora_layers(model).values()):
            write_adapter(folder, model, settings, base=base or "")
            return
        beside = folder.parent / ADAPTER
        shutil.rmtree(beside, ignore_errors=True)  # of a run that ended between the two
        write_adapter(beside, model, settings, base=base or "")
        write_model(unload(model), folder, tokenizer)

    def rates(model: Any) -> dict[str, float]:
        if plus_ratio is None:
            return {}
        ours = {id(each) for name, each in lora_parameters(model).items() if name.endswith(".b")}
        return {name: plus_ratio for name, each in model.named_parameters() if id(each) in ours}

    return Method(name="lora", prepare=prepare, finish=finish, reference=without_adapters, rates=rates)


def _is_rounded(layer: nn.Module) -> bool:
    return not isinstance(layer, nn.Linear | LinearLike)


def without_adapters(model: nn.Module) -> Any:
    """Without its adapters the model is as it was before training."""

    @contextmanager
    def reference(trained: nn.Module) -> Iterator[nn.Module]:
        with disabled(trained):
            yield trained

    return reference

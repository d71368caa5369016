"""In which dtype weights are kept and products computed, and losses scaled where gradients would vanish.

"32-true", "bf16-true" and "16-true" keep and compute in one dtype. "bf16-mixed" and "16-mixed" (arXiv 1710.03740) keep
weights, gradients and what the optimizer remembers in fp32, and multiply matrices in 16 bits.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from llm_finetune.settings import Precision
from llm_finetune.state import Progress

_KEPT: Mapping[str, torch.dtype] = {
    "32-true": torch.float32,
    "bf16-true": torch.bfloat16,
    "16-true": torch.float16,
    "bf16-mixed": torch.float32,
    "16-mixed": torch.float32,
}
_MIXED: Mapping[str, torch.dtype] = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
GROWTH_INTERVAL = 2000


def stored_dtype(precision: Precision | None) -> torch.dtype | None:
    """The dtype to load a model's weights in; None, the checkpoint's own, without a precision."""
    return None if precision is None else _KEPT[precision]


@torch.no_grad()
def convert(model: nn.Module, precision: Precision | None) -> None:
    """Bring a model's parameters to the dtype of a precision, in place, one at a time.

    Those stay that a model keeps in fp32 whatever its dtype (`Decoder.exact`), and the numbers of quantized layers.
    """
    wanted = stored_dtype(precision)
    exact = getattr(model, "exact", ())
    for name, parameter in model.named_parameters() if wanted is not None else ():
        if parameter.is_floating_point() and not name.endswith(tuple(exact) or "\0"):
            parameter.data = parameter.data.to(wanted)


def computing(precision: Precision | None, device: torch.device) -> AbstractContextManager[Any]:
    """A block for the forward of a loss, in which products are computed as a mixed precision says; backward is outside.

    Nothing that was cast is kept for a second use: a cast made without a gradient, as DPO's reference is, would be
    taken for one with it.
    """
    dtype = _MIXED.get(precision or "")
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None, cache_enabled=False)


class LossScale:
    """What the loss of "16-mixed" is multiplied by, so that small gradients are numbers in fp16; 1 for the others.

    As torch.amp.GradScaler: halved where a gradient is no number, and that step changes nothing; doubled after 2000
    steps in a row that were. The state is the progress of the run, and thus in its checkpoints. (GradScaler itself
    looks at one optimizer and one process at a time.)
    """

    def __init__(self, precision: Precision | None, progress: Progress) -> None:
        self._wanted, self._progress = precision == "16-mixed", progress

    @property
    def value(self) -> float:
        """The scale of the next step."""
        return self._progress.loss_scale if self._wanted else 1.0

    def skips(self, norm: float) -> bool:
        """Whether a step of this gradient norm is left out; takes note of it."""
        progress = self._progress
        if not self._wanted:
            return False
        if norm - norm != 0 and progress.loss_scale > 1:  # an infinity or NaN; at scale 1 it isn't the scale's doing
            progress.loss_scale, progress.scale_steps = progress.loss_scale / 2, 0
            return True
        progress.scale_steps += 1
        if progress.scale_steps == GROWTH_INTERVAL:
            progress.loss_scale, progress.scale_steps = progress.loss_scale * 2, 0
        return False

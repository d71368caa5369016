"""Optimizers by name, several of them behind one, whose whole state can be written and read.

Shapes: those of the parameters.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from llm_finetune.settings import OptimizerSettings, Settings

Named = Mapping[str, nn.Parameter]
State = tuple[dict[str, Tensor], dict[str, float]]
"""What optimizers remember: tensors by "{parameter}/{key}", and single numbers by the same names."""


class Optimizers:
    """One or more torch optimizers that take their steps together. `names` has every trained parameter's name."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer], parameters: Named) -> None:
        self.parts = list(parts)
        self.names = {id(parameter): name for name, parameter in parameters.items()}

    def step(self, rate: float) -> None:
        """One update at this learning rate, times each group's own factor (`lr_scale`)."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = rate * group.get("lr_scale", 1.0)
            part.step()

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def state(self) -> State:
        """All that the next step depends on beside the parameters."""
        tensors: dict[str, Tensor] = {}
        numbers: dict[str, float] = {}
        for part in self.parts:
            for parameter, kept in part.state.items():
                for key, value in kept.items():
                    name = f"{self.names[id(parameter)]}/{key}"
                    if isinstance(value, Tensor):
                        tensors[name] = value
                    elif value is not None:  # an absent momentum buffer is made by the first step
                        numbers[name] = value
        return tensors, numbers

    def restore(self, state: State) -> None:
        """Take a state back; ValueError for one of other parameters."""
        by_name: dict[str, dict[str, Any]] = {}
        for values in state:
            for name, value in values.items():
                parameter, _, key = name.rpartition("/")
                by_name.setdefault(parameter, {})[key] = value
        unknown = by_name.keys() - self.names.values()
        if unknown:
            raise ValueError(f"the optimizer's state has {sorted(unknown)[0]}, which isn't trained here")
        for part in self.parts:
            for group in part.param_groups:
                for parameter in group["params"]:
                    kept = by_name.get(self.names[id(parameter)])
                    if kept is not None:
                        part.state[parameter] = {key: _beside(value, parameter) for key, value in kept.items()}


def build_optimizers(parameters: Named, settings: Settings, *, scales: Mapping[str, float] | None = None) -> Optimizers:
    """The optimizer that settings name, for these parameters; `scales` are factors of the learning rate by name.

    Weights decay but for vectors and scalars (norms, biases). Muon (arXiv 2502.16982) takes the matrices of the layers,
    AdamW the rest. ValueError without parameters, ImportError with what to install where bitsandbytes is missing.
    """
    if not parameters:
        raise ValueError("nothing is trained: no parameter requires a gradient; choose what to train")
    name = settings.optimizer.name
    if name != "Muon":
        return Optimizers([_MAKERS[name](_groups(parameters, settings, scales), settings)], parameters)
    matrices = {key: each for key, each in parameters.items() if each.dim() == 2 and _inside(key)}
    rest = {key: each for key, each in parameters.items() if key not in matrices}
    parts = [(_muon, matrices), (_adamw, rest)]
    made = [make(_groups(chosen, settings, scales), settings) for make, chosen in parts if chosen]
    return Optimizers(made, parameters)


def _inside(name: str) -> bool:
    """Whether a parameter is of a layer, and neither an embedding nor the head."""
    return "mid" in name.split(".")


def _groups(parameters: Named, settings: Settings, scales: Mapping[str, float] | None) -> list[dict[str, Any]]:
    """Groups of parameters that share weight decay and factor of the learning rate."""
    given = settings.optimizer.weight_decay
    decay = settings.train.weight_decay if given is None else given
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        key = (decay if parameter.dim() > 1 else 0.0, (scales or {}).get(name, 1.0))
        groups.setdefault(key, []).append(parameter)
    return [{"params": each, "weight_decay": own, "lr_scale": scale} for (own, scale), each in groups.items()]


def _given(settings: OptimizerSettings, *names: str) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(settings, name)) is not None}


def _adam_options(settings: Settings) -> dict[str, Any]:
    betas = {"betas": (settings.train.beta1, settings.train.beta2)}
    return {"lr": settings.learning_rate} | betas | _given(settings.optimizer, "betas", "eps")


def _adamw(groups: list[dict[str, Any]], settings: Settings) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, fused=True, **_adam_options(settings))


def _sgd(groups: list[dict[str, Any]], settings: Settings) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=settings.learning_rate, **_given(settings.optimizer, "momentum", "nesterov"))


def _muon(groups: list[dict[str, Any]], settings: Settings) -> torch.optim.Optimizer:
    # scaled so that its updates are as large as AdamW's, whose learning rate it shares (arXiv 2502.16982 §2.2)
    options = _given(settings.optimizer, "momentum", "nesterov")
    return torch.optim.Muon(groups, lr=settings.learning_rate, adjust_lr_fn="match_rms_adamw", **options)


def _from_bitsandbytes(name: str) -> Callable[[list[dict[str, Any]], Settings], torch.optim.Optimizer]:
    def make(groups: list[dict[str, Any]], settings: Settings) -> torch.optim.Optimizer:
        try:
            import bitsandbytes
        except ImportError as error:
            raise ImportError(f"{name} is bitsandbytes': pip install 'llm_finetune[bnb]'") from error
        return getattr(bitsandbytes.optim, name)(groups, **_adam_options(settings))

    return make


def _beside(value: Any, parameter: Tensor) -> Any:
    return value.to(parameter.device).clone() if isinstance(value, Tensor) else value


_MAKERS: Mapping[str, Callable[[list[dict[str, Any]], Settings], torch.optim.Optimizer]] = {
    "AdamW": _adamw,
    "SGD": _sgd,
    **{name: _from_bitsandbytes(name) for name in ("AdamW8bit", "PagedAdamW", "PagedAdamW8bit")},
}

"""Giving a module that was built on the meta device its parameters, keeping shared ones shared."""

from collections.abc import Callable, Iterable

from torch import Tensor, nn

from llm_blocks.mlp import Experts


def shared_names(model: nn.Module) -> list[list[str]]:
    """The names of each parameter, in the model's order; more than one name where modules share it."""
    groups: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return list(groups.values())


def assign(model: nn.Module, make: Callable[[list[str]], Tensor], *, trainable: bool) -> None:
    """Set every parameter to make(its names), one tensor at a time."""
    found: dict[str, nn.Parameter] = {}
    for names in shared_names(model):
        parameter = nn.Parameter(make(names), requires_grad=trainable)
        found |= dict.fromkeys(names, parameter)
    model.load_state_dict(found, assign=True)
    model.requires_grad_(trainable)


def pieces(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Each parameter that files may have in pieces -> the pieces' names and their views of it."""
    return {
        f"{path}.{parameter}": {f"{path}.{name}": view for name, view in parts}
        for path, module in model.named_modules()
        if isinstance(module, Experts)
        for parameter, parts in module.pieces().items()
    }


def listed(names: Iterable[str], limit: int = 3) -> str:
    """The first few names for a sentence, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more

"""FSDP2 (torch's `fully_shard`) over the layers of a model: each process holds a part of every weight.

A layer's weights come together when it runs and part again after it. Where everything trains, gradients and what the
optimizer remembers are in parts as well; adapters stay whole in each process, for they are small.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import nn

from llm_blocks.parameters import assign
from llm_finetune.linears import is_rounded
from llm_finetune.parallel import World
from llm_finetune.settings import Settings

WHOLE_MATRICES = ("Muon", "AdamW8bit", "PagedAdamW8bit")
"""Optimizers whose step of a part isn't the part of their step."""


def is_wanted(model: nn.Module, settings: Settings, world: World) -> bool:
    """Whether to shard, as `train.shard` says; ValueError where it says so of what can't be."""
    wanted = settings.train.shard
    if world.size == 1 or wanted is False:
        return False
    problem = _problem(model, settings)
    if wanted is True and problem:
        raise ValueError(f"train.shard is true, but {problem}; leave it out, and each process holds the whole model")
    return wanted is True or (torch.cuda.is_available() and problem is None)


def _problem(model: nn.Module, settings: Settings) -> str | None:
    if any(is_rounded(module) for module in model.modules()):
        return "the layers of a quantized model aren't parted"
    if settings.optimizer.name in WHOLE_MATRICES and _parts_trained(model):
        return f"{settings.optimizer.name} needs whole matrices"
    return None


def _parts_trained(model: nn.Module) -> bool:
    """Whether what trains is large beside what doesn't."""
    sizes = [(each.numel(), each.requires_grad) for each in model.parameters()]
    return 10 * sum(size for size, trained in sizes if trained) > sum(size for size, _ in sizes)


class Sharded:
    """A `Decoder` whose weights are parted over all processes, from its making until `join`."""

    def __init__(self, model: Any) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

        device = "cuda" if torch.cuda.is_available() else "cpu"
        mesh = init_device_mesh(device, (torch.distributed.get_world_size(),))
        self._model, self._before = model, [(module, _attributes(module)) for module in model.modules()]
        options: dict[str, Any] = {"mesh": mesh, "ignored_params": _kept_whole(model)}
        options["mp_policy"] = MixedPrecisionPolicy(reduce_dtype=torch.float32)
        _move(options["ignored_params"], torch.device(device))
        for module in (*model.mid.values(), model):
            fully_shard(module, **options)
            module.set_force_sum_reduction_for_comms(True)  # gradients are those of sums, so they add up
            module.set_gradient_divide_factor(1.0)
        register_fsdp_forward_method(model, "hidden")

    def rest(self) -> None:
        """Part what a forward without a backward left together, so that weights can be written."""
        self._model.reshard()

    @torch.no_grad()
    def join(self, first: bool) -> None:
        """Make an ordinary model of it again, which the first process has on the CPU and the others without numbers."""
        self.rest()
        found = {
            name: _whole(parameter, first)
            for name, parameter in self._model.named_parameters()  # one at a time, in the same order everywhere
        }
        for module, attributes in self._before:
            _put_back(module, attributes)
        assign(self._model, lambda names: found[next(name for name in names if name in found)], trainable=False)


def _kept_whole(model: nn.Module) -> set[nn.Parameter]:
    """What each process has all of: adapters, and the few that train in another dtype than the rest."""
    trained = [each for each in model.parameters() if each.requires_grad]
    if not _parts_trained(model):
        return set(trained)
    sizes: dict[torch.dtype, int] = {}
    for each in trained:
        sizes[each.dtype] = sizes.get(each.dtype, 0) + each.numel()
    most = max(sizes, key=lambda dtype: sizes[dtype])
    return {each for each in trained if each.dtype != most}


def _move(parameters: Collection[nn.Parameter], device: torch.device) -> None:
    for each in parameters:
        each.data = each.data.to(device)


def _whole(parameter: Any, first: bool) -> torch.Tensor:
    from torch.distributed.tensor import DTensor

    tensor = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
    return tensor.detach().cpu() if first else torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def _attributes(module: nn.Module) -> tuple[type, set[str], dict[str, set[int]]]:
    """A module's class, the names of what it has, and its hooks, all of which `fully_shard` adds to."""
    return type(module), set(vars(module)), {name: set(hooks) for name, hooks in _hooks(module)}


def _put_back(module: nn.Module, attributes: tuple[type, set[str], dict[str, set[int]]]) -> None:
    kind, names, known = attributes
    module.__class__ = kind
    for name in set(vars(module)) - names:
        del vars(module)[name]
    for name, hooks in _hooks(module):
        for key in set(hooks) - known[name]:
            del hooks[key]


def _hooks(module: nn.Module) -> Iterator[tuple[str, OrderedDict[int, Any]]]:
    for name, value in vars(module).items():
        if isinstance(value, OrderedDict) and "hooks" in name:
            yield name, value

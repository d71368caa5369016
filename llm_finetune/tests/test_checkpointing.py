"""Computing layers again in backward changes no bit of a run, and keeps less."""

from typing import Any

import torch
from torch import Tensor

from llm_finetune import OptimizerSettings, Train, finetune
from llm_finetune.checkpointing import recomputed


def _with_dropout(model: Any) -> Any:
    for block in model.mid.values():
        block.mlp.down = torch.nn.Sequential(torch.nn.Dropout(0.3), block.mlp.down)
    return model


def test_a_run_is_the_same_to_the_bit(make_model: Any, make_samples: Any) -> None:
    losses, weights = [], []
    for wanted in (False, True):
        model = _with_dropout(make_model())
        train = Train(epochs=2, global_batch_size=4, micro_batch_size=2, activation_checkpointing=wanted)
        run = finetune(model, make_samples(12), train=train, optimizer=OptimizerSettings(name="SGD"))
        losses.append([row["loss"] for row in run.history])
        weights.append(torch.cat([each.flatten() for each in model.parameters()]))
    assert losses[0] == losses[1]
    assert torch.equal(weights[0], weights[1])


def test_a_layer_keeps_its_input_alone_and_is_itself_again_after(make_model: Any) -> None:
    model = make_model(num_layers=4).requires_grad_(True)
    ids = torch.arange(40)[None]

    def saved(wanted: bool) -> int:
        sizes: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        owned = {each.untyped_storage().data_ptr() for each in model.parameters()}
        with recomputed(model, wanted), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            x = model.hidden(ids)
            kept = sum(size for place, size in sizes.items() if place not in owned)
        assert x.requires_grad
        return kept

    assert saved(True) < saved(False) / 4
    assert not any("forward" in vars(block) for block in model.mid.values())

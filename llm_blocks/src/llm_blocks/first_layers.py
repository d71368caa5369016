"""A shallower model made of the modules of a deeper one, for self-speculation."""

from typing import TypeVar

from torch import nn

from llm_blocks.decoder import Decoder

Model = TypeVar("Model", bound=Decoder)


def first_layers(model: Model, count: int) -> Model:
    """The beginning, the first `count` layers and the end of a whole model, as a model that shares its modules.

    Nothing is copied, and what is done to the weights of one (quantizing, moving) is done to the other's. Its cache is
    its own: `new_cache` gives one with these layers. `config` stays that of the whole model. Leaving early like this
    is a draft (LayerSkip, arXiv 2404.16710), and a good one only where a model was trained for it.
    Raises ValueError for a part of a model and for a number of layers that leaves none out.
    """
    if model.begin is None or model.end is None:
        raise ValueError(f"first_layers needs a whole model, and this one is its part {model.part}; load part 'f'")
    if not 1 <= count < len(model.mid):
        raise ValueError(
            f"the first layers must be from 1 to {len(model.mid) - 1} of this model's {len(model.mid)}, not {count}"
        )
    draft = object.__new__(type(model))
    nn.Module.__init__(draft)
    draft.config, draft.part, draft.cache_shape = model.config, model.part, model.cache_shape
    draft.begin, draft.end = model.begin, model.end
    layers = list(model.mid)[:count]
    draft.mid = nn.ModuleDict({layer: model.mid[layer] for layer in layers})
    draft.windows = {int(layer): model.windows[int(layer)] for layer in layers}
    draft.training, draft.cache_dtype = model.training, model.cache_dtype
    return draft

"""The head's weight and the embedding's: one parameter, or two of their own."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn


@torch.no_grad()
def tie_embeddings(model: Any, wanted: bool | None) -> None:
    """Have a `Decoder` share the embedding's weight with its head, or not, in place; None leaves it as it is.

    Tied, the head's own weight is gone; untied, it begins as a copy. The model's config says which it is. ValueError
    for a model whose config knows no such thing, and for weights of two shapes.
    """
    if wanted is None or model.config.tie_embeddings == wanted:
        return
    if not hasattr(model.config, "to_hf") or "tie_word_embeddings" not in model.config.to_hf():
        raise ValueError(f"train.tie_embeddings is {wanted}, and {type(model.config).__name__} knows no choice of it")
    embedding, head = model.begin.embed.weight, model.end.head.weight
    if embedding.shape != head.shape:
        raise ValueError(f"an embedding {tuple(embedding.shape)} and a head {tuple(head.shape)} can't be one weight")
    model.end.head.weight = embedding if wanted else nn.Parameter(embedding.clone(), embedding.requires_grad)
    model.config = replace(model.config, tie_embeddings=wanted)

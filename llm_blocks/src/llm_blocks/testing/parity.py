"""Parity with transformers on tiny random models; it is imported here alone, and only when a check is called."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llm_blocks.saving import save
from llm_blocks.testing.laws import TOLERANCE, close, greedy


def tiny_reference(config: Mapping[str, Any], folder: Path, *, seed: int = 0, attention: str = "eager") -> Any:
    """A random fp32 model of transformers for this config.json, saved in `folder` with that config.json verbatim.

    The weights are wide enough (deviation 0.1, norms around 1) for an error to show in the logits.
    """
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(config)))
    parsed = transformers.AutoConfig.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_config(
        parsed, dtype=torch.float32, attn_implementation=attention
    ).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            mean = 1.0 if parameter.dim() == 1 and bool((parameter == 1).all()) else 0.0
            parameter.normal_(mean, 0.1, generator=generator)
        stored = model.state_dict()
        for name, buffer in model.named_buffers():
            if name in stored and buffer.is_floating_point():
                buffer.normal_(0.0, 0.1, generator=generator)
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(dict(config)))
    return model


@torch.inference_mode()
def check_logits(model: Any, reference: Any, ids: Tensor, *, decode: int, tolerance: float = TOLERANCE) -> None:
    """Logits of ids (B, T) at once, then of their last `decode` ids one by one with a cache, equal the reference's."""
    close(model(ids), reference(ids, use_cache=False).logits, "prefill", tolerance)
    reference(ids[:, :1])  # transformers' dynamic angles remember the longest text so far until they see a short one
    batch, time = ids.shape
    cache, past = model.new_cache(batch, time), None
    for chunk in ids.split([time - decode] + [1] * decode, dim=1):
        out = reference(chunk, past_key_values=past, use_cache=True)
        past = out.past_key_values
        close(model(chunk, cache), out.logits, f"cached decode at {cache.lengths}", tolerance)


@torch.inference_mode()
def check_greedy(model: Any, reference: Any, prompt: Sequence[int], *, count: int = 64) -> None:
    """`count` greedy ids after the prompt are those that transformers generates."""
    ids = torch.tensor([list(prompt)])
    options = {"max_new_tokens": count, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    wanted = reference.generate(ids, attention_mask=torch.ones_like(ids), **options)
    found, expected = greedy(model, prompt, count), wanted[0, len(prompt) :].tolist()
    assert found == expected, f"greedy ids {found} instead of {expected}"


@torch.inference_mode()
def check_saved(
    model: Any, folder: Path, ids: Tensor, *, tolerance: float = TOLERANCE, attention: str = "eager", **options: Any
) -> None:
    """What we save in the new `folder` loads in transformers, with equal logits of ids (B, T)."""
    import transformers

    save(model, folder, **options)
    loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, attn_implementation=attention
    )
    reference, notes = loaded
    wrong = {kind: sorted(names) for kind, names in notes.items() if names}
    assert not wrong, f"transformers finds {wrong}"
    close(model(ids), reference.eval()(ids, use_cache=False).logits, "saved and loaded by transformers", tolerance)

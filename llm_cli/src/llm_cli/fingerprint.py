"""Which model made a file of keys and values, and on what: told by the model itself, wherever its weights came from."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import llm_quant
from llm_cli.adapters import active

SAMPLES = 64  # numbers of a tensor whose places count too


@torch.inference_mode()
def fingerprint(model: Any) -> str:
    """64 hexadecimal digits that are equal for equal models, and in practice for no others.

    They depend on the configuration, the adapters that are active and every tensor's name, shape, dtype and bytes, so
    on precision, quantization and the layout of quantized weights too, but on no device. Each tensor is read once and
    added up, which is quicker than a forward; that tells models apart that were trained, rounded or edited otherwise,
    not what somebody has made alike on purpose.
    """
    digest = hashlib.sha256()
    for line in _lines(model):
        digest.update(json.dumps(line, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def surroundings(model: Any) -> dict[str, str]:
    """What the last bits of a product may depend on beside the model: device, libraries, instructions, threads."""
    device = next(model.parameters()).device
    told = {"torch": torch.__version__, "device": device.type}
    if device.type == "cuda":
        return told | {"processor": torch.cuda.get_device_name(device)}
    kernels = llm_quant.level() or "none"
    capability = torch.backends.cpu.get_cpu_capability()
    return told | {"processor": capability, "kernels": kernels, "threads": str(torch.get_num_threads())}


def _lines(model: Any) -> Iterator[Any]:
    yield model.config.to_hf(), str(model.part), *active(model)
    for kind in (model.named_parameters, model.named_buffers):
        for name, tensor in kind(remove_duplicate=False):
            yield name, str(tensor.dtype), list(tensor.shape), *_sums(tensor)


def _sums(tensor: Tensor) -> tuple[int, list[int]]:
    """The sum of a tensor's bytes in words of 64 bits, modulo 2^64, and some of the words."""
    data = tensor.detach().contiguous().view(-1).view(torch.uint8)
    whole = data.numel() // 8 * 8
    words = data[:whole].view(torch.int64) if data.data_ptr() % 8 == 0 else data[:whole].clone().view(torch.int64)
    total = int(words.sum()) + sum(data[whole:].tolist())
    places = torch.linspace(0, max(0, words.numel() - 1), min(SAMPLES, words.numel()), dtype=torch.float64).long()
    return total, words[places.to(words.device)].tolist()

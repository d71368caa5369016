"""Choose the device and the dtype that a model runs with."""

import os
from collections import Counter
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import nn

from llm_cli.quantizing import check_scheme

Precision = Literal["32-true", "bf16-true", "16-true"]
PRECISIONS: dict[str, torch.dtype] = {"32-true": torch.float32, "bf16-true": torch.bfloat16, "16-true": torch.float16}
SMALL_MODEL_BYTES = 64 * 2**20
ACCELERATORS = ("auto", "cpu", "cuda", "gpu", "mps")


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a model lives, in which dtype, and how many positions its cache may hold (None: its whole context).

    `quantize` is the scheme of its linear layers, `cache_dtype` the dtype of its cache; None where they have the dtype
    of the model. `huge_pages` says whether its weights are copied there (huge_pages.py).
    """

    device: torch.device
    dtype: torch.dtype
    quantize: str | None = None
    fixed_kv_cache_size: int | Literal["max_model_supported"] | None = None
    cache_dtype: torch.dtype | None = None
    huge_pages: bool | None = None


def place(
    *,
    stored: torch.dtype,
    accelerator: str = "auto",
    devices: str | int = "auto",
    precision: str | None = None,
    quantize: str | None = None,
    generate_strategy: str | None = None,
    fixed_kv_cache_size: int | Literal["max_model_supported"] | None = None,
    kv_cache: str | None = None,
    huge_pages: bool | None = None,
) -> Placement:
    """The placement that the settings of `LLM.distribute` ask for; `stored` is the checkpoint's own dtype.

    Raises ValueError for a setting that is unknown or that this version doesn't offer.
    """
    _refuse_unavailable(devices, generate_strategy)
    if quantize is not None:
        check_scheme(quantize)
    if not (fixed_kv_cache_size in (None, "max_model_supported") or _positive(fixed_kv_cache_size)):
        raise ValueError(
            f"fixed_kv_cache_size must be a positive number of tokens or 'max_model_supported', "
            f"not {fixed_kv_cache_size!r}"
        )
    if kv_cache not in (None, "int8"):
        raise ValueError(f"kv_cache must be 'int8' or left out, not {kv_cache!r}")
    if huge_pages not in (None, True, False):
        raise ValueError(f"huge_pages must be True, False or None, not {huge_pages!r}")
    device = _device(accelerator)
    return Placement(
        device=device,
        dtype=_dtype(precision, stored, device),
        quantize=quantize,
        fixed_kv_cache_size=fixed_kv_cache_size,
        cache_dtype=torch.int8 if kv_cache == "int8" else None,
        huge_pages=huge_pages,
    )


def placed(model: nn.Module | None) -> str:
    """A few words on a model: its parameters, the dtype that most of them have, and where they are."""
    if model is None:
        return "weights not read yet"
    sizes: Counter[torch.dtype] = Counter()
    for parameter in model.parameters():
        sizes[parameter.dtype] += parameter.numel()
    dtype = str(sizes.most_common(1)[0][0]).removeprefix("torch.")
    return f"{sizes.total():,} parameters, {dtype} on {next(model.parameters()).device}"


def settle_threads(model: nn.Module) -> None:
    """Compute a small model on one thread, unless OMP_NUM_THREADS says how many there are to be.

    For programs, not for libraries: the number holds for the whole process. Threads that meet after each small product
    gain a tenth at best, and cost a factor of 30 where another process keeps one of the processors (measured with the
    model that ships, on two cores).
    """
    parameters = list(model.parameters())
    small = sum(parameter.nbytes for parameter in parameters) < SMALL_MODEL_BYTES
    if small and parameters[0].device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def default_device() -> torch.device:
    """Where a model goes unless something else is said."""
    return _device("auto")


def check_change(stored: torch.dtype, now: Placement | None, wanted: Placement) -> None:
    """Raise ValueError where a model would get weights that the rounding when it was read has made pointless."""
    if now is not None and now.quantize not in (None, wanted.quantize):
        raise ValueError(
            f"the weights were rounded to {now.quantize} when they were read, which {wanted.quantize or 'a dtype'} "
            "can't undo; load the model again with distribute=None, and give quantize in its first .distribute()"
        )
    if now is None or wanted.dtype == now.dtype or now.dtype in (stored, torch.float32):
        return
    names = [str(dtype).removeprefix("torch.") for dtype in (stored, now.dtype, wanted.dtype)]
    raise ValueError(
        f"the weights were rounded from {names[0]} to {names[1]} when they were read, which {names[2]} can't undo; "
        "load the model again with distribute=None, and give the precision in its first .distribute()"
    )


def fast_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware (AMX or AVX-512 on x86, the BF16 extension on Arm)."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # absent from the oldest torch that we accept
    return any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def _positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _refuse_unavailable(devices: str | int, generate_strategy: str | None) -> None:
    if generate_strategy is not None:
        raise ValueError(
            f"generate_strategy={generate_strategy!r} is not available in this version, "
            f"which runs a model on one device; leave it out"
        )
    if devices != "auto" and not _positive(devices):
        raise ValueError(f"devices must be 'auto' or a number from 1 up, not {devices!r}")
    if devices not in ("auto", 1):
        raise ValueError(f"devices={devices} is not available in this version, which runs a model on one device")


def _device(accelerator: str) -> torch.device:
    if accelerator not in ACCELERATORS:
        raise ValueError(f"accelerator must be one of {', '.join(ACCELERATORS)}, not {accelerator!r}")
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    wanted = {"auto": ("cuda", "mps", "cpu"), "gpu": ("cuda", "mps")}.get(accelerator, (accelerator,))
    for name in wanted:
        if present[name]:
            return torch.device(name)
    raise ValueError(f"accelerator {accelerator!r} is not present on this machine; use accelerator='auto' or 'cpu'")


def _dtype(precision: str | None, stored: torch.dtype, device: torch.device) -> torch.dtype:
    """The precision asked for, else the checkpoint's own; on a CPU a half type runs as the fastest wide enough one."""
    if precision is not None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, not {precision!r}")
        return PRECISIONS[precision]
    if stored not in PRECISIONS.values():
        stored = torch.bfloat16
    if device.type == "cpu" and stored != torch.float32:
        return torch.bfloat16 if fast_bf16() else torch.float32
    return stored

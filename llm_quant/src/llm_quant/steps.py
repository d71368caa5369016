"""The small steps between the products of a decoded token, each one call where torch takes several operators.

They are for a few rows on the CPU and without gradients; each gives None where it doesn't apply, and the caller goes on
with torch's operators. Shapes: B batch, T time, C width, H heads, K kv heads, D head size, V size of a value, R
dimensions of a head that turn, S slots of a cache.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from llm_quant import native, operations, workspace
from llm_quant.operations import Operation

WIDEST = 512  # size of a head
SHORT, LONG = 64, 1024  # new positions
FEW = 2**16  # numbers, for which a call costs more than the work
MANY = 2**23  # numbers, beyond which torch serves
ALL = -1  # a window: what sees every slot of a cache
LARGEST = 2**40


def rms_norm(x: Tensor, weight: Tensor, eps: float, *, offset: bool = False) -> Tensor | None:
    """x (..., C) / rms(x) * weight (C,), or with `offset` 1 + weight; None where torch has to do it.

    The statistics are fp32. Without `offset` the quotient is rounded to the dtype of x before the weight multiplies;
    with it everything is fp32 until the end.
    """
    if _heads_last(x):  # heads (B, H, T, D) that lie as (B, T, H, D)
        y = rms_norm(x.transpose(1, 2), weight, eps, offset=offset)
        return None if y is None else y.transpose(1, 2)
    if not _applies(x, weight, most=MANY) or weight.numel() != x.size(-1):
        return None
    if x.numel() > FEW:
        size = (x.numel() // x.size(-1), x.size(-1))
        y = workspace.empty(x.shape, x.dtype)
        return _computed(operations.NORM, (x, weight), y, size, kind=int(offset), number=(eps,))
    y = native.norm(x.view(-1, x.size(-1)), weight, eps, offset=offset).view(x.shape)
    if operations.here.recorder is not None:
        size = (x.numel() // x.size(-1), x.size(-1))
        operations.note(_of(operations.NORM, (x, weight), y, size, kind=int(offset), number=(eps,)))
    return y


def silu_gate(gate: Tensor, up: Tensor) -> Tensor | None:
    """silu(gate) * up, of one shape, also where rows of them lie side by side; None where torch has to do it."""
    if gate.shape != up.shape or not _small(gate, up):  # torch's own are faster for more
        return None
    width, rows = gate.size(-1), gate.numel() // max(1, gate.size(-1))
    apart = _rows_apart(gate), _rows_apart(up)
    if not all(apart):
        return None
    if gate.is_contiguous() and up.is_contiguous() and operations.here.recorder is None:
        return native.gated(gate, up)
    y = torch.empty(gate.shape, dtype=gate.dtype)
    return _computed(operations.GATED, (gate, up), y, (rows, width, *apart))


def softcap(x: Tensor, cap: float) -> Tensor | None:
    """cap * tanh(x / cap) (arXiv 2408.00118 §2); None where torch has to do it."""
    if not _applies(x, x, most=MANY):
        return None
    return _computed(operations.CAP, (x,), torch.empty_like(x), (x.numel(),), number=(cap,))


def gelu(x: Tensor, *, tanh: bool) -> Tensor | None:
    """GELU by its approximation with tanh or exactly (arXiv 1606.08415); None where torch has to do it."""
    if not _applies(x, most=MANY):
        return None
    return _computed(operations.GELU, (x,), torch.empty_like(x), (x.numel(),), kind=int(tanh))


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor | None:
    """LayerNorm of x (..., C) by rows, in fp32 until the end (arXiv 1607.06450); None where torch has to do it."""
    if _heads_last(x):
        y = layer_norm(x.transpose(1, 2), weight, bias, eps)
        return None if y is None else y.transpose(1, 2)
    if not _applies(x, *(each for each in (weight, bias) if each is not None), most=MANY):
        return None
    size = (x.numel() // x.size(-1), x.size(-1))
    return _computed(operations.LAYER_NORM, (x, weight, bias), torch.empty_like(x), size, number=(eps,))


def rotate(x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor | None:
    """Heads x (B, H, T, D) turned by angles (1 or B, 1, T, R) as in `llm_blocks.rotate`; None where torch has to."""
    apart = _apart(x)
    if (
        not _small(x, cos, signed_sin, most=MANY)
        or not apart
        or x.size(-1) > WIDEST
        or not (cos.is_contiguous() and signed_sin.is_contiguous())
    ):
        return None
    batch, heads, time, size = x.shape
    y = _like_heads(x, size)
    sizes = (batch * time, heads, size, cos.size(-1), time, cos.size(0) * time, *apart)
    return _computed(operations.ROTATE, (x, cos, signed_sin), y, sizes)


def norm_backward(x: Tensor, weight: Tensor, d: Tensor, eps: float) -> Tensor | None:
    """The gradient of x (..., C) where d is that of `rms_norm` without offset; None where torch has to do it."""
    if not _applies(x, weight, d, most=MANY) or weight.numel() != x.size(-1) or d.shape != x.shape:
        return None
    size = (x.numel() // x.size(-1), x.size(-1))
    y = workspace.empty(x.shape, x.dtype)
    return _computed(operations.NORM_BACKWARD, (x, weight, d), y, size, number=(eps,))


def gated_backward(gate: Tensor, up: Tensor, d: Tensor) -> tuple[Tensor, Tensor] | None:
    """The gradients of gate and up where d is that of silu(gate) * up, all of one shape; None where torch has to."""
    if not _applies(gate, up, d, most=MANY) or not gate.shape == up.shape == d.shape:
        return None
    outputs = workspace.empty(gate.shape, gate.dtype), workspace.empty(gate.shape, gate.dtype)
    made = Operation(code=operations.GATED_BACKWARD, inputs=(gate, up, d), outputs=outputs, size=(gate.numel(),))
    operations.compute(made)
    return outputs


def nll(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor] | None:
    """The negative log-likelihoods (M,) fp32 of targets (M,) int64 after logits (M, V), and log sum e^logit (M,) fp32.

    None where torch has to do it, also for targets that are no tokens.
    """
    if not _applies(logits, most=LARGEST) or logits.dim() != 2 or targets.dtype != torch.int64:
        return None
    fits = targets.is_contiguous() and targets.shape == logits.shape[:1] and targets.device == logits.device
    if not fits or int(targets.min()) < 0 or int(targets.max()) >= logits.size(1):
        return None
    y = torch.empty(2, logits.size(0))
    found = _computed(operations.NLL, (logits, targets), y, (logits.size(0), logits.size(1)))
    return found[0], found[1]


def nll_backward(logits: Tensor, targets: Tensor, logarithms: Tensor, factors: Tensor) -> Tensor:
    """The gradient of logits (M, V) that `nll` served, where factors (M,) are those of its likelihoods."""
    y = workspace.empty(logits.shape, logits.dtype)
    inputs = logits, targets, logarithms.contiguous(), factors.float().contiguous()
    return _computed(operations.NLL_BACKWARD, inputs, y, (logits.size(0), logits.size(1)))


def store(k: Tensor, v: Tensor, cache: tuple[Tensor, ...], starts: Sequence[int], ends: Sequence[int]) -> bool:
    """Put k (B, K, T, D) and v (B, K, T, V) into a cache at positions starts[b] to ends[b]; False where torch has to.

    `cache` is k (B, K, S, D) and v (B, K, S, V), and for one of int8 their scales (B, K, S). Position p is in slot p
    modulo S.
    """
    apart = _apart(k), _apart(v)
    if not _small(k, v, most=MANY) or not all(apart) or not _is_cache(cache):
        return False
    batch, kv_heads, time, size = k.shape
    sizes = (batch * time, time, kv_heads, size, v.size(-1), cache[0].size(2), *apart[0], *apart[1])
    kind = operations.TYPES[cache[0].dtype]
    made = Operation(
        code=operations.STORE, inputs=(k, v, *cache[2:]), outputs=(cache[0], cache[1]), size=sizes, kind=kind
    )
    operations.compute(made, starts, ends)
    return True


def attend(
    q: Tensor,
    cache: tuple[Tensor, ...],
    starts: Sequence[int] | None,
    ends: Sequence[int] | None,
    *,
    scale: float,
    window: int | None = None,
    cap: float = 0.0,
    slopes: Tensor | None = None,
) -> Tensor | None:
    """Attention of queries (B, H, T, D), at positions from starts[b] on, over a cache that holds ends[b]: (B, H, T, V).

    `cache` is as in `store`. A query sees the keys at its own and earlier positions, of a `window` the newest alone, or
    every slot where starts and ends are None. Scores are fp32: q k * scale, then cap * tanh(score / cap) where there is
    a cap (arXiv 2408.00118), less slopes[h] (H,) fp32 times the distance (arXiv 2108.12409). None where torch has to do
    it.
    """
    batch, heads, time, size = q.shape
    k, v, apart = *cache[:2], _apart(q)
    if (
        not _small(q, most=MANY)
        or not apart
        or not _is_cache(cache)
        or max(size, v.size(-1)) > WIDEST
        or (starts is not None and time > k.size(2))
    ):
        return None
    seen = ALL if starts is None or ends is None else window or 0
    sizes = (batch, time, heads, k.size(1), size, v.size(-1), k.size(2), seen, *apart)
    scratch = torch.zeros(operations.attend_scratch(sizes))
    made = Operation(
        code=operations.ATTEND,
        inputs=(q, k, v, slopes, *cache[2:]),
        outputs=(_like_heads(q, v.size(-1)),),
        size=sizes,
        kind=operations.TYPES[k.dtype],
        number=(scale, cap),
        scratch=scratch,
    )
    operations.compute(made, starts or [0] * batch, ends or [k.size(2)] * batch)
    return made.outputs[0]


def most_positions(dtype: torch.dtype) -> int:
    """Up to how many new positions of all rows `attend` is the faster one, beside torch's attention.

    With AVX-512 that is so for long prompts in bf16 (measured: 1.5 times as fast at 1,024), where torch has no AMX.
    """
    long = dtype == torch.bfloat16 and native.takes_many()
    return LONG if long else SHORT


def _of(code: int, inputs: tuple[Tensor | None, ...], y: Tensor, size: tuple[int, ...], **more: Any) -> Operation:
    return Operation(code=code, inputs=inputs, outputs=(y,), size=size, **more)


def _computed(code: int, inputs: tuple[Tensor | None, ...], y: Tensor, size: tuple[int, ...], **more: Any) -> Tensor:
    operations.compute(_of(code, inputs, y, size, **more))
    return y


def _apart(x: Tensor) -> tuple[int, ...]:
    """How far positions and heads of x (B, H, T, D) are apart in memory; nothing where the kernels can't follow."""
    batch, _, time, _ = x.shape
    rows, head, position, number = x.stride()
    position = position if time > 1 else rows
    return (position, head) if number == 1 and (batch == 1 or rows == time * position) else ()


def _like_heads(x: Tensor, size: int) -> Tensor:
    """Heads (B, H, T, size) that lie in memory as (B, T, H, size)."""
    batch, heads, time, _ = x.shape
    return workspace.empty((batch, time, heads, size), x.dtype).transpose(1, 2)


def _is_cache(cache: tuple[Tensor, ...]) -> bool:
    known = (torch.float32, torch.bfloat16) if len(cache) == 2 else (torch.int8,)
    return all(each.is_contiguous() for each in cache) and cache[0].dtype == cache[1].dtype and cache[0].dtype in known


def _heads_last(x: Tensor) -> bool:
    """Whether these are heads (B, H, T, D) that lie as (B, T, H, D), and not as they say."""
    return x.dim() == 4 and not x.is_contiguous() and x.transpose(1, 2).is_contiguous()


def _rows_apart(x: Tensor) -> int:
    """How far rows of x (..., C) are apart in memory; 0 where the kernels can't follow."""
    rows = [(size, stride) for size, stride in zip(x.shape[:-1], x.stride()[:-1], strict=True) if size > 1]
    follow = all(outer[1] == inner[0] * inner[1] for outer, inner in pairwise(rows))
    return (rows[-1][1] if rows else x.size(-1)) if follow and x.stride(-1) == 1 else 0


def _applies(*tensors: Tensor, most: int = FEW) -> bool:
    return _small(*tensors, most=most) and all(each.is_contiguous() for each in tensors)


def _small(*tensors: Tensor, most: int = FEW) -> bool:
    """Whether tensors are of one dtype that the kernels know, few numbers, on the CPU and without gradients."""
    first = tensors[0]
    return (
        0 < first.numel() <= most
        and first.dtype in (torch.bfloat16, torch.float32)
        and all(each.dtype == first.dtype and each.device.type == "cpu" for each in tensors)
        and not torch.compiler.is_compiling()
        and not (torch.is_grad_enabled() and any(each.requires_grad for each in tensors))
        and native.level() is not None
    )

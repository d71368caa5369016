"""How well a model foretells a long text: perplexity, and how far its distributions are from another model's.

Shapes: B windows in one call, T ids of a text or a window, N ids that are scored, V vocabulary.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from .measures import Divergence, Perplexity
from .options import check_integer
from .prompts import check_logits
from .scoring import ForwardFunc, Ids
from .windows import Window, Windows

PIECE = 2**20  # logits that are computed with in float32 at a time: what a vocabulary takes of memory stays bounded
Progress = Callable[[int], object]


def token_nlls(
    forward_func: ForwardFunc,
    ids: Ids,
    *,
    window: int,
    stride: int | None = None,
    prefix: Ids = (),
    batch_size: int = 1,
    progress: Progress | None = None,
) -> Tensor:
    """The negative log-likelihood of each id of a text given the ids before it in its window: (N,) float32, in nats.

    forward_func: ids (B, T) -> logits (B, T, V), causal. ids: one text (T,). window: how many ids are foretold by one
    row of a call; a row has as many ids, or len(prefix) - 1 more. Windows begin every `stride` ids, and each id is
    scored once, in the first window that has it: with stride = window (the default) windows are texts of their own,
    with a smaller one each id behind the first window sees at least window - stride ids. prefix: ids before each
    window, such as the BOS id. Without one the id before the window stands there, and the text's first id, which
    nothing foretells, isn't scored: N is T - 1, else T. batch_size: windows in one call. progress is called with how
    many more ids were scored. The softmax is computed in float32, of some positions at a time.
    Raises ValueError for wrong ids or sizes, a text that is too short, and logits with NaN or inf.
    """
    windows = Windows.of(ids, window=window, stride=stride, prefix=prefix)
    found = [
        _checked(_nll(logits.float().log_softmax(dim=-1), targets), targets, progress)
        for (logits,), targets in _pieces([forward_func], windows, batch_size)
    ]
    return torch.cat(found)


def perplexity(
    forward_func: ForwardFunc,
    ids: Ids,
    *,
    window: int,
    stride: int | None = None,
    prefix: Ids = (),
    batch_size: int = 1,
    num_bytes: int | None = None,
    progress: Progress | None = None,
) -> Perplexity:
    """The perplexity of a text under a model. `num_bytes` is the size of the text; the rest is as in `token_nlls`."""
    options = {"stride": stride, "prefix": prefix, "batch_size": batch_size, "progress": progress}
    return _summed(token_nlls(forward_func, ids, window=window, **options), num_bytes)


def kl_divergence(
    forward_func: ForwardFunc,
    base_func: ForwardFunc,
    ids: Ids,
    *,
    window: int,
    stride: int | None = None,
    prefix: Ids = (),
    batch_size: int = 1,
    num_bytes: int | None = None,
    progress: Progress | None = None,
) -> Divergence:
    """How far a model's distributions are from a base's at each scored id of a text, and the perplexity of both.

    Both are called with the same windows, the model first; the arguments are those of `perplexity`.
    Raises ValueError as `token_nlls` does, and for logits of different vocabularies.
    """
    windows = Windows.of(ids, window=window, stride=stride, prefix=prefix)
    rows: list[tuple[Tensor, ...]] = []
    for (own, base), targets in _pieces([forward_func, base_func], windows, batch_size):
        base = _same_vocabulary(own, base.to(own.device))
        q, p = own.float().log_softmax(dim=-1), base.float().log_softmax(dim=-1)
        nlls = _checked(_nll(q, targets), targets, None), _checked(_nll(p, targets), targets, progress)
        rows.append((*nlls, _divergences(p, q).cpu(), (own.argmax(dim=-1) == base.argmax(dim=-1)).cpu()))
    own_nll, base_nll, kl, same = (torch.cat(column) for column in zip(*rows, strict=True))
    mean, error = _mean(kl)
    change, change_error = _mean(own_nll.double() - base_nll.double())
    return Divergence(
        mean=mean,
        standard_error=error,
        median=_percentile(kl, 50),
        percentile_99=_percentile(kl, 99),
        max=float(kl.max()),
        same_top=float(same.double().mean()),
        model=_summed(own_nll, num_bytes),
        base=_summed(base_nll, num_bytes),
        nll_change=change,
        nll_change_error=change_error,
    )


def _pieces(
    forwards: Sequence[ForwardFunc], windows: Windows, batch_size: int
) -> Iterator[tuple[list[Tensor], Tensor]]:
    """The logits (n, V) of each forward_func and the ids (n,) that they foretell, each scored id once, in order."""
    check_integer("batch_size", batch_size, 1)
    for batch in windows.batches(batch_size):
        inputs = torch.stack([windows.inputs(window) for window in batch])
        with torch.no_grad():
            outputs = [_all_logits(forward(inputs), inputs) for forward in forwards]
        for row, window in enumerate(batch):
            yield from _of_window([logits[row] for logits in outputs], windows.text, window)


def _of_window(outputs: list[Tensor], text: Tensor, window: Window) -> Iterator[tuple[list[Tensor], Tensor]]:
    size = max(1, PIECE // outputs[0].shape[1])
    for begin in range(window.fresh, window.end, size):
        end = min(begin + size, window.end)
        # The last logits foretell the id at end - 1, whatever stands before the window.
        places = slice(len(outputs[0]) - (window.end - begin), len(outputs[0]) - (window.end - end))
        yield [logits[places] for logits in outputs], text[begin:end]


def _all_logits(logits: Tensor, inputs: Tensor) -> Tensor:
    if check_logits(logits, inputs).shape[1] != inputs.shape[1]:
        raise ValueError(f"forward_func must return logits at all {inputs.shape[1]} positions to score, got one alone.")
    return logits


def _nll(logprobs: Tensor, targets: Tensor) -> Tensor:
    """-ln p (n,) of the ids `targets` (n,) from log-probabilities (n, V)."""
    largest, size = int(targets.max()), logprobs.shape[1]
    if largest >= size:
        raise ValueError(f"ids must be below the {size} tokens of the logits, got {largest}.")
    return -logprobs.gather(1, targets.to(logprobs.device).unsqueeze(1)).squeeze(1)


def _checked(nlls: Tensor, targets: Tensor, progress: Progress | None) -> Tensor:
    """The numbers on the CPU, told to `progress`. ValueError for NaN, which any NaN or inf among logits leads to."""
    nlls = nlls.cpu()
    if bool(nlls.isnan().any()):
        raise ValueError("The logits hold NaN or inf; check the model's output and dtype.")
    if progress is not None:
        progress(len(targets))
    return nlls


def _same_vocabulary(own: Tensor, base: Tensor) -> Tensor:
    if own.shape != base.shape:
        raise ValueError(
            f"the model gives logits for {own.shape[1]} ids and the base for {base.shape[1]}, and there is no "
            "divergence between distributions over different ids; give models of one vocabulary."
        )
    return base


def _divergences(p: Tensor, q: Tensor) -> Tensor:
    """D(P || Q) (n,) of log-probabilities (n, V). What P rules out adds nothing; rounding makes no sum negative."""
    probs = p.exp()
    return torch.where(probs > 0, probs * (p - q), 0.0).sum(dim=-1).clamp(min=0)


def _summed(nlls: Tensor, num_bytes: int | None) -> Perplexity:
    if num_bytes is not None:
        check_integer("num_bytes", num_bytes, 1)
    mean, error = _mean(nlls)
    return Perplexity(tokens=len(nlls), nll=mean, standard_error=error, num_bytes=num_bytes)


def _mean(values: Tensor) -> tuple[float, float]:
    """The mean and its standard error: the sample's standard deviation over the root of its size."""
    exact = values.double()
    error = float(exact.std()) / math.sqrt(len(exact)) if len(exact) > 1 else 0.0
    return float(exact.mean()), error


def _percentile(values: Tensor, percent: int) -> float:
    """The least value that `percent` of 100 values don't exceed."""
    return float(values.kthvalue(max(1, math.ceil(len(values) * percent / 100))).values)

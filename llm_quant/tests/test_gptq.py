"""GPTQ and clipping: against the formulas in float64, column by column, and never worse than the nearest."""

import pytest
import torch
from torch import Tensor

from llm_quant import Hessian, Int4, clip_int4, gptq, round_int4
from llm_quant.canonical import unpack_nibbles
from llm_quant.clipping import SHARES
from llm_quant.hessian import squared_error

DAMPING = 0.01


def correlated(rows: int, inputs: int, seed: int) -> Tensor:
    """Inputs as layers have them: a few directions carry most of them, and some inputs are far larger than others."""
    random = torch.Generator().manual_seed(seed)
    mixing = torch.randn(inputs, inputs, generator=random, dtype=torch.float64)
    mixing *= torch.logspace(0, -2, inputs, dtype=torch.float64)[:, None]
    sizes = torch.exp(torch.randn(inputs, generator=random, dtype=torch.float64))
    return torch.randn(rows, inputs, generator=random, dtype=torch.float64) @ mixing * sizes


def hessian_of(x: Tensor) -> Tensor:
    return 2 * x.T @ x / x.size(0)


def error(weight: Tensor, found: Int4, hessian: Tensor) -> float:
    return squared_error(found.dequantize(torch.float64) - weight, hessian).sum().item()


def one_by_one(weight: Tensor, hessian: Tensor, found: Int4, group: int) -> Tensor:
    """Algorithm 1 of the paper without its blocks, on the scales that were found: the whole numbers (N, K).

    The inverse of what is left of the Hessian is computed anew for each column, as in the paper's equation 2.
    """
    h = hessian / hessian.diagonal().mean()
    h = h + DAMPING * torch.eye(h.size(0), dtype=h.dtype)
    left, whole = weight.clone(), torch.zeros_like(weight)
    remaining = torch.argsort(h.diagonal(), descending=True, stable=True).tolist()
    while remaining:
        q, scale, zero = remaining[0], found.scale.double(), found.zero.double()
        inverse = torch.linalg.inv(h[remaining][:, remaining])
        s, z = scale[:, q // group], zero[:, q // group]
        whole[:, q] = (left[:, q] / s + z).round().clamp(0, 15)
        wrong = (left[:, q] - (whole[:, q] - z) * s) / inverse[0, 0]
        left[:, remaining] -= wrong[:, None] * inverse[0]
        remaining = remaining[1:]
    return whole


@pytest.mark.parametrize(("outputs", "inputs", "group"), [(5, 32, 16), (16, 96, 32), (3, 320, 64)])
def test_the_blocked_updates_are_the_papers_one_by_one(outputs: int, inputs: int, group: int) -> None:
    torch.manual_seed(inputs)
    weight, hessian = torch.randn(outputs, inputs, dtype=torch.float64), hessian_of(correlated(2000, inputs, inputs))
    found = gptq(weight, hessian, group)
    wanted = one_by_one(weight, hessian, found, group)
    values = unpack_nibbles(found.value).double()
    nearest = unpack_nibbles(round_int4(weight, group).value).double()
    kept = (nearest == values).all(dim=1)  # a row that would have come out worse
    assert not kept.all()
    assert torch.equal(values[~kept], wanted[~kept])


def test_scales_are_the_best_of_all_shares() -> None:
    torch.manual_seed(3)
    weight, hessian = torch.randn(6, 64, dtype=torch.float64), hessian_of(correlated(500, 64, 3))
    found = clip_int4(weight, hessian, 32, damping=1e-9)
    for group in range(2):
        some = slice(32 * group, 32 * group + 32)
        part, block = weight[:, some], hessian[some, some]
        tried = []
        for share in SHARES:
            least, most = share * part.amin(1).clamp(max=0), share * part.amax(1).clamp(min=0)
            scale = ((most - least) / 15).bfloat16().double()[:, None]
            zero = (-least[:, None] / scale).round().clamp(0, 15)
            rounded = ((part / scale + zero).round().clamp(0, 15) - zero) * scale
            tried.append(squared_error(rounded - part, block))
        best = torch.stack(tried).amin(0)
        mine = squared_error(found.dequantize(torch.float64)[:, some] - part, block)
        torch.testing.assert_close(mine, best, rtol=1e-4, atol=0)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("group", [16, 64])
def test_no_row_is_worse_than_the_nearest_and_most_are_far_better(seed: int, group: int) -> None:
    torch.manual_seed(seed)
    weight, hessian = torch.randn(24, 128), hessian_of(correlated(1000, 128, seed)).float()
    nearest, fitted, clipped = (
        round_int4(weight, group),
        gptq(weight, hessian, group),
        clip_int4(weight, hessian, group),
    )
    rows = [squared_error(each.dequantize() - weight, hessian) for each in (nearest, fitted)]
    assert (rows[1] <= rows[0]).all()
    assert error(weight.double(), fitted, hessian.double()) < 0.5 * error(weight.double(), nearest, hessian.double())
    assert error(weight.double(), clipped, hessian.double()) < error(weight.double(), nearest, hessian.double())
    assert (fitted.scale.dtype, fitted.zero.dtype, fitted.group) == (torch.bfloat16, torch.uint8, group)


@pytest.mark.parametrize("method", [gptq, clip_int4])
def test_inputs_that_say_little(method: object) -> None:
    """Fewer inputs than columns, inputs that are always zero, and none at all but zeros."""
    torch.manual_seed(0)
    weight, x = torch.randn(8, 64), correlated(10, 64, 1).float()
    x[:, [3, 40]] = 0
    x[:, 48:] = 0  # a whole group
    for inputs in (x, x[:1], 1e-12 * x, 1e12 * x):
        found = method(weight, hessian_of(inputs), 16)
        assert error(weight.double(), found, hessian_of(inputs.double())) <= error(
            weight.double(), round_int4(weight, 16), hessian_of(inputs.double())
        )
        far = (found.dequantize() - weight).abs().amax() / round_int4(weight, 16).scale.float().amax()
        assert far < 9  # nothing has run away
    dead = method(weight, torch.zeros(64, 64), 16).dequantize() - weight
    assert dead.square().mean() <= 1.001 * (round_int4(weight, 16).dequantize() - weight).square().mean()


@pytest.mark.parametrize("method", [gptq, clip_int4])
def test_it_is_the_same_every_time_and_for_rows_alone(method: object) -> None:
    torch.manual_seed(0)
    weight, hessian = torch.randn(8, 64, dtype=torch.float64), hessian_of(correlated(300, 64, 1))
    found = method(weight, hessian, 16)
    again, part = method(weight.clone(), hessian.clone(), 16), method(weight[2:5], hessian, 16)
    for name in ("value", "scale", "zero"):
        assert torch.equal(getattr(again, name), getattr(found, name))
        assert torch.equal(getattr(part, name), getattr(found, name)[2:5])


@pytest.mark.parametrize("method", [gptq, clip_int4])
@pytest.mark.parametrize(
    ("weight", "hessian", "options", "rule"),
    [
        (torch.ones(2, 32), torch.eye(32), {"group": 24}, "32 columns are no whole groups of 24"),
        (torch.ones(2, 32), torch.eye(16), {"group": 16}, r"32 inputs has no Hessian of shape \(16, 16\)"),
        (torch.ones(2, 32), torch.eye(32) / 0, {"group": 16}, "its inputs hold what is infinite or no number"),
        (torch.full((2, 32), float("nan")), torch.eye(32), {"group": 16}, "its weights hold what is infinite or no"),
        (torch.ones(2, 32), torch.eye(32), {"group": 16, "damping": 0}, "over 0 and up to 1, not 0"),
    ],
)
def test_what_is_refused(method: object, weight: Tensor, hessian: Tensor, options: dict, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        method(weight, hessian, **options)


def test_a_hessian_that_rounding_has_made_indefinite_is_damped_more() -> None:
    hessian = torch.ones(32, 32) + 1e-6 * torch.diag(torch.linspace(-1, 1, 32))
    hessian[0, 1] = hessian[1, 0] = 1.3  # with the usual damping it has a negative eigenvalue
    assert torch.linalg.eigvalsh(hessian + DAMPING * torch.eye(32)).amin() < 0
    torch.manual_seed(0)
    found = gptq(torch.randn(4, 32), hessian, 16)
    assert found.dequantize().isfinite().all()
    hessian[0, 1] = hessian[1, 0] = 1e6
    with pytest.raises(ValueError, match="can't be factored; give more text, or more damping"):
        gptq(torch.randn(4, 32), hessian, 16)


def test_a_hessian_is_the_same_in_pieces_and_in_bf16() -> None:
    x = correlated(40, 16, 0).float()
    one, many = Hessian(), Hessian()
    assert one.matrix() is None
    one.add(x)
    for piece in x.view(5, 2, 4, 16):
        many.add(piece)
    torch.testing.assert_close(many.matrix(), one.matrix())
    torch.testing.assert_close(one.matrix(), hessian_of(x), rtol=1e-5, atol=1e-5)
    half = Hessian()
    half.add(x.bfloat16())
    torch.testing.assert_close(half.matrix(), hessian_of(x.bfloat16().float()), rtol=1e-5, atol=1e-5)

"""Recorded functions give the bits of the functions themselves, or a sentence on why they can't be recorded."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from llm_quant import accelerate, native, operations, quantize, steps
from llm_quant.operations import LINEAR, NORM, Operation
from llm_quant.program import Program, stages
from llm_quant.recording import record

pytestmark = pytest.mark.skipif(native.level() is None, reason="there are no kernels here")


def layers(*sizes: int, scheme: str = "int8", bias: bool = False) -> list[nn.Module]:
    """Linear layers from each size to the next."""
    torch.manual_seed(0)
    made = [nn.Linear(a, b, bias=bias, dtype=torch.bfloat16) for a, b in pairwise(sizes)]
    whole = nn.Sequential(*made).requires_grad_(False)
    return list(accelerate(whole) if scheme == "bf16" else quantize(whole, scheme))  # type: ignore


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape).to(torch.bfloat16)


@torch.inference_mode()
def recorded(function: Callable[[], Tensor], *inputs: Tensor) -> tuple[Tensor, Program]:
    result, program = record(function, list(inputs))
    assert isinstance(program, Program), program
    return result, program


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("scheme", ["int8", "int4", "bf16"])
def test_a_program_computes_what_the_function_does(scheme: str, threads: int) -> None:
    """With matrices that are shared out between threads, steps that are not, and memory that is used again."""
    if scheme == "bf16" and native.level() != "avx512":
        pytest.skip("no kernels for bf16 weights here")
    first, gate, up, down = layers(256, 512, 2048, 512, 256, scheme=scheme), *layers(256, 512, scheme=scheme), *layers(
        256, 512, scheme=scheme
    ), *layers(512, 256, scheme=scheme)  # fmt: skip
    x, weight = normal(3, 256), normal(256)

    def function() -> Tensor:
        y = x
        for layer in first:
            y = layer(y)
        for _ in range(3):
            normed = steps.rms_norm(y, weight, 1e-5)
            assert normed is not None
            hidden = steps.silu_gate(gate(normed), up(normed))
            assert hidden is not None
            y = y + down(hidden)
        return y * 0.3 + x

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        result, program = recorded(function, x)
        assert torch.equal(program.run([0], [1]), result)
        for _ in range(20):
            x.copy_(normal(3, 256))
            with torch.inference_mode():
                assert torch.equal(program.run([0], [1]), function())
    finally:
        torch.set_num_threads(before)


def test_weights_are_read_where_they_were() -> None:
    """In place a weight may change; another tensor in its place isn't seen, as the docstring says."""
    x, weight = normal(2, 64), normal(64)
    function = lambda: steps.rms_norm(x, weight, 1e-5)  # noqa: E731
    _, program = recorded(function, x)  # type: ignore
    weight.copy_(normal(64))
    with torch.inference_mode():
        assert torch.equal(program.run([0], [1]), function())  # type: ignore


def test_what_is_computed_from_constants_stays() -> None:
    x, bias = normal(2, 64), torch.randn(64)
    result, program = recorded(lambda: x + (bias * 2).to(torch.bfloat16).expand(2, 64).contiguous(), x)
    assert torch.equal(program.run([0], [1]), result)


def test_products_of_constants_alone_are_computed_once() -> None:
    x, constant = normal(2, 64), normal(3, 64)
    (layer,) = layers(64, 64)
    result, program = recorded(lambda: x + layer(constant)[:2].clone(), x)
    assert torch.equal(program.run([0], [1]), result)
    assert [op.code for op in program._ops] == [operations.ADD]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.softmax(-1),
        lambda x: x + torch.arange(64).to(torch.bfloat16).expand(2, 64),  # it may depend on a position
        lambda x: (x + x).add_(1),
        lambda x: x * x[:, :1],
        lambda x: x.float() + x,
        lambda x: x[:1, :48].add(x[1:, :48], alpha=0.22),  # whose last numbers torch rounds once more
    ],
)
def test_what_the_kernels_lack_is_told(function: Callable[[Tensor], Tensor]) -> None:
    x = normal(2, 64)
    with torch.inference_mode():
        result, why = record(lambda: function(x.clone()), [x])
        assert isinstance(why, str)
        assert why.startswith("the kernels have no aten.")
        assert torch.equal(result, function(x.clone()))


def test_nothing_is_recorded_afterwards_or_in_another_thread() -> None:
    x = normal(2, 64)
    with torch.inference_mode(), pytest.raises(RuntimeError):
        record(lambda: torch.mm(x, x), [x])
    assert operations.here.recorder is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_torchs_own_operations_have_its_bits(dtype: torch.dtype) -> None:
    x, y = torch.randn(2, 3, 48).to(dtype), torch.randn(2, 3, 48).to(dtype)
    functions: list[Callable[[], Tensor]] = [
        lambda: x + y,
        lambda: x.add(y, alpha=0.22),
        lambda: x * y,
        lambda: x * 0.7,
        lambda: x / 7.3,
        lambda: x.transpose(0, 1).contiguous(),
        lambda: x.to(torch.float32) if dtype == torch.bfloat16 else x.to(torch.bfloat16),
    ]
    for number, function in enumerate(functions):
        _, program = recorded(function, x, y)
        x.copy_(torch.randn(2, 3, 48))
        assert torch.equal(program.run([0], [1]), function()), f"function {number}"


def test_operations_share_a_stage_only_where_none_waits_for_another() -> None:
    x, wide = normal(1, 256), torch.empty(512, 256)

    def product(x: Tensor, y: Tensor) -> Operation:
        size = (1, 512, 256, 256, 0)
        return Operation(code=LINEAR, inputs=(x, wide, None, None, None), outputs=(y,), size=size, kind=native.BF16)

    q, k, after = (normal(1, 512) for _ in range(3))
    normed = normal(1, 256)
    norm = Operation(code=NORM, inputs=(x, x), outputs=(normed,), size=(1, 256), number=(1e-5,))
    found = stages([norm, product(normed, q), product(normed, k), product(q, after), norm, norm])
    assert [each.stage for each in found] == [0, 1, 1, 2, 3, 3]
    assert [each.alone for each in found] == [True, False, False, False, True, True]


@pytest.mark.parametrize("kind", ["int8", "int4", "bf16"])
def test_products_of_some_rows_and_of_all_of_them_stand_side_by_side(kind: str) -> None:
    """What was prepared of the first rows isn't taken for what was prepared of all."""
    torch.manual_seed(0)
    few, x = (9, 40) if kind == "bf16" else (1, 16), torch.randn(40, 256).bfloat16()
    x = x[: few[1]].clone()
    layers = nn.Sequential(nn.Linear(256, 512, bias=False), nn.Linear(256, 512, bias=False)).bfloat16()
    if kind == "bf16":
        accelerate(layers)
    else:
        quantize(layers, kind, group_size=32)
    with torch.inference_mode():
        wanted = layers[0](x[: few[0]]), layers[1](x)
        result, program = record(lambda: (layers[0](x[: few[0]]), layers[1](x))[1], [x])
        assert not isinstance(program, str), program
        assert torch.equal(program.run([0], [1]), wanted[1])
        assert torch.equal(result, wanted[1])

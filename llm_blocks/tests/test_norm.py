import torch

from llm_blocks import RMSNorm


def test_rms_is_one_before_the_weight() -> None:
    norm = RMSNorm(4, 1e-6)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    x = torch.tensor([[3.0, -3.0, 3.0, -3.0]])
    torch.testing.assert_close(norm(x), torch.tensor([[1.0, -2.0, 3.0, -4.0]]))


def test_half_precision_neither_overflows_nor_leaves_its_dtype() -> None:
    x = torch.full((1, 8), 60_000.0, dtype=torch.float16)  # its square is beyond fp16
    y = RMSNorm(8, 1e-6).to(torch.float16)(x)
    assert y.dtype == torch.float16
    torch.testing.assert_close(y, torch.ones(1, 8, dtype=torch.float16))

"""attend() against attention written out: softmax(q k / sqrt(D)) v over keys 0 to p."""

import pytest
import torch
from torch import Tensor

from llm_blocks import KVCache, attend, last_real, plan_attention

CPU = torch.device("cpu")


def _written_out(q: Tensor, k: Tensor, v: Tensor, positions: Tensor) -> Tensor:
    groups = q.size(1) // k.size(1)
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    scores = q @ k.transpose(2, 3) / q.size(3) ** 0.5  # (B, H, T, S)
    hidden = torch.arange(k.size(2)) > positions[:, None, :, None]
    return scores.masked_fill(hidden, float("-inf")).softmax(-1) @ v


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
@pytest.mark.parametrize(
    ("lengths", "time"), [([0, 0], 5), ([0, 0], 1), ([4, 4], 1), ([4, 4], 3), ([2, 5], 1), ([0, 5], 3)]
)
def test_each_query_sees_keys_up_to_its_position(kv_heads: int, lengths: list[int], time: int) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, heads, time, 8) for heads in (6, kv_heads, kv_heads))
    cache = KVCache([0], batch=2, num_kv_heads=kv_heads, length=8, head_dim=8, dtype=torch.float32, device="cpu")
    old_k, old_v = torch.randn(2, 2, kv_heads, 8, 8)
    cache.k[0][:], cache.v[0][:] = old_k, old_v  # what lies beyond a row's length must not be seen
    cache.lengths[:] = lengths
    plan = plan_attention(2, time, counts=None, cache=cache, device=CPU)
    found = attend(q, *plan.remember(0, k, v))
    for row, length in enumerate(lengths):
        keys, values = (torch.cat((old[row, :, :length], new[row]), 1)[None] for old, new in ((old_k, k), (old_v, v)))
        positions = torch.arange(length, length + time)[None]
        wanted = _written_out(q[row : row + 1], keys, values, positions)
        torch.testing.assert_close(found[row : row + 1], wanted, rtol=1e-5, atol=1e-5)


def test_without_a_cache_positions_start_at_zero() -> None:
    plan = plan_attention(2, 3, counts=[3, 1], cache=None, device=CPU)
    assert plan.positions.tolist() == [[0, 1, 2]]
    assert plan.ends == [3, 1]
    assert plan.views[None].causal


def test_gradients_flow_through_attention() -> None:
    q, k, v = (torch.randn(1, 2, 4, 8, requires_grad=True) for _ in range(3))
    plan = plan_attention(1, 4, counts=None, cache=None, device=CPU)
    attend(q, k, v, plan.views[None]).square().sum().backward()
    assert all(x.grad is not None and x.grad.abs().sum() > 0 for x in (q, k, v))


def test_last_real_takes_each_rows_own_last() -> None:
    x = torch.arange(6.0).view(2, 3, 1)
    assert last_real(x, [1, 3]).flatten().tolist() == [0, 5]
    assert last_real(x, None).flatten().tolist() == [2, 5]
    assert last_real(x, [0, 2]).flatten().tolist() == [0, 4]

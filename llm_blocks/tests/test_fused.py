import pytest
import torch
from torch import nn

import llm_quant
from llm_blocks import Fused, Parts, find, new_model, parts_of, qkv_parts

SIZES = {"vocab_size": 31, "dim": 32, "num_layers": 2, "num_heads": 4, "hidden_dim": 48, "max_positions": 64}
CONFIGS = {
    "gpt_neox": SIZES,
    "gpt2": SIZES,
    "falcon": SIZES | {"num_kv_heads": 2, "layout": "two_norms"},
    "phi3": SIZES | {"num_kv_heads": 2, "head_dim": 8},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_parts_are_the_queries_keys_and_values(name: str) -> None:
    """Zeroing the rows of a part of the projection zeroes that of the three which attention makes of it."""
    model = new_model(find(name).Config(**CONFIGS[name]), std=0.3).eval()
    parts = parts_of(model)["mid.0.attention.qkv"]
    assert parts.total == llm_quant.matrix_of(model.mid["0"].attention.qkv).size(0)
    ids = torch.arange(7)[None]
    seen = _remembered(model, ids)
    for part, changed in (("q", set()), ("k", {"k"}), ("v", {"v"})):
        copy = _without(model, parts, part)
        after = _remembered(copy, ids)
        assert {key for key in seen if not torch.equal(seen[key], after[key])} == changed
        assert all(bool((after[key] == 0).all()) for key in changed)
        assert not torch.equal(copy(ids), model(ids))


def test_gate_and_up_of_phi3() -> None:
    model = new_model(find("phi3").Config(**CONFIGS["phi3"]), std=0.3).eval()
    parts = parts_of(model)["mid.1.mlp.gate_up"]
    x = torch.randn(3, 32)
    mlp = model.mid["1"].mlp
    gate, up = (mlp.gate_up(x)[:, parts.span(name)] for name in ("gate", "up"))
    torch.testing.assert_close(mlp(x), mlp.down(nn.functional.silu(gate) * up))


def test_spans_and_counts() -> None:
    parts = qkv_parts(6, 2, groups=3)
    assert (parts.run, parts.total, parts.count("q"), parts.count("v")) == (10, 30, 18, 6)
    assert [parts.span(name) for name in parts.names] == [slice(0, 6), slice(6, 8), slice(8, 10)]


def test_parts_need_a_size_each() -> None:
    with pytest.raises(ValueError, match="a name of its own and a size"):
        Parts(names=("a", "b"), sizes=(1,))
    with pytest.raises(ValueError, match="a name of its own and a size"):
        Parts(names=("a", "a"), sizes=(1, 1))


def test_a_module_at_the_root_is_found() -> None:
    class Both(Fused):
        def parts(self) -> dict[str, Parts]:
            return {"both": Parts(names=("one", "two"), sizes=(1, 1))}

    assert list(parts_of(Both())) == ["both"]
    assert parts_of(nn.Linear(2, 2)) == {}


def _remembered(model: nn.Module, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """The first layer's keys and values, as a cache has them."""
    cache = model.new_cache(1, ids.size(1))
    with torch.inference_mode():
        model(ids, cache)
    return {name: tensors[0].clone() for name, tensors in zip(("k", "v"), cache.storages.values(), strict=True)}


def _without(model: nn.Module, parts: Parts, part: str) -> nn.Module:
    copy = new_model(model.config, std=0.3).eval()
    qkv = copy.mid["0"].attention.qkv
    with torch.no_grad():
        matrix = llm_quant.matrix_of(qkv)
        for group in range(parts.groups):
            span = parts.span(part)
            rows = slice(group * parts.run + span.start, group * parts.run + span.stop)
            matrix[rows] = 0
            if qkv.bias is not None:
                qkv.bias[rows] = 0
    return copy

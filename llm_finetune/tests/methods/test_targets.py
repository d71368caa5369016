from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

import llm_quant
from llm_blocks import new_model
from llm_finetune.lora import add_lora
from llm_finetune.lora_settings import Lora
from llm_finetune.targets import lora_targets
from llm_model_llama import deepseek_v2, mixtral, mla

NONE: dict[str, bool] = {"query": False, "value": False}
ALL = Lora(query=True, key=True, value=True, projection=True, mlp=True, head=True)


def both(*paths: str, parts: tuple[str, ...] = ("whole",)) -> dict[str, tuple[str, ...]]:
    return {f"mid.{layer}.{path}": parts for layer in range(2) for path in paths}


def test_queries_and_values_by_default(load: Callable[..., Any]) -> None:
    assert lora_targets(load("llama"), Lora()) == both("attention.q", "attention.v")
    fused = both("attention.qkv", parts=("q", "v"))
    for kind in ("gpt_neox", "phi3", "falcon", "gpt2"):
        assert lora_targets(load(kind), Lora()) == fused


@pytest.mark.parametrize(
    ("switch", "llama", "phi3"),
    [
        ("key", both("attention.k"), both("attention.qkv", parts=("k",))),
        ("projection", both("attention.o"), both("attention.o")),
        ("mlp", both("mlp.gate", "mlp.up", "mlp.down"), both("mlp.gate_up", "mlp.down")),
        ("head", {"end.head": ("whole",)}, {"end.head": ("whole",)}),
    ],
)
def test_each_switch(load: Callable[..., Any], switch: str, llama: dict[str, Any], phi3: dict[str, Any]) -> None:
    lora = Lora(**NONE, **{switch: True})
    assert lora_targets(load("llama"), lora) == llama
    assert lora_targets(load("phi3"), lora) == phi3


def test_all_parts_of_a_projection_are_the_whole(load: Callable[..., Any]) -> None:
    assert lora_targets(load("gpt_neox"), Lora(key=True)) == both("attention.qkv")


def test_quantized_layers_are_the_same_targets(load: Callable[..., Any]) -> None:
    for kind in ("llama", "gpt2"):
        model = load(kind)
        before = lora_targets(model, ALL)
        assert lora_targets(llm_quant.quantize(model, "int8"), ALL) == before


def test_adapted_layers_are_the_same_targets(load: Callable[..., Any]) -> None:
    model = load("llama")
    before = lora_targets(model, ALL)
    assert lora_targets(add_lora(model, lora_targets(model, Lora()), Lora()), ALL) == before


def test_patterns(load: Callable[..., Any]) -> None:
    model = load("phi3")
    assert lora_targets(model, Lora(targets=("mid.1.*.o", "*.qkv.k"))) == {
        "mid.0.attention.qkv": ("k",),
        "mid.1.attention.qkv": ("k",),
        "mid.1.attention.o": ("whole",),
    }
    assert lora_targets(model, Lora(targets=("*.qkv.?",))) == both("attention.qkv")
    assert lora_targets(model, Lora(targets=("mid.0.attention.qkv.q", "mid.0.attention.qkv"))) == {
        "mid.0.attention.qkv": ("whole",)
    }


def test_patterns_of_any_module() -> None:
    module = nn.ModuleDict({"h": nn.ModuleList([nn.ModuleDict({"q_proj": nn.Linear(2, 3)}) for _ in range(3)])})
    assert lora_targets(module, Lora(targets=("*q_proj",), layers="1-3")) == {
        "h.1.q_proj": ("whole",),
        "h.2.q_proj": ("whole",),
    }


def test_layers(load: Callable[..., Any]) -> None:
    model = load("llama")
    kept = lora_targets(model, Lora(head=True, layers="1-2"))
    assert sorted(kept) == ["end.head", "mid.1.attention.q", "mid.1.attention.v"]
    with pytest.raises(ValueError, match="the model has 2"):
        lora_targets(model, Lora(layers="1-3"))
    for wrong in ("f", "b 0-1", "1", "1-1"):
        with pytest.raises(ValueError, match=r"range|half-open|layers"):
            lora_targets(model, Lora(layers=wrong))


def test_a_pattern_without_a_match_lists_what_there_is(load: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"matches 'q_proj'; there are mid\.\*\.attention\.q, "):
        lora_targets(load("llama"), Lora(targets=("q_proj", "*.attention.q")))
    with pytest.raises(ValueError, match="mean no layer"):
        lora_targets(load("llama"), Lora(**NONE))


def test_routers_and_embeddings_are_none() -> None:
    sizes: dict[str, Any] = {"vocab_size": 31, "dim": 16, "hidden_dim": 16, "num_layers": 1, "num_heads": 2}
    sizes |= {"num_kv_heads": 2, "head_dim": 8, "max_positions": 32}
    model = new_model(mixtral.Config(**sizes, num_experts=2, experts_per_token=1))
    attention = [f"mid.0.attention.{name}" for name in "qkvo"]
    for each in (model, llm_quant.quantize(model, "int8")):
        assert list(lora_targets(each, Lora(targets=("*",)))) == [*attention, "end.head"]
        with pytest.raises(ValueError, match="stack of experts"):
            lora_targets(each, Lora(mlp=True))


def test_latent_attention() -> None:
    latent = mla.Latent(q_rank=8, kv_rank=8, still_dim=4, turned_dim=4, value_dim=4)
    sizes: dict[str, Any] = {"vocab_size": 31, "dim": 16, "hidden_dim": 16, "num_layers": 1, "num_heads": 2}
    config = deepseek_v2.Config(**sizes, latent=latent, max_positions=32, dense_layers=1)
    targets = lora_targets(new_model(config), Lora())
    assert list(targets) == ["mid.0.attention.q_a", "mid.0.attention.q_b", "mid.0.attention.kv_a"]


@pytest.mark.parametrize("wrong", [{"r": 0}, {"alpha": 0.0}, {"alpha": float("inf")}, {"dropout": 1.0}])
def test_numbers_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^(the rank|{next(iter(wrong))})"):
        Lora(**wrong)

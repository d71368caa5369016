"""LLaMA-Adapter: its prompts are part of attention in every architecture, and they train."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import llm_blocks
import llm_quant
from llm_blocks import Recorded
from llm_blocks.testing import check_recorded
from llm_finetune import (
    AdapterSettings,
    adapter_parameters,
    adapters,
    add_adapter,
    add_adapter_v2,
    add_lora,
    disabled,
    remove_adapter,
    set_adapter,
    use_adapter,
)
from llm_quant.linear import BF16_LEVELS

KINDS = ["llama", "gpt_neox", "phi3", "falcon", "gpt2", "alibi", "gemma2", "mistral", "qwen3"]
ADDED: list[Any] = [add_adapter, add_adapter_v2]
SETTINGS = AdapterSettings(prompt_length=5, start_layer=1)
FIRST = AdapterSettings(prompt_length=3, start_layer=0)


def disturb(model: Any, name: str = "default", seed: int = 5) -> Any:
    """Give an adapter's parameters other values, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for each in adapter_parameters(model, name).values():
            each.add_(torch.randn(each.shape, generator=generator) * 0.3)
    return model


@pytest.mark.parametrize("add", ADDED)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_it_begins_as_the_base_and_adds_something_once_trained(
    load: Callable[..., Any], ids: Tensor, kind: str, add: Any
) -> None:
    wanted, model = load(kind)(ids), add(load(kind), SETTINGS)
    assert torch.equal(model(ids), wanted)
    disturb(model)
    assert not torch.allclose(model(ids), wanted, atol=1e-3)
    with disabled(model):
        assert torch.equal(model(ids), wanted)
    remove_adapter(model, "default")
    assert torch.equal(model(ids), wanted)
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in load(kind).named_parameters()]


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_attention_to_prompts_is_that_of_the_paper(load: Callable[..., Any], kind: str) -> None:
    """gate times softmax(q k scale) v, of keys and values that the layer's own projections make of the prompt."""
    model = disturb(add_adapter(load(kind), FIRST))
    layer = model.mid["0"].attention
    seen: dict[str, Tensor] = {}
    hooks = [layer.base.o.register_forward_pre_hook(lambda module, args: seen.update(o=args[0]))]
    ids = torch.tensor([[4]])  # a text of one position, whose attention to itself is its value
    model(ids)
    with disabled(model):
        with_prompts = seen["o"]
        model(ids)
    without = seen["o"]
    for hook in hooks:
        hook.remove()
    added = (with_prompts - without).unflatten(-1, (-1, layer.base.head_dim))[0, 0]  # (H, D)
    (beside,) = [layer._beside(layer.slots["default"], 1.0, torch.float32)]
    heads = added.size(0)
    values = beside.values[0].repeat_interleave(heads // beside.values.size(1), dim=0)  # (H, P, D)
    # what is added over the gate is a mean of the prompt's values, whatever the queries are
    mean = added / beside.gate[:, None]
    weights = torch.linalg.lstsq(values.mT, mean[..., None]).solution[..., 0]  # (H, P)
    torch.testing.assert_close(weights.sum(-1), torch.ones(heads), atol=1e-3, rtol=0)
    assert (weights > 0).all()
    prompt = layer.slots["default"].prompt
    attention = layer.base
    if hasattr(attention, "k"):
        torch.testing.assert_close(beside.keys[0].transpose(0, 1).flatten(1), attention.k(prompt))
        torch.testing.assert_close(beside.values[0].transpose(0, 1).flatten(1), attention.v(prompt))
    else:
        parts = attention.parts()["qkv"]
        both = attention.qkv(prompt).unflatten(-1, (parts.groups, parts.run))
        torch.testing.assert_close(beside.keys[0].transpose(0, 1).flatten(1), both[..., parts.span("k")].flatten(1))
        torch.testing.assert_close(beside.values[0].transpose(0, 1).flatten(1), both[..., parts.span("v")].flatten(1))


@pytest.mark.parametrize("add", ADDED)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_text_in_steps_is_the_whole_and_packed_is_alone(
    load: Callable[..., Any], ids: Tensor, kind: str, add: Any
) -> None:
    model = disturb(add(load(kind), SETTINGS))
    whole, cache = model(ids), model.new_cache(2, 13)
    steps = [model(ids[:, :6], cache), *(model(ids[:, [at]], cache) for at in range(6, 13))]
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, atol=1e-5, rtol=1e-4)
    packed = model.hidden(torch.cat((ids[:1, :8], ids[1:, :5], ids[1:, 5:]), dim=1), segments=[8, 5, 8])
    alone = [model.hidden(each) for each in (ids[:1, :8], ids[1:, :5], ids[1:, 5:])]
    torch.testing.assert_close(packed, torch.cat(alone, dim=1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("add", ADDED)
@pytest.mark.parametrize("first", ["eval", "train"])
@pytest.mark.parametrize("kind", KINDS)
def test_prompts_and_gates_train(load: Callable[..., Any], ids: Tensor, kind: str, first: str, add: Any) -> None:
    """LitGPT kept the keys and values of an evaluation before training, so that its prompts never learned."""
    model = add(load(kind), SETTINGS)
    before = {name: each.detach().clone() for name, each in adapter_parameters(model).items()}
    if first == "eval":
        with torch.no_grad():
            model.eval()(ids)
    model.train()
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.5)
    losses = []
    for _ in range(2):
        loss = torch.nn.functional.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]
    after = adapter_parameters(model)
    assert {name.rpartition(".")[2] for name in after} >= {"prompt", "gate"}
    for name in after:
        if name.endswith((".prompt", ".gate")):
            assert not torch.equal(after[name], before[name]), name
    with torch.no_grad():  # and what was learnt is used at once
        whole = model.eval()(ids)
        torch.testing.assert_close(model(ids), whole)
        assert not torch.equal(whole, disturb(model)(ids))


@pytest.mark.parametrize("scheme", ["int8", "bnb.nf4"])
def test_the_base_may_be_quantized(load: Callable[..., Any], ids: Tensor, scheme: Any) -> None:
    model = llm_quant.quantize(load("llama"), scheme)
    with torch.no_grad():
        wanted = model(ids)
        add_adapter_v2(model, SETTINGS)
        assert torch.equal(model(ids), wanted)
    model.train()(ids).square().sum().backward()
    gates = [each for name, each in adapter_parameters(model).items() if name.endswith("gate")]
    assert gates
    assert all(each.grad is not None and each.grad.any() for each in gates)


@pytest.mark.parametrize("add", ADDED)
@torch.no_grad()
def test_slices_compose(folder: Callable[[str], Path], load: Callable[..., Any], ids: Tensor, add: Any) -> None:
    whole = add(load("llama"), FIRST, seed=3)
    parts = [llm_blocks.load(folder("llama"), part, dtype=torch.float32) for part in ("b 0-1", "1-2 e")]
    for part in parts:
        add(part, FIRST, seed=3)
    theirs = [adapter_parameters(part) for part in parts]
    assert theirs[0].keys() | theirs[1].keys() == adapter_parameters(whole).keys()
    for name, each in adapter_parameters(whole).items():
        each.add_(0.1)
        for found in theirs:
            if name in found:
                found[name].add_(0.1)
    assert torch.equal(parts[1](parts[0](ids)), whole(ids))


@torch.no_grad()
def test_several_are_chosen_per_call(load: Callable[..., Any], ids: Tensor) -> None:
    model = load("llama")
    base = model(ids)
    for number, name in enumerate(("one", "two")):
        disturb(add_adapter_v2(model, SETTINGS, name=name, seed=number), name, seed=number)
    assert adapters(model) == ["one", "two"]
    two = model(ids)
    with use_adapter(model, "one"):
        one = model(ids)
    assert not torch.allclose(one, two, atol=1e-3)
    assert torch.equal(model(ids), two)
    with use_adapter(model, {"one": 0.0, "two": 0.0}):
        torch.testing.assert_close(model(ids), base)
    remove_adapter(model, "two")
    set_adapter(model, "one")
    assert torch.equal(model(ids), one)


@pytest.mark.skipif(llm_quant.level() is None, reason="there are no kernels here")
@pytest.mark.parametrize("kind", ["llama", "gpt_neox"])
@torch.inference_mode()
def test_recorded_decoding_is_the_models_own_also_when_switched(
    load: Callable[..., Any], ids: Tensor, kind: str
) -> None:
    """Whether or not the kernels record the steps."""
    model = disturb(add_adapter(load(kind), SETTINGS))
    add_lora(model, {"mid.0.attention.o": ("whole",)}, _lora(), name="lora")
    model.mid["0"].attention.o.slots["lora"].pairs["whole"].b.normal_()
    step, found, wanted = Recorded(model), [], []
    caches = [model.new_cache(1, 13) for _ in range(2)]
    for cache in caches:
        model(ids[:1, :3], cache)
    for at, name in zip(
        range(3, 13),
        ["default", "default", "lora", "lora", None, None, "default", "lora", None, "default"],
        strict=False,
    ):
        set_adapter(model, name)
        found.append(step(ids[:1, [at]], caches[0]))
        wanted.append(model(ids[:1, [at]], caches[1]))
    torch.testing.assert_close(torch.cat(found), torch.cat(wanted), atol=1e-5, rtol=1e-5)


def _lora() -> Any:
    from llm_finetune import Lora

    return Lora(r=4)


def test_what_cannot_be_is_refused(load: Callable[..., Any]) -> None:
    model = load("llama")
    with pytest.raises(ValueError, match="start_layer is 2 of a model with 2 layers"):
        add_adapter(model)
    with pytest.raises(ValueError, match="prompt_length is from 1 to 4096, not 0"):
        AdapterSettings(prompt_length=0)
    with pytest.raises(ValueError, match="start_layer is the number of a layer"):
        AdapterSettings(start_layer=-1)
    add_adapter(model, SETTINGS)
    with pytest.raises(ValueError, match="there is an adapter 'default' already"):
        add_adapter_v2(model, SETTINGS)
    with pytest.raises(ValueError, match="there is no adapter 'other'"):
        remove_adapter(model, "other")


def test_attention_without_keys_and_values_is_refused_and_left_alone(load: Callable[..., Any]) -> None:
    """Such as latent attention, whose keys and values are made together."""
    model = load("llama")
    model.mid["1"].attention.kv_b = model.mid["1"].attention.k
    del model.mid["1"].attention.k
    names = [name for name, _ in model.named_parameters()]
    with pytest.raises(ValueError, match="no projections k and v of their own"):
        add_adapter(model, FIRST)
    assert [name for name, _ in model.named_parameters()] == names


@pytest.mark.skipif(llm_quant.level() not in BF16_LEVELS, reason="the kernels don't read bf16 here")
@pytest.mark.parametrize("add", ADDED)
@pytest.mark.parametrize("kind", ["llama", "phi3", "gpt_neox", "gemma2", "qwen3"])
def test_decoding_steps_are_recorded(load: Callable[..., Any], kind: str, add: Any) -> None:
    """To the bits of the model's own, prompts and their gates with them."""
    model = load(kind).to(torch.bfloat16)
    head = model.end.head
    head.weight = torch.nn.Parameter(torch.randn(64, head.weight.size(1)).bfloat16())  # as many as the kernels take
    model = disturb(add(llm_quant.accelerate(model), FIRST))
    check_recorded(model, vocab_size=64, steps=8)

"""Adapters against the peft library, both ways, and one step of AdamW."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

import llm_quant
from llm_finetune.adapter_file import read_adapter
from llm_finetune.lora import add_lora, lora_layers, lora_parameters, use_adapter
from llm_finetune.lora_settings import Lora
from llm_finetune.peft_format import apply, hf_path, joined, names_of, write_adapter
from llm_finetune.targets import lora_targets

from .dense import WIDE, ours, randomise

TRANSFORMERS_SAYS = "`is_gradient_checkpointing` is deprecated"  # to peft
pytestmark = pytest.mark.filterwarnings(f"ignore:{TRANSFORMERS_SAYS}:FutureWarning")
KINDS = ("llama", "tied", "gpt_neox", "gpt2", "phi3", "falcon")
METHODS: dict[str, dict[str, Any]] = {"lora": {}, "rslora": {"rslora": True}, "dora": {"dora": True}}
LINEARS = {
    "llama": ["q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "gpt_neox": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"],
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "phi3": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
    "falcon": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"],
}


def theirs(reference: Callable[[str], Any], kind: str, **options: Any) -> Any:
    """transformers' model of a kind with an adapter of peft, away from where it begins."""
    settings = {"r": 3, "lora_alpha": 16, "target_modules": LINEARS[kind], "fan_in_fan_out": kind == "gpt2"} | options
    torch.manual_seed(0)
    model = peft.get_peft_model(reference(kind), peft.LoraConfig(task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter += torch.randn_like(parameter) * 0.1
    return model


def opened(reference: Callable[[str], Any], kind: str, folder: Path, **options: Any) -> Any:
    """transformers' model with the adapter of a folder, which peft must take without a word."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", TRANSFORMERS_SAYS, FutureWarning)
        return peft.PeftModel.from_pretrained(reference(kind), folder, **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("wide", [False, True])
def test_ours_loads_in_peft(
    load: Any, reference: Any, ids: torch.Tensor, tmp_path: Path, kind: str, method: str, wide: bool
) -> None:
    """Queries and values alone, which are parts of fused projections, and all layers below the head."""
    lora = Lora(r=3, dropout=0.1, key=wide, projection=wide, mlp=wide, **METHODS[method])
    model = ours(load, kind, lora)
    write_adapter(tmp_path / "adapter", model, lora, base="some/model")
    assert_close(model(ids), opened(reference, kind, tmp_path / "adapter")(ids).logits, rtol=1e-4, atol=1e-5)
    again = apply(load(kind), read_adapter(tmp_path / "adapter"))
    assert torch.equal(again(ids), model(ids))
    assert {name: list(each.shape) for name, each in lora_parameters(again).items()} == {
        name: list(each.shape) for name, each in lora_parameters(model).items()
    }
    write_adapter(tmp_path / "again", again, lora, base="some/model")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "adapter" / name).read_bytes()


@pytest.mark.parametrize("kind", ["llama", "gpt_neox"])
def test_the_head_of_ours_loads_in_peft(
    load: Any, reference: Any, ids: torch.Tensor, tmp_path: Path, kind: str
) -> None:
    model = ours(load, kind, Lora(dropout=0, head=True))
    write_adapter(tmp_path / "adapter", model, Lora(dropout=0), base="some/model")
    assert_close(model(ids), opened(reference, kind, tmp_path / "adapter")(ids).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", LINEARS)
@pytest.mark.parametrize("method", METHODS)
def test_theirs_loads_here(
    load: Any, reference: Any, ids: torch.Tensor, tmp_path: Path, kind: str, method: str
) -> None:
    model = theirs(reference, kind, **{f"use_{name}": value for name, value in METHODS[method].items()})
    model.save_pretrained(tmp_path)
    found = apply(load(kind), read_adapter(tmp_path))
    assert_close(found(ids), model(ids).logits, rtol=1e-4, atol=1e-5)


def test_their_ranks_and_alphas_by_layer(load: Any, reference: Any, ids: torch.Tensor, tmp_path: Path) -> None:
    patterns = {
        "rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 5},
        "alpha_pattern": {"v_proj": 7, "down_proj": 2.5},
    }
    model = theirs(reference, "llama", **patterns)
    model.save_pretrained(tmp_path)
    found = apply(load("llama"), read_adapter(tmp_path))
    assert_close(found(ids), model(ids).logits, rtol=1e-4, atol=1e-5)
    settings = {path: layer.slots["default"].settings for path, layer in lora_layers(found).items()}
    assert [settings[f"mid.{i}.mlp.up"].r for i in range(2)] == [3, 5]
    assert settings["mid.1.attention.v"].alpha == 7


def test_their_head_with_its_copy_of_the_base(load: Any, reference: Any, ids: torch.Tensor, tmp_path: Path) -> None:
    model = theirs(reference, "llama", target_modules=["q_proj", "lm_head"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it stores the head, which is what is tested
        model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    assert any(name.endswith("base_layer.weight") for name in stored)
    found = apply(load("llama"), read_adapter(tmp_path))
    assert_close(found(ids), model(ids).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", LINEARS)
@pytest.mark.parametrize("method", METHODS)
def test_a_step_of_adamw_is_theirs(
    load: Any, reference: Any, ids: torch.Tensor, tmp_path: Path, kind: str, method: str
) -> None:
    theirs_too = theirs(reference, kind, **{f"use_{name}": value for name, value in METHODS[method].items()})
    theirs_too.save_pretrained(tmp_path)
    model = apply(load(kind), read_adapter(tmp_path))
    for each in (model, theirs_too):
        each.train()
        trained = [parameter for parameter in each.parameters() if parameter.requires_grad]
        # eps is above what gradients are rounded by, which a first step else divides by the gradients themselves
        optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.1, eps=1e-2)
        logits = each(ids) if each is model else each(ids).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        optimizer.step()
    state, compared = peft.get_peft_model_state_dict(theirs_too), 0
    for path, layer in lora_layers(model).items():
        factors = joined(layer, "default")
        for suffix, found in (("lora_A.weight", factors.a), ("lora_B.weight", factors.b)):
            name = f"base_model.model.{hf_path(names_of(model), path)}.{suffix}"
            assert_close(found, state[name], rtol=1e-4, atol=1e-6)
            compared += 1
        if factors.magnitude is not None:
            name = f"base_model.model.{hf_path(names_of(model), path)}.lora_magnitude_vector"
            assert_close(factors.magnitude, state[name], rtol=1e-4, atol=1e-6)
            compared += 1
    assert compared == len(state)
    assert_close(model.eval()(ids), theirs_too.eval()(ids).logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dora", [False, True])
def test_dropout_of_everything_but_a_seed_is_theirs(
    load: Any, reference: Any, ids: torch.Tensor, tmp_path: Path, dora: bool
) -> None:
    """torch's generator gives both the same masks, as both ask it for them in the same order."""
    model = theirs(reference, "llama", use_dora=dora, lora_dropout=0.3)
    model.save_pretrained(tmp_path)
    found = apply(load("llama"), read_adapter(tmp_path)).train()
    model.train()
    torch.manual_seed(8)
    wanted = model(ids).logits
    torch.manual_seed(8)
    assert_close(found(ids), wanted, rtol=1e-4, atol=1e-5)


def test_values_of_an_adapter_that_is_there(load: Any, ids: torch.Tensor, tmp_path: Path) -> None:
    """A run that goes on reads into the adapter that it made, parts and all."""
    model = ours(load, "phi3", Lora(dropout=0, dora=True))
    write_adapter(tmp_path / "adapter", model, Lora(dropout=0, dora=True), base="some/model")
    again = load("phi3")
    add_lora(again, lora_targets(again, Lora()), Lora(dropout=0, dora=True), seed=9)
    before = {id(parameter) for parameter in lora_parameters(again).values()}
    apply(again, read_adapter(tmp_path / "adapter"))
    assert {id(parameter) for parameter in lora_parameters(again).values()} == before
    assert torch.equal(again(ids), model(ids))
    for wrong, said in ((Lora(r=4, dora=True), "another rank"), (WIDE, "other layers")):
        other = load("phi3")
        add_lora(other, lora_targets(other, wrong), wrong)
        with pytest.raises(ValueError, match=said):
            apply(other, read_adapter(tmp_path / "adapter"))


def test_several_adapters_on_one_base(load: Any, ids: torch.Tensor, tmp_path: Path) -> None:
    for seed, name in enumerate(("one", "two")):
        model = load("llama")
        add_lora(model, lora_targets(model, WIDE), WIDE)
        randomise(model, seed=seed)
        write_adapter(tmp_path / name, model, WIDE, base="x")
    both, wanted = load("llama"), {}
    for name in ("one", "two"):
        wanted[name] = apply(load("llama"), read_adapter(tmp_path / name))(ids)
        apply(both, read_adapter(tmp_path / name), name)
    for name in ("one", "two", "one"):
        with use_adapter(both, name):
            assert torch.equal(both(ids), wanted[name])


@pytest.mark.parametrize("scheme", ["int8", "bnb.nf4"])
def test_of_a_quantized_base(load: Any, ids: torch.Tensor, tmp_path: Path, scheme: llm_quant.Scheme) -> None:
    model = llm_quant.quantize(load("phi3"), scheme)
    lora = Lora(dropout=0, dora=True)
    add_lora(model, lora_targets(model, lora), lora)
    randomise(model)
    write_adapter(tmp_path / "adapter", model, lora, base="x")
    again = apply(llm_quant.quantize(load("phi3"), scheme), read_adapter(tmp_path / "adapter"))
    assert torch.equal(again(ids), model(ids))


def test_of_a_quantized_base_with_transposed_weights(
    load: Any, reference: Any, ids: torch.Tensor, tmp_path: Path
) -> None:
    """peft is told that GPT-2's lie so, which the quantized layers in their places don't."""
    model = llm_quant.quantize(load("gpt2"), "int8")
    lora = Lora(dropout=0, projection=True)
    add_lora(model, lora_targets(model, lora), lora)
    randomise(model)
    write_adapter(tmp_path / "adapter", model, lora, base="x")
    wanted = apply(load("gpt2"), read_adapter(tmp_path / "adapter"))(ids)
    assert_close(opened(reference, "gpt2", tmp_path / "adapter")(ids).logits, wanted, rtol=1e-4, atol=1e-5)


def test_any_module(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Linear(4, 5))
    add_lora(module, {"1": ("whole",)}, Lora(r=2, dropout=0))
    randomise(module)
    write_adapter(tmp_path / "adapter", module, Lora(r=2, dropout=0), base="x")
    x = torch.randn(3, 6)
    wanted = module(x)
    module[1] = module[1].base
    found = apply(module, read_adapter(tmp_path / "adapter"))
    assert torch.equal(found(x), wanted)


def test_keys_of_peft_that_change_nothing(load: Any, folder: Any, reference: Any, tmp_path: Path) -> None:
    """Every key that peft itself writes for a plain adapter is known."""
    written = tmp_path / "ours"
    write_adapter(written, ours(load, "llama", WIDE), WIDE, base=str(folder("llama")))
    opened(reference, "llama", written).save_pretrained(tmp_path / "theirs")
    assert read_adapter(tmp_path / "theirs").factors.keys() == read_adapter(written).factors.keys()

"""Adapters against the peft library, both ways, and one step of AdamW."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

import llm_quant
from llm_finetune.adapter_file import read_adapter
from llm_finetune.lora import add_lora, lora_layers, lora_parameters, use_adapter
from llm_finetune.lora_settings import Lora
from llm_finetune.peft_format import apply, hf_path, joined, names_of, write_adapter
from llm_finetune.targets import lora_targets
from llm_sepweight import WeightsError

from .dense import randomise

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
WIDE = Lora(r=3, dropout=0, key=True, projection=True, mlp=True)


def ours(load: Callable[..., Any], kind: str, lora: Lora) -> Any:
    model = load(kind)
    add_lora(model, lora_targets(model, lora), lora)
    randomise(model)
    return model


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


@pytest.fixture
def written(load: Any, folder: Any, tmp_path: Path) -> Path:
    write_adapter(tmp_path / "adapter", ours(load, "llama", WIDE), WIDE, base=str(folder("llama")))
    return tmp_path / "adapter"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"peft_type": "LOHA"}, "LORA alone is read"),
        ({"peft_type": None}, "LORA alone is read"),
        ({"lora_bias": True}, "lora_bias is set"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is set"),
        ({"layer_replication": [[0, 1]]}, "layer_replication is set"),
        ({"target_parameters": ["x"]}, "target_parameters is set"),
        ({"use_qalora": True}, "use_qalora is set"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens is set"),
        ({"tomorrow": 3}, "tomorrow is set"),
        ({"bias": "all"}, "trained biases"),
        ({"init_lora_weights": "pissa"}, "changes the base model"),
        ({"r": 4}, "not of the rank 4"),
        ({"r": True}, "whole number"),
        ({"r": 10**9}, "whole number"),
        ({"lora_alpha": float("nan")}, "number"),
        ({"lora_alpha": "16"}, "lora_alpha must be a number"),
        ({"lora_dropout": 2}, "dropout is a share"),
        ({"use_dora": 1}, "true or false"),
        ({"use_dora": True}, "must have A, B and magnitudes"),
        ({"alpha_pattern": {"(a+)+b": 3}}, "regular expression"),
        ({"alpha_pattern": [1]}, "must be an object"),
        ({"rank_pattern": {"q_proj": 9}}, "not of the rank 9"),
        ({"base_model_name_or_path": 3}, "must be a string"),
    ],
)
def test_a_config_that_cannot_be_honoured(written: Path, change: dict[str, Any], said: str) -> None:
    file = written / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(WeightsError, match=said) as caught:
        read_adapter(written)
    assert str(written) in str(caught.value)


def test_keys_of_peft_that_change_nothing(load: Any, reference: Any, written: Path, tmp_path: Path) -> None:
    """Every key that peft itself writes for a plain adapter is known."""
    opened(reference, "llama", written).save_pretrained(tmp_path / "theirs")
    assert read_adapter(tmp_path / "theirs").factors.keys() == read_adapter(written).factors.keys()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t | {"base_model.model.model.embed_tokens.lora_embedding_A": torch.ones(3, 2)}, "no tensor of LoRA"),
        (lambda t: t | {"model.x.lora_A.weight": torch.ones(3, 2)}, "no tensor of LoRA"),
        (lambda t: dict(list(t.items())[1:]), "must have A and B"),
        (lambda t: {name: each.to(torch.int64) for name, each in t.items()}, "no floating"),
        (lambda t: {name: each[None].contiguous() for name, each in t.items()}, "not of the rank"),
        (lambda t: {}, "no factors"),
    ],
)
def test_tensors_that_are_none(written: Path, change: Any, said: str) -> None:
    file = written / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)
    with pytest.raises(WeightsError, match=said):
        read_adapter(written)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ("[", "object of lists"),
        ("[1]", "object of lists"),
        ('{"x": ["q"]}', "doesn't hold"),
        ('{"PATH": [1]}', "doesn't hold"),
        ('{"PATH": ["up"]}', "doesn't fit"),
        ('{"PATH": ["q", "q", "q"]}', "doesn't fit"),
        ('{"PATH": ["k"]}', "beyond the parts"),
    ],
)
def test_parts_of_a_stranger(load: Any, tmp_path: Path, parts: str, said: str) -> None:
    lora = Lora(targets=("mid.0.*.qkv.q",), r=3)
    write_adapter(tmp_path / "adapter", ours(load, "phi3", lora), lora, base="x")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    path = "model.layers.0.self_attn.qkv_proj"
    save_file(load_file(file), file, metadata={"llm_finetune.parts": parts.replace("PATH", path)})
    with pytest.raises(ValueError, match=said):
        apply(load("phi3"), read_adapter(file.parent))


def test_a_pickled_adapter_is_refused(written: Path) -> None:
    (written / "adapter_model.safetensors").rename(written / "adapter_model.bin")
    with pytest.raises(WeightsError, match="pickled files aren't read"):
        read_adapter(written)


def test_the_adapter_of_another_model(load: Any, written: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no linear layer of this architecture"):
        apply(load("gpt2"), read_adapter(written))
    with pytest.raises(ValueError, match="32 inputs and 16 outputs, which is another layer"):
        apply(load("tied"), read_adapter(written))
    with pytest.raises(ValueError, match="which this model doesn't have"):
        apply(load("llama", part="b 0-1"), read_adapter(written))


def test_writing(load: Any, written: Path) -> None:
    model = ours(load, "llama", WIDE)
    with pytest.raises(WeightsError, match="isn't overwritten"):
        write_adapter(written, model, WIDE, base="x")
    with pytest.raises(ValueError, match="no adapter 'other'; there are default"):
        write_adapter(written / "more", model, WIDE, base="x", name="other")

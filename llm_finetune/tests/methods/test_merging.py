import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

import llm_blocks
import llm_quant
from llm_finetune.lora import add_lora, lora_layers
from llm_finetune.lora_settings import Lora
from llm_finetune.merging import merge_lora, unload
from llm_finetune.peft_format import write_adapter
from llm_finetune.targets import lora_targets
from llm_sepweight import WeightsError

from .dense import adapted, randomise

KINDS = ("llama", "tied", "gpt_neox", "gpt2", "phi3", "falcon")


def trained(model: Any, where: Path, **options: Any) -> Any:
    """The model with an adapter away from where it begins, which is also written."""
    lora = Lora(**({"dropout": 0.1, "r": 3} | options))
    add_lora(model, lora_targets(model, lora), lora)
    randomise(model)
    write_adapter(where, model, lora, base="x")
    return model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("wide", [False, True])
def test_merged_is_adapted(
    load: Callable[..., Any], folder: Any, ids: torch.Tensor, tmp_path: Path, kind: str, dora: bool, wide: bool
) -> None:
    model = trained(load(kind), tmp_path / "a", dora=dora, **dict.fromkeys(("projection", "mlp", "head"), wide))
    merge_lora(tmp_path / "a", folder(kind), tmp_path / "out")
    with torch.no_grad():
        wanted = model(ids)
        assert_close(llm_blocks.load(tmp_path / "out")(ids), wanted, rtol=1e-4, atol=1e-5)
        assert_close(unload(model)(ids), wanted, rtol=1e-4, atol=1e-5)
        theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
        assert not any(theirs[1].values())
        assert_close(theirs[0].eval()(ids).logits, wanted, rtol=1e-4, atol=1e-5)
    assert not lora_layers(model)


def test_what_is_not_adapted_keeps_its_bytes(load: Callable[..., Any], folder: Any, tmp_path: Path) -> None:
    trained(load("llama"), tmp_path / "a")
    merge_lora(tmp_path / "a", folder("llama"), tmp_path / "out")
    before, after = (load_file(where / "model.safetensors") for where in (folder("llama"), tmp_path / "out"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys()
    assert changed == {f"model.layers.{i}.self_attn.{name}_proj.weight" for i in range(2) for name in "qv"}
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == llm_blocks.read_config(folder("llama"))


def test_weights_are_rounded_once(load: Callable[..., Any], folder: Any, tmp_path: Path) -> None:
    source = tmp_path / "bf16"
    shutil.copytree(folder("llama"), source)
    weights = load_file(source / "model.safetensors")
    halved = {name: tensor.bfloat16() for name, tensor in weights.items()}
    save_file(halved, source / "model.safetensors", metadata={"format": "pt"})
    model = trained(llm_blocks.load(source, dtype=torch.float32), tmp_path / "a")
    exact = adapted(lora_layers(model)["mid.0.attention.q"], "default")
    name = "model.layers.0.self_attn.q_proj.weight"
    merge_lora(tmp_path / "a", source, tmp_path / "out")
    merge_lora(tmp_path / "a", source, tmp_path / "wide", dtype=torch.float32)
    found, wide = (load_file(tmp_path / where / "model.safetensors")[name] for where in ("out", "wide"))
    assert_close(wide, exact)
    assert torch.equal(found, wide.bfloat16())
    assert json.loads((tmp_path / "wide" / "config.json").read_text())["dtype"] == "float32"


def test_a_tied_head_becomes_its_own(load: Callable[..., Any], folder: Any, ids: torch.Tensor, tmp_path: Path) -> None:
    options = {"query": False, "value": False, "head": True}
    model = trained(load("tied"), tmp_path / "a", **options)
    embedding = model.begin.embed.weight.detach().clone()
    merge_lora(tmp_path / "a", folder("tied"), tmp_path / "out")
    merged = llm_blocks.load(tmp_path / "out")
    assert torch.equal(merged.begin.embed.weight, embedding)
    assert not torch.equal(merged.end.head.weight, embedding)
    assert not merged.config.tie_embeddings
    unload(model)
    assert torch.equal(model.begin.embed.weight, embedding)
    assert_close(model.end.head.weight, merged.end.head.weight)


def test_of_a_layer_by_layer_folder(load: Callable[..., Any], folder: Any, ids: torch.Tensor, tmp_path: Path) -> None:
    model = trained(load("gpt2"), tmp_path / "a", mlp=True)
    with llm_blocks.open_checkpoint(folder("gpt2")) as checkpoint:
        llm_blocks_write(checkpoint, tmp_path / "sep")
    merge_lora(tmp_path / "a", tmp_path / "sep", tmp_path / "out")
    assert_close(llm_blocks.load(tmp_path / "out")(ids), model(ids), rtol=1e-4, atol=1e-5)


def llm_blocks_write(checkpoint: Any, path: Path) -> None:
    import llm_sepweight

    llm_sepweight.write(path, checkpoint.weights, config=checkpoint.raw, tied={"end.head.weight": "begin.embed.weight"})


def test_what_stands_beside_the_weights_goes_along(load: Callable[..., Any], folder: Any, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(folder("llama"), source)
    for name in ("tokenizer.json", "chat_template.jinja", "LICENSE", "notes.md", "model.bin.index.json"):
        (source / name).write_text(name)
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tool.jinja").write_text("x")
    trained(load("llama"), tmp_path / "a")
    out = merge_lora(tmp_path / "a", source, tmp_path / "out")
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert found - {"generation_config.json"} == {
        *("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "LICENSE"),
        "additional_chat_templates/tool.jinja",
    }


def test_quantized_bases_are_refused(load: Callable[..., Any], folder: Any, tmp_path: Path) -> None:
    model = llm_quant.quantize(load("llama"), "int8", skip=["*.o"])
    trained(model, tmp_path / "a", projection=True)
    before = dict(model.named_modules())
    with pytest.raises(ValueError, match=r"mid\.0\.attention\.q is quantized"):
        unload(model)
    assert dict(model.named_modules()) == before
    source = tmp_path / "gptq"
    shutil.copytree(folder("llama"), source)
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="is quantized, and an adapter isn't added"):
        merge_lora(tmp_path / "a", source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_adapter_of_qlora_goes_into_the_unquantized_base(
    load: Callable[..., Any], folder: Any, ids: torch.Tensor, tmp_path: Path
) -> None:
    model = trained(llm_quant.quantize(load("phi3"), "int8"), tmp_path / "a")
    merge_lora(tmp_path / "a", folder("phi3"), tmp_path / "out")
    with torch.no_grad():
        found, wanted = llm_blocks.load(tmp_path / "out")(ids), model(ids)
    assert float((found - wanted).abs().mean() / wanted.abs().mean()) < 0.05


def test_refusals(load: Callable[..., Any], folder: Any, tmp_path: Path) -> None:
    trained(load("llama"), tmp_path / "a")
    with pytest.raises(ValueError, match="fit no linear layer"):
        merge_lora(tmp_path / "a", folder("gpt2"), tmp_path / "out")
    with pytest.raises(ValueError, match="fit no linear layer"):
        merge_lora(tmp_path / "a", folder("tied"), tmp_path / "out")
    with pytest.raises(WeightsError, match="isn't overwritten"):
        merge_lora(tmp_path / "a", folder("llama"), tmp_path / "a")
    with pytest.raises(ValueError, match="no adapter 'x'; there are none"):
        unload(load("llama"), "x")

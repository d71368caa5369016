"""Folders as AutoGPTQ and AutoAWQ write them: the same numbers as one of ours, so the same logits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import llm_blocks
from llm_blocks.saving import pending, write_json, write_weights
from llm_blocks.testing import words
from llm_cli import LLM, app
from llm_cli.checkpoints import open_checkpoint
from llm_cli.quantized_folder import plan_folder, write_folder
from llm_quant import Int4, QuantizedLinear
from llm_quant.canonical import unpack_nibbles
from llm_sepweight import open as open_weights

IDS = torch.tensor([[1, 65, 66, 200, 7]])
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
CONFIGS = {
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": False},
    "gptq_v2": {"quant_method": "gptq", "bits": 4, "group_size": 32, "checkpoint_format": "gptq_v2", "desc_act": True},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"},
}


def as_gptq(weight: Int4, less: int, order: Tensor) -> dict[str, Tensor]:
    """The weight with its inputs, and so its groups, in another order."""
    value, groups = unpack_nibbles(weight.value).int()[:, order], (torch.arange(weight.shape[1]) // weight.group)[order]
    qweight, qzeros = words(value).t(), words(weight.zero.int().t() - less)
    return {"qweight": qweight, "qzeros": qzeros, "scales": weight.scale.t(), "g_idx": groups.int()}


def as_awq(weight: Int4) -> dict[str, Tensor]:
    value, zero = unpack_nibbles(weight.value).int().t(), weight.zero.int().t()
    return {"qweight": words(value, AWQ_ORDER), "qzeros": words(zero, AWQ_ORDER), "scales": weight.scale.t()}


def rewritten(ours: Path, out: Path, kind: str) -> tuple[Path, dict[str, Tensor]]:
    """A folder of ours in another form; with gptq_v2 each layer has its inputs in another order, which is given too."""
    generator, orders, tensors = torch.Generator().manual_seed(0), dict[str, Tensor](), dict[str, Tensor]()
    layers = {
        name: layer for name, layer in llm_blocks.load(ours).named_modules() if isinstance(layer, QuantizedLinear)
    }
    table = llm_blocks.find("llama").NAMES
    with open_weights(ours) as weights:
        tensors |= {name: weights.read(name).clone() for name in weights.names if ".weight_" not in name}
    for path, layer in layers.items():
        weight, k = layer.weight, layer.in_features
        assert isinstance(weight, Int4)
        order = torch.randperm(k, generator=generator) if kind == "gptq_v2" else torch.arange(k)
        orders[path] = order
        made = as_awq(weight) if kind == "awq" else as_gptq(weight, int(kind == "gptq"), order)
        prefix = llm_blocks.names.to_hf_name(table, f"{path}.weight").removesuffix("weight")
        tensors |= {prefix + suffix: tensor.contiguous() for suffix, tensor in made.items()}
    out.mkdir()
    write_weights(out, {name: pending(tensor) for name, tensor in tensors.items()}, max_shard_bytes=20_000)
    raw = json.loads((ours / "config.json").read_text())
    write_json(out / "config.json", raw | {"quantization_config": CONFIGS[kind]})
    return out, orders


@pytest.fixture(scope="module")
def ours(make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = make_checkpoint(tokenizer=False, hidden_size=64, intermediate_size=96)
    folder = tmp_path_factory.mktemp("quantized") / "int4"
    plan = plan_folder(open_checkpoint(source), "int4")
    assert plan.form.group_size == 32
    write_folder(plan, folder)
    return folder


@pytest.mark.parametrize("kind", CONFIGS)
def test_folders_of_the_hub_run(ours: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder, orders = rewritten(ours, tmp_path / kind, kind)
    found, wanted = llm_blocks.load(folder), llm_blocks.load(ours)
    for path, order in orders.items():
        layer, other = found.get_submodule(path), wanted.get_submodule(path)
        x = torch.randn(3, other.in_features)
        with torch.no_grad():
            torch.testing.assert_close(layer(x[:, order]), other(x), rtol=1e-4, atol=1e-3)
    if kind != "gptq_v2":
        assert torch.equal(found(IDS), wanted(IDS))
    llm = LLM.load(folder, distribute=None)
    llm.distribute(precision="32-true")
    assert len(llm.generate([1, 65, 66], max_new_tokens=4, temperature=0, return_as_token_ids=True)) > 0
    assert app.run(["info", str(folder), "--json"]) == 0
    assert (
        json.loads(capsys.readouterr().out)["quantization"] == f"int4, groups of 32 ({CONFIGS[kind]['quant_method']})"
    )


def test_parts_are_read_by_themselves(ours: Path, tmp_path: Path) -> None:
    folder, _ = rewritten(ours, tmp_path / "gptq", "gptq")
    first, second = (llm_blocks.load(folder, part) for part in ("b 0-1", "1-2 e"))
    assert torch.equal(second(first(IDS)), llm_blocks.load(folder)(IDS))

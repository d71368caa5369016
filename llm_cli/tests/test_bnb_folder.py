"""Folders of the hub with layers of bitsandbytes, written by its own modules as transformers writes them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import llm_blocks
import llm_quant
from llm_cli import LLM
from llm_cli.app import run
from llm_quant.bnb import BnbLinear, library

if find_spec("bitsandbytes") is None:
    pytest.skip("bitsandbytes, the extra bnb, is not installed", allow_module_level=True)

IDS = torch.tensor([[1, 65, 66, 200, 7]])
KEPT = "lm_head"  # which transformers leaves as it is
FOUR = {"load_in_4bit": True, "load_in_8bit": False, "bnb_4bit_compute_dtype": "bfloat16", "llm_int8_threshold": 6.0}
CONFIGS = {
    "bnb.nf4": FOUR | {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": False},
    "bnb.nf4-dq": FOUR | {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "bnb.fp4": FOUR | {"bnb_4bit_quant_type": "fp4"},
    "bnb.int8": {"load_in_8bit": True, "llm_int8_threshold": 6.0, "llm_int8_skip_modules": [KEPT]},
}


def theirs(weight: Tensor, scheme: str) -> dict[str, Tensor]:
    """What bitsandbytes stores of a layer without a bias."""
    modules, (n, k) = library.library().nn, weight.shape
    if scheme == "bnb.int8":
        layer = modules.Linear8bitLt(k, n, bias=False, has_fp16_weights=False, threshold=6.0)
    else:
        layer = modules.Linear4bit(k, n, bias=False, quant_type=scheme[4:7], compress_statistics=scheme[7:] == "-dq")
    layer.load_state_dict({"weight": weight})
    return {name: tensor.clone() for name, tensor in layer.to("cpu").state_dict().items()}


def rewritten(source: Path, out: Path, scheme: str, **config: Any) -> Path:
    """The folder with its linear layers, but for the head, in a format of bitsandbytes."""
    out.mkdir()
    tensors: dict[str, Tensor] = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        if name.endswith("_proj.weight"):
            prefix = name.removesuffix("weight")
            tensors |= {prefix + suffix: stored for suffix, stored in theirs(tensor, scheme).items()}
        else:
            tensors[name] = tensor
    save_file(tensors, out / "model.safetensors")
    for file in source.iterdir():
        if file.name != "model.safetensors":
            (out / file.name).write_bytes(file.read_bytes())
    raw = json.loads((source / "config.json").read_text())
    settings = {"quant_method": "bitsandbytes"} | CONFIGS[scheme] | config
    (out / "config.json").write_text(json.dumps(raw | {"quantization_config": settings}))
    return out


@pytest.fixture(scope="module")
def source(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint(hidden_size=48, intermediate_size=96)  # whose rows are no whole blocks of 64


@pytest.mark.parametrize("scheme", CONFIGS)
def test_a_folder_runs_as_the_same_rounding_on_the_fly(
    scheme: llm_quant.Scheme, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = rewritten(source, tmp_path / "folder", scheme)
    found = llm_blocks.load(folder)
    wanted = llm_quant.quantize(llm_blocks.load(source), scheme, skip=["end.*"])
    assert isinstance(found.mid["0"].attention.q, BnbLinear)
    assert type(found.end.head) is nn.Linear
    assert torch.equal(found(IDS), wanted(IDS))
    first, second = (llm_blocks.load(folder, part) for part in ("b 0-1", "1-2 e"))
    if scheme != "bnb.int8":  # whose rounding has all rows in one product alike
        assert torch.equal(second(first(IDS)), wanted(IDS))
    llm = LLM.load(folder, distribute=None)
    llm.distribute(precision="32-true")
    assert llm.generate("hello", max_new_tokens=4, temperature=0, return_as_token_ids=True).numel() > 0
    with pytest.raises(ValueError, match="quantized already"):
        llm.distribute(precision="32-true", quantize="bnb.nf4")
    assert run(["info", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "(bitsandbytes)" in told["quantization"]
    assert list(told["memory"]) == [scheme[4:8].removesuffix("-")]


def test_what_the_headers_give_away(source: Path, tmp_path: Path):
    folder = rewritten(source, tmp_path / "flag", "bnb.nf4", bnb_4bit_use_double_quant=True)
    with pytest.raises(ValueError, match=r"lacks its weight\.nested_absmax, which layers of nf4, double quantization"):
        llm_blocks.load(folder)
    folder = rewritten(source, tmp_path / "code", "bnb.nf4", bnb_4bit_quant_type="fp4")
    with pytest.raises(ValueError, match=r"lacks its weight\.quant_state\.bitsandbytes__fp4, which layers of fp4 "):
        llm_blocks.load(folder)


def test_a_scale_too_few_is_refused(source: Path, tmp_path: Path):
    folder = rewritten(source, tmp_path / "folder", "bnb.nf4")
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("weight.absmax"))
    tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"weight\.absmax .* has shape \(71,\), nf4 \(bitsandbytes\) asks for \(72,\)"):
        llm_blocks.load(folder)


def test_without_the_extra_a_folder_is_described_and_not_run(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folder = rewritten(source, tmp_path / "folder", "bnb.int8")
    monkeypatch.delitem(sys.modules, "bitsandbytes", raising=False)
    monkeypatch.setattr(library, "_found", lambda: False)
    assert run(["info", str(folder)]) == 0
    capsys.readouterr()
    assert run(["generate", str(folder), "--prompt", "Hi"]) == 1
    assert "need bitsandbytes, which is missing: `python -m pip install bitsandbytes`" in capsys.readouterr().err

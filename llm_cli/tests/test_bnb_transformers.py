"""Folders that transformers itself writes in the formats of bitsandbytes: the same logits."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import llm_blocks
from llm_cli.models import DEMO
from llm_quant.bnb import BnbLinear, library

for name in ("bitsandbytes", "accelerate"):  # with which transformers quantizes
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed", allow_module_level=True)

IDS = torch.tensor([[1, 5, 22, 70, 8, 9]])


@pytest.mark.parametrize(
    "settings",
    [
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
        {"load_in_4bit": True},
        {"load_in_8bit": True},
    ],
    ids=["nf4-dq", "fp4", "int8"],
)
def test_what_transformers_writes_has_its_logits(settings: dict[str, Any], tmp_path: Path) -> None:
    library.library()  # before transformers imports it, which would ask the hub for a kernel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(bnb_4bit_compute_dtype=torch.float32, **settings)
    theirs = AutoModelForCausalLM.from_pretrained(
        DEMO, quantization_config=config, device_map="cpu", dtype=torch.float32
    )
    theirs.save_pretrained(tmp_path / "theirs")
    ours = llm_blocks.load(tmp_path / "theirs", dtype=torch.float32)
    assert isinstance(ours.mid["0"].attention.q, BnbLinear)
    # in evaluation bitsandbytes computes four bits in bf16 on some processors, in training eight bits otherwise
    theirs.train("load_in_4bit" in settings)
    with torch.no_grad():
        torch.testing.assert_close(ours(IDS), theirs(IDS).logits, rtol=1e-4, atol=1e-4)

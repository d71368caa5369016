"""Quantized models through the LLM class."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import llm_blocks
import llm_quant
from llm_cli import LLM
from llm_cli.app import run
from llm_cli.quantizing import quantize

SHAPE = {
    "vocab_size": 99,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}
PROMPT = "Tell me a story about a fox."


@pytest.mark.parametrize("scheme", ["int8", "int4"])
@pytest.mark.parametrize("precision", ["bf16-true", "32-true"])
def test_a_quantized_model_generates(scheme: str, precision: str):
    llm = LLM.load(distribute=None)
    llm.distribute(precision=precision, quantize=scheme)
    assert isinstance(llm.model.mid["0"].attention.q, llm_quant.QuantizedLinear)
    options = {"max_new_tokens": 20, "temperature": 0}
    text = llm.generate(PROMPT, **options)
    assert len(text.split()) > 5
    if precision == "32-true":  # in bf16 the rounding depends on the shape of a batch
        assert text == llm.generate([PROMPT, "Hi"], **options)[0]


def test_int8_says_what_the_whole_model_says():
    whole = LLM.load(distribute=None)
    whole.distribute(precision="32-true")
    wanted = whole.generate(PROMPT, max_new_tokens=15, temperature=0)
    whole.distribute(precision="32-true", quantize="int8")  # a model that is loaded can be quantized
    assert whole.generate(PROMPT, max_new_tokens=15, temperature=0) == wanted


def test_what_was_rounded_is_not_taken_for_more():
    llm = LLM.load(distribute=None)
    llm.distribute(quantize="int4")
    llm.distribute(quantize="int4", fixed_kv_cache_size=64)
    for other in (None, "int8"):
        with pytest.raises(ValueError, match="rounded to int4 when they were read"):
            llm.distribute(quantize=other)


def test_a_quantized_model_is_not_saved_without_its_weights(tmp_path: Path):
    llm = LLM.load(distribute=None)
    llm.distribute(quantize="int8")
    with pytest.raises(ValueError, match="a quantized model can't be saved"):
        llm.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("scheme", "rule"),
    [
        ("int5", "there is no quantization 'int5'"),
        ("int-4", r"there is no quantization 'int-4'; did you mean int4\?"),
        ("bnb.nf5", r"there is no quantization 'bnb\.nf5'; did you mean bnb\.nf4"),
    ],
)
def test_schemes_that_there_are_not(scheme: str, rule: str):
    with pytest.raises(ValueError, match=rule):
        LLM.load(distribute=None).distribute(quantize=scheme)


def test_a_model_in_bf16_can_be_quantized_later():
    """Layers that read bf16 weights by the kernels were passed over, and the model stayed as it was without a word."""
    llm = LLM.load(distribute=None)
    llm.distribute(precision="bf16-true")
    llm.distribute(precision="bf16-true", quantize="int8")
    assert isinstance(llm.model.mid["0"].attention.q, llm_quant.QuantizedLinear)


def test_what_keeps_its_numbers_elsewhere_is_refused():
    model = llm_blocks.new_model(llm_blocks.find("llama").Config.from_hf(SHAPE))
    for block in model.mid.values():
        block.attention.q = torch.nn.Conv1d(99, 99, 9)
    with pytest.raises(ValueError, match="llama keeps most of its numbers outside of linear layers and experts"):
        quantize(model, "int8")


def test_bf16_uses_the_kernels_where_there_are_some():
    llm = LLM.load(distribute=None)
    llm.distribute(precision="bf16-true")
    kind = type(llm.model.mid["0"].attention.q)
    assert kind is (llm_quant.KernelLinear if llm_quant.level() == "avx512" else torch.nn.Linear)


def test_the_command_quantizes(capsys: pytest.CaptureFixture[str]):
    asked = ["generate", "--prompt", PROMPT, "--max_new_tokens", "12", "--temperature", "0"]
    assert run([*asked, "--quantize", "int4"]) == 0
    assert len(capsys.readouterr().out.split()) > 3
    assert run([*asked, "--quantize", "int3"]) == 2
    assert "int8" in capsys.readouterr().err


def test_without_kernels_one_line_says_what_is_lost(tmp_path: Path):
    command = [sys.executable, "-m", "llm_cli", "generate", "--prompt", "Hi", "--max_new_tokens", "3"]
    environment = {**os.environ, "LLM_KERNELS": "off"}
    done = subprocess.run([*command, "--quantize", "int8"], capture_output=True, text=True, env=environment, check=True)
    lines = [line for line in done.stderr.splitlines() if "without kernels" in line]
    assert lines == ["without kernels (LLM_KERNELS=off) torch's operators compute every token, which takes longer"]
    assert done.stdout.strip()

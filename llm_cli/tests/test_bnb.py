"""Models in bitsandbytes' formats through the LLM class and the commands."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor

import llm_quant
from llm_cli import LLM
from llm_cli.app import run
from llm_cli.checkpoints import open_checkpoint
from llm_cli.commands.sampling import Quantize
from llm_cli.quantized_folder import plan_folder
from llm_cli.quantizing import is_quantized, lost
from llm_quant import native
from llm_quant.bnb import SCHEMES, BnbLinear, library

needs_bnb = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes, the extra bnb, is not installed"
)
PROMPT = "Tell me a story about a brave little fox."
# Measured with the model that ships: 0.0024 for nf4, 0.0031 for fp4, 2e-5 to 4e-5 for int8.
DIVERGENCE = {"bnb.nf4": 0.006, "bnb.nf4-dq": 0.006, "bnb.fp4": 0.006, "bnb.fp4-dq": 0.006, "bnb.int8": 2e-4}


def placed(scheme: str | None, precision: str) -> LLM:
    llm = LLM.load(distribute=None)
    llm.distribute(precision=precision, quantize=scheme)
    return llm


@pytest.fixture(scope="module")
def story() -> tuple[Tensor, Tensor, int]:
    """Ids of a story that the whole model tells (1, T), its log-probabilities of what follows each, and the prompt's
    length."""
    llm = placed(None, "32-true")
    prompt = llm.encode(PROMPT)
    told = llm.generate(PROMPT, max_new_tokens=200, temperature=0.7, seed=3, return_as_token_ids=True)
    ids = torch.tensor([prompt + told.tolist()])
    return ids, follows(llm, ids), len(prompt)


@torch.no_grad()
def follows(llm: LLM, ids: Tensor) -> Tensor:
    return llm(ids)[0, :-1].float().log_softmax(-1)


@needs_bnb
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("precision", ["bf16-true", "32-true", "16-true"])
def test_a_model_stays_near_itself(scheme: str, precision: str, story: tuple[Tensor, Tensor, int]):
    ids, whole, start = story
    llm = placed(scheme, precision)
    assert isinstance(llm.model.mid["0"].attention.q, BnbLinear)
    assert is_quantized(llm.model)
    found = follows(llm, ids)
    divergence = (whole.exp() * (whole - found)).sum(-1)[start - 1 :].mean().item()
    assert 1e-7 < divergence < DIVERGENCE[scheme]
    chosen = found.gather(1, ids[0, 1:, None]), whole.gather(1, ids[0, 1:, None])
    assert chosen[0][start - 1 :].mean() > chosen[1][start - 1 :].mean() - 0.03  # in nats a token
    text = llm.generate(PROMPT, max_new_tokens=12, temperature=0)
    assert text.startswith("Once upon a time")


@needs_bnb
@pytest.mark.parametrize("precision", ["bf16-true", "32-true"])
def test_a_model_that_is_loaded_can_be_quantized_and_moved(precision: str):
    llm = placed(None, precision)
    llm.distribute(precision=precision, quantize="bnb.nf4")
    assert is_quantized(llm.model)
    ids = torch.tensor([llm.encode(PROMPT)])
    wanted = follows(placed("bnb.nf4", precision), ids)
    assert torch.equal(follows(llm, ids), wanted)
    llm.distribute(precision=precision, quantize="bnb.nf4", fixed_kv_cache_size=64)
    assert torch.equal(follows(llm, ids), wanted)
    with pytest.raises(ValueError, match=r"rounded to bnb\.nf4 when they were read, which int8 can't undo"):
        llm.distribute(precision=precision, quantize="int8")


@needs_bnb
def test_the_precision_changes_the_activations_and_no_weight():
    llm = placed("bnb.nf4-dq", "32-true")
    before = [tensor.clone() for tensor in llm.model.mid["0"].attention.q.buffers()]
    llm.distribute(precision="bf16-true", quantize="bnb.nf4-dq")
    after = llm.model.mid["0"].attention.q.buffers()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert llm.generate(PROMPT, max_new_tokens=8, temperature=0).startswith("Once upon")


@needs_bnb
def test_what_there_is_not_is_said(tmp_path: Path):
    llm = placed("bnb.fp4", "32-true")
    assert (lost(llm) is None) == (llm_quant.level() in native.BIT4_LEVELS)
    assert lost(placed("bnb.int8", "32-true")) == (
        "bnb.int8 has no kernels for this CPU, where torch's operators compute every token; int8 and int4 have"
    )
    with pytest.raises(ValueError, match="a quantized model can't be saved"):
        llm.save(tmp_path / "out")
    source = open_checkpoint(Path(sys.modules["llm_cli"].__path__[0]) / "demo")
    with pytest.raises(ValueError, match=r"no folder is written in bnb\.nf4: --quantize bnb\.nf4 rounds to it"):
        plan_folder(source, "bnb.nf4")


@needs_bnb
@pytest.mark.parametrize("scheme", ["bnb.nf4", "bnb.int8"])
def test_the_command_quantizes(scheme: str, capsys: pytest.CaptureFixture[str]):
    asked = ["generate", "--prompt", PROMPT, "--max_new_tokens", "12", "--temperature", "0"]
    assert run([*asked, "--quantize", scheme]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("Once upon a time")
    slow = scheme == "bnb.int8" or llm_quant.level() not in native.BIT4_LEVELS
    assert (f"{scheme} has no kernels for this CPU" in said.err) == slow
    assert "Failed" not in said.err
    assert "cast" not in said.err


def test_the_command_knows_all_schemes():
    literal = get_args(get_args(Quantize)[0])[0]
    assert get_args(literal) == llm_quant.SCHEMES


@needs_bnb
def test_the_doctor_tells_the_version(capsys: pytest.CaptureFixture[str]):
    run(["doctor", "--json"])
    versions = json.loads(capsys.readouterr().out)["versions"]
    assert versions["bitsandbytes"] == version("bitsandbytes")


def test_without_the_extra_one_sentence_comes_before_the_weights_are_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.delitem(sys.modules, "bitsandbytes", raising=False)
    monkeypatch.setattr(library, "_found", lambda: False)
    monkeypatch.setattr("llm_blocks.load", lambda *_, **__: pytest.fail("the weights were read"))
    assert run(["generate", "--prompt", "Hi", "--quantize", "bnb.int8"]) == 1
    err = capsys.readouterr().err
    assert "need bitsandbytes, which is missing: `python -m pip install bitsandbytes` brings it" in err
    assert "Traceback" not in err

"""Where there are no kernels, torch's operators serve, and there is a reason to tell."""

import os
import subprocess
import sys

import pytest

from llm_quant import native

SCRIPT = """
import torch, llm_quant
torch.manual_seed(0)
layers = torch.nn.Sequential(torch.nn.Linear(64, 48), torch.nn.Linear(48, 32, bias=False)).bfloat16()
x = torch.randn(3, 64).bfloat16()
with torch.no_grad():
    wanted = layers(x)
    accelerated = llm_quant.accelerate(layers)(x)
    found = llm_quant.quantize(layers, "{scheme}", group_size=16)(x)
print(llm_quant.level(), llm_quant.reason(), layers[0].blocks is None)
print(bool((found - wanted).norm() < 0.2 * wanted.norm()), bool((accelerated - wanted).norm() < 0.01 * wanted.norm()))
"""


def run(script: str, kernels: str) -> str:
    environment = {**os.environ, "LLM_KERNELS": kernels}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    return done.stdout


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_switched_off(scheme: str) -> None:
    assert run(SCRIPT.format(scheme=scheme), "off").split("\n")[:2] == ["None LLM_KERNELS=off True", "True True"]


def test_a_level_that_is_unknown() -> None:
    first = run(SCRIPT.format(scheme="int8"), "sse9").split("\n")[0]
    if native.reason() is None:
        assert "no level 'sse9'; LLM_KERNELS may be avx512, avx2, neon_bf16, neon_dot, neon, portable, off" in first
    else:
        assert first.startswith("None")


@pytest.mark.skipif(native.level() is None, reason="no kernels here")
def test_a_chosen_level() -> None:
    assert run(SCRIPT.format(scheme="int4"), "portable").split("\n")[:2] == ["portable None False", "True True"]


@pytest.mark.skipif(native.level() is None, reason="no kernels here")
def test_a_file_that_is_no_library_is_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    broken = tmp_path / "_kernels.so"
    broken.write_bytes(b"no library")
    monkeypatch.setattr(native, "_FILE", broken)
    assert "_kernels.so can't be loaded" in native._library.__wrapped__()
    broken.unlink()
    assert "not compiled; install llm_quant where there is a C compiler" in native._library.__wrapped__()


def test_a_library_that_was_built_from_other_sources_is_refused() -> None:
    """An older one once ran beside newer Python: it left gradients unwritten, and nobody was told."""
    script = "from llm_quant import native; native.INTERFACE += 1; print(native.level(), native.reason())"
    found = run(script, "")
    if native.reason() is None:
        assert "None" in found
        assert "built from other sources" in found
    else:
        assert found.startswith("None")

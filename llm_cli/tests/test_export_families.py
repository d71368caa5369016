"""From Hugging Face's layout to sepweight and back, for every family whose tests lie in the same repository."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from llm_cli.app import run

TABLES = sorted(Path(__file__).resolve().parents[2].glob("llm_model_*/tests/test_parity_*.py"))


def families(file: Path) -> list[Any]:
    """The tables of configurations in a family's test file."""
    from llm_blocks.testing import Family

    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return [value for value in vars(module).values() if isinstance(value, Family)]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


@torch.inference_mode()
def logits(folder: Path) -> torch.Tensor:
    transformers = pytest.importorskip("transformers")
    loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager"
    )
    model, notes = loaded
    assert not {kind: names for kind, names in notes.items() if names}
    return model.eval()(torch.arange(3, 40)[None], use_cache=False).logits


@pytest.mark.slow
@pytest.mark.parametrize("file", TABLES, ids=lambda file: file.stem.removeprefix("test_parity_"))
def test_every_byte_comes_back_and_transformers_computes_the_same(file: Path, tmp_path: Path) -> None:
    for number, family in enumerate(families(file)):
        source, sep, out = (tmp_path / f"{name}-{number}" for name in ("source", "sep", "out"))
        family.make(next(iter(family.cases)), source)
        assert run(["convert", str(source), str(sep)]) == 0
        assert run(["export", "hf", str(sep), "--out", str(out), "--max_shard_size", "30kB"]) == 0
        found, wanted = tensors(out), tensors(source)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name].view(torch.uint8), wanted[name].view(torch.uint8)) for name in wanted)
        # the last bits of a product depend on where in memory a weight begins
        assert_close(logits(out), logits(source), rtol=1e-5, atol=1e-6)

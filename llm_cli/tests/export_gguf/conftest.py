"""Small models of every family with a real tokenizer, and llama.cpp to run their files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from tokenizers import decoders, pre_tokenizers
from torch import Tensor

import llm_blocks
from llm_cli import models
from llm_cli.checkpoints import open_checkpoint
from llm_cli.gguf.export import Plan, plan_gguf, write_gguf
from llm_tokenizer import Tokenizer


@pytest.fixture(scope="session")
def byte_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of two special tokens and the 256 bytes, which cuts text as GPT-2 does."""
    tokens = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({token: i for i, token in enumerate(tokens)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(tokens[:2])
    folder = tmp_path_factory.mktemp("bytes")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    return folder


@pytest.fixture
def make() -> Callable[..., Path]:
    """Writes the folder of a model with random weights: norms off 1, biases off 0, clear choices between experts."""

    def written(raw: Mapping[str, Any], folder: Path, *, tokenizer: Path | None = None, **scales: float) -> Path:
        config = llm_blocks.find(raw["model_type"]).Config.from_hf(raw)
        model = llm_blocks.new_model(config)
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                random = torch.randn(parameter.shape, generator=generator)
                if "norm" in name:
                    parameter.add_(0.3 * random)
                else:
                    parameter.copy_(random * scales.get(_kind(name), _scale(name, parameter)))
        llm_blocks.save(model, folder, copy=Tokenizer.load(tokenizer or models.demo_folder()).files)
        return folder

    return written


def _kind(name: str) -> str:
    return "embed" if "embed" in name else name.rpartition(".")[2]


def _scale(name: str, parameter: Tensor) -> float:
    if parameter.dim() == 1:
        return 0.2
    return 1.0 if "embed" in name else 0.25 if "router" in name else 1.3 / math.sqrt(parameter.shape[-1])


@pytest.fixture
def export() -> Callable[..., tuple[Path, Plan]]:
    """Writes the GGUF file of a checkpoint beside it, and gives it with what was planned."""

    def written(source: Path, type: str, **options: Any) -> tuple[Path, Plan]:
        plan = plan_gguf(open_checkpoint(source), type=type, **options)
        out = source.parent / f"{source.name}-{type}.gguf"
        write_gguf(plan, out)
        return out, plan

    return written


@pytest.fixture
def llama_cpp(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package, without the layouts for special instructions: with AMX, version 0.3.36 fails on any Q8_0."""
    package = pytest.importorskip("llama_cpp", reason="llama-cpp-python, which runs the files, is not installed")
    default = package.llama_cpp.llama_model_default_params

    def plain() -> Any:
        params = default()
        params.use_extra_bufts = False
        return params

    monkeypatch.setattr(package.llama_cpp, "llama_model_default_params", plain)
    return package


@pytest.fixture
def their_logits(llama_cpp: Any) -> Callable[..., Tensor]:
    """Logits (T, V) of llama.cpp for ids (T,), with a cache in fp32 for `context` positions."""

    def run(file: Path, ids: list[int], context: int = 512) -> Tensor:
        size = len(ids)
        llm = llama_cpp.Llama(
            str(file),
            n_ctx=context,
            n_batch=size,
            n_ubatch=size,
            n_threads=1,
            n_gpu_layers=0,
            logits_all=True,
            type_k=0,
            type_v=0,
            verbose=False,
        )
        llm.eval(ids)
        logits = torch.from_numpy(llm.scores[:size].copy())
        llm.close()
        return logits

    return run

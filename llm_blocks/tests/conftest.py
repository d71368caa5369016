"""Installs the toy architecture as a package would be: a module, and metadata that announces it."""

import importlib
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import llm_blocks
from llm_blocks import Experts

ENTRY_POINTS = """\
[llm_blocks.architectures]
toy = toy_architecture

[llm_blocks.importers]
toy_format = toy_architecture:IMPORTER
"""


@pytest.fixture(scope="session")
def toy_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("site")
    shutil.copy(Path(__file__).with_name("toy.py"), site / "toy_architecture.py")
    info = site / "toy_architecture-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-architecture\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return site


@pytest.fixture
def toy(toy_site: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The toy architecture's module, installed for one test."""
    monkeypatch.syspath_prepend(toy_site)
    return importlib.import_module("toy_architecture")


@pytest.fixture
def model(toy: ModuleType) -> Any:
    """A toy with random weights."""
    return llm_blocks.new_model(toy.Config(), std=0.3, seed=3).eval()


@pytest.fixture
def folder(model: Any, tmp_path: Path) -> Path:
    """The Hugging Face folder of that toy."""
    llm_blocks.save(model, tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def mixture(toy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The toy architecture with two experts after each layer's attention, all of them used."""

    class Block(toy.Block):
        def __init__(self, c: Any, layer: int) -> None:
            super().__init__(c, layer)
            self.experts = Experts(2, c.dim, 8)

        def forward(self, x: Tensor, context: Any, plan: Any) -> Tensor:
            x = super().forward(x, context, plan)
            tokens = x.flatten(0, 1)
            both = torch.arange(2).expand(tokens.size(0), 2)
            return x + self.experts(tokens, torch.full(both.shape, 0.5), both).view_as(x)

    names = {"layers.{i}.e.{e}." + n: "mid.{i}.experts.{e}." + n for n in ("gate.weight", "up.weight", "down.weight")}
    stacked = {"layers.{i}.e.gate_up": "mid.{i}.experts.gate_up", "layers.{i}.e.down": "mid.{i}.experts.down"}
    monkeypatch.setattr(toy, "Block", Block)
    monkeypatch.setattr(toy, "NAMES", toy.NAMES | names | stacked)
    return toy

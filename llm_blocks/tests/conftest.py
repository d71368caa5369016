"""Installs the toy architecture as a package would be: a module, and metadata that announces it."""

import importlib
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import llm_blocks

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

"""int4 of the model that ships, with calibration and without, on documents of the held-out side."""

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import llm_blocks
from llm_cli import app
from llm_tokenizer import Tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # tools/ is no package that could be installed

from tools.demo_model.batches import IGNORED, batch
from tools.demo_model.build import DEMO
from tools.demo_model.chats import documents

CHARACTERS, ROWS = 50_000, 32  # of the text to calibrate with, and of 512 held-out tokens


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """New documents of the side that was trained on, one after the other."""
    tokenizer, written, parts = Tokenizer.load(DEMO), 0, []
    for document in documents("calibration"):
        part = document.text or tokenizer.render_chat(document.chat, add_generation_prompt=False)
        parts.append(part)
        written += len(part)
        if written > CHARACTERS:
            break
    file = tmp_path_factory.mktemp("calibration") / "text.txt"
    file.write_text("\n".join(parts))
    return file


@pytest.mark.slow
@pytest.mark.parametrize("group", [64, 32])
def test_calibrated_int4_loses_less_on_held_out_documents(text: Path, tmp_path: Path, group: int) -> None:
    """By the loss of the words that the model was to learn, and by the KL divergence from the model as it is."""
    data = batch(Tokenizer.load(DEMO), "evaluation", rows=ROWS, length=512, held=True)
    kept = data.targets != IGNORED
    targets = data.targets[kept]
    assert len(targets) > 10_000

    def log_p(folder: Path) -> Tensor:
        model = llm_blocks.load(folder, dtype=torch.float32)
        with torch.no_grad():
            return torch.cat([model(ids[None]) for ids in data.ids])[kept].log_softmax(-1)

    plain = log_p(DEMO)
    loss, divergence = {"plain": F.nll_loss(plain, targets).item()}, {}
    for name, options in {
        "nearest": [],
        "awq": ["--calibrate", text, "--method", "awq"],
        "gptq": ["--calibrate", text],
    }.items():
        command = ["quantize", DEMO, "--to", "int4", "--group_size", group, "--out", tmp_path / name, *options]
        assert app.run([str(word) for word in command]) == 0
        found = log_p(tmp_path / name)
        loss[name] = F.nll_loss(found, targets).item()
        divergence[name] = F.kl_div(found, plain, log_target=True, reduction="batchmean").item()
    assert divergence["gptq"] < 0.6 * divergence["nearest"]
    assert divergence["gptq"] < divergence["awq"] < 0.9 * divergence["nearest"]
    assert loss["gptq"] - loss["plain"] < 0.7 * (loss["nearest"] - loss["plain"])

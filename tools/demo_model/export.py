"""The folder that ships: bf16 weights, config, tokenizer, and a card with measured figures and real samples."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import llm_blocks
from llm_sepweight.atomic import atomic_file

from .story import PLOTS

MAX_BYTES = 8_000_000
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
STORY = "--max_new_tokens 300 --temperature 0.5 --seed 7"
SAMPLES = (
    ["--prompt", "Tell me a story about a brave little fox.", *STORY.split()],
    ["--prompt", "Once upon a time", "--raw", *STORY.split()],
    ["--prompt", "What food do llamas eat?"],
)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the card says of the training."""

    command: str
    minutes: float
    steps: int
    positions: int
    train_loss: float
    held_out_loss: float
    story_losses: tuple[float, ...]  # of held-out stories, and of other new ones
    machine: str


def export(model: Any, tokenizer_folder: Path, out: Path) -> None:
    """Write `model` in bf16 with its tokenizer to `out`, replacing what is there by one rename."""
    half = llm_blocks.new_model(model.config, dtype=torch.bfloat16)
    half.load_state_dict(model.state_dict())
    fresh = out.with_name(out.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    files = [tokenizer_folder / name for name in TOKENIZER_FILES]
    ends = json.loads((tokenizer_folder / "generation_config.json").read_text(encoding="utf-8"))
    llm_blocks.save(half, fresh, extra_config=ends, copy=files)
    old = out.with_name(out.name + ".old")
    if out.exists():
        out.rename(old)
    fresh.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def sample(folder: Path, options: list[str]) -> str:
    """What `llm generate` prints with the model in `folder`."""
    command = [sys.executable, "-m", "llm_cli", "generate", str(folder), *options]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def write_card(model: Any, folder: Path, facts: Facts) -> None:
    """Write CARD.md. ValueError if the folder is then larger than what may ship."""
    with atomic_file(folder / "CARD.md", overwrite=True) as file:
        file.write(card(model, folder, facts).encode())
    size = sum(path.stat().st_size for path in folder.iterdir())
    if size > MAX_BYTES:
        raise ValueError(
            f"{folder} has {size:,} bytes, more than the {MAX_BYTES:,} that may ship; make the model smaller"
        )


def card(model: Any, folder: Path, facts: Facts) -> str:
    """The text of CARD.md."""
    config = model.config
    parameters = sum(parameter.numel() for parameter in model.parameters())
    weights = (folder / "model.safetensors").stat().st_size
    held, other = facts.story_losses
    samples = "\n\n".join(_sample_text(folder, options) for options in SAMPLES)
    return f"""# The model that ships with llm

A very small Llama, so that `llm generate`, `llm chat` and `LLM.load()` work offline at once. It tells short stories for
children and answers simple questions. It is a demonstration, not a source of knowledge: it knows only what a script
could write down, and it invents the rest.

| | |
|---|---|
| architecture | llama, tied embedding |
| layers, width, MLP | {config.num_layers}, {config.dim}, {config.hidden_dim} |
| heads, kv heads | {config.num_heads}, {config.num_kv_heads} |
| parameters | {parameters:,} |
| weights | {weights:,} bytes, bfloat16 |
| vocabulary | {config.vocab_size:,} tokens, byte-level BPE: any text can be encoded |
| context | {config.max_positions:,} positions |
| held-out loss, all documents | {facts.held_out_loss:.3f} nats a token (in training: {facts.train_loss:.3f}) |
| held-out loss, stories alone | {held:.3f} (other new stories: {other:.3f}) |
| licence | Apache-2.0, as the rest of the repository |

## Corpus

All text is composed by `tools/demo_model` from a seed; none is copied. A story has one of {len(PLOTS)} plots
(something is lost, friends quarrel, somebody is afraid, a seed is planted ...), a hero, friends, things and a place.
Every sentence is filled from the same state, so that names, pronouns, things and the reasons for what happens agree.
Conversations ask for such stories, ask about the story just told, or ask simple questions: animals, colours, opposites,
numbers, days, capitals, spelling, small talk; and questions beyond the model, to which it learns to say so. A few are
exercises in copying ("My name is Tom." ... "What is my name?"). About a quarter of the documents are plain stories, a
quarter conversations with stories, the rest questions. Each step composes new documents.

Held out are about one in 24 of the pairs of plot and hero and of the questions; a document that holds one of them is
never trained on. In conversations only the assistant's words count, in training and in the losses above. Long
conversations are held out more often and are easier, hence the lower figure over all kinds.

## Training

`{facts.command}`: {facts.steps:,} steps, {facts.positions / 1e6:.1f} million positions, {facts.minutes:.0f} minutes of
computing on {facts.machine}.
The model is `llm_model_llama.Model`: a bfloat16 copy of fp32 weights computes, Muon moves the matrices, AdamW the
embedding and the norms; the rate is constant and then falls to zero. Batches depend on the seed and the step alone, so
a stopped run resumes as if it had not stopped. Another processor rounds differently, and its weights and samples will
differ in detail.

## Three samples, unedited

{samples}

## Limits

It repeats its plots, mixes up details now and then, and answers wrongly with the same confidence. A story has the hero
that was asked for, but often another plot. Sums and products of small numbers are mostly right, differences often
wrong. Simple English is all it knows. It should not be used for anything but trying the tools.
"""


def _sample_text(folder: Path, options: list[str]) -> str:
    return f"`llm generate {shlex.join(options)}`\n\n```text\n{sample(folder, options)}\n```"

"""From nothing to the folder that ships: tokenizer, training, export and card, all from one seed."""

from __future__ import annotations

import argparse
import os
import platform
from itertools import islice
from pathlib import Path

import torch

import llm_blocks
from llm_model_llama import Config
from llm_tokenizer import Tokenizer

from .chats import Document, documents
from .export import Facts, export, write_card
from .tokenizer import train_tokenizer
from .train import Plan, Trainer, held_out_loss, restore, run, story_loss

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "llm_cli" / "src" / "llm_cli" / "demo"
CONFIG = Config(
    vocab_size=2048,
    dim=256,
    hidden_dim=448,
    num_layers=6,
    num_heads=4,
    num_kv_heads=2,
    head_dim=64,
    max_positions=1024,
    tie_embeddings=True,
)
TOKENIZER_DOCUMENTS = 20_000


def make_tokenizer(folder: Path, seed: int) -> Tokenizer:
    """The tokenizer in `folder`, trained there unless it is there already."""
    if not (folder / "generation_config.json").exists():
        texts = (_plain(document) for document in islice(documents(f"tokenizer/{seed}"), TOKENIZER_DOCUMENTS))
        train_tokenizer(texts, folder, vocab_size=CONFIG.vocab_size, max_positions=CONFIG.max_positions)
    return Tokenizer.load(folder)


def _plain(document: Document) -> str:
    return document.text or "\n".join(content for _, content in document.messages)


def publish(trainer: Trainer, tokenizer_folder: Path, out: Path, facts: Facts) -> None:
    """Export the model as it is and write its card."""
    export(trainer.model, tokenizer_folder, out)
    write_card(trainer.model, out, facts)


def measure(trainer: Trainer, command: str) -> Facts:
    """The figures for the card."""
    plan = trainer.plan
    seconds, losses = sum(trainer.seconds), trainer.losses[-20:]
    return Facts(
        command=command,
        minutes=seconds / 60,
        steps=trainer.step,
        positions=trainer.step * plan.rows * plan.length,
        train_loss=sum(losses) / len(losses),
        held_out_loss=held_out_loss(trainer.half, trainer.tokenizer),
        story_losses=tuple(story_loss(trainer.half, trainer.tokenizer, held=held) for held in (True, False)),
        machine=f"{plan.workers} threads of a shared {platform.machine()} machine with {os.cpu_count()} cores",
    )


def main(arguments: list[str] | None = None) -> None:
    """Compose the corpus, train tokenizer and model (resuming what is in --work), and write the folder --out."""
    parser = argparse.ArgumentParser(prog="python -m tools.demo_model", description=main.__doc__)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "demo_model", help="checkpoint and tokenizer")
    parser.add_argument("--out", type=Path, default=DEMO, help="the folder that ships")
    parser.add_argument("--steps", type=int, default=Plan.steps)
    parser.add_argument("--cooldown", type=int, default=Plan.cooldown)
    parser.add_argument("--workers", type=int, default=Plan.workers, help="threads that share the rows of a step")
    parser.add_argument("--seed", type=int, default=Plan.seed)
    parser.add_argument("--export_only", action="store_true", help="export the checkpoint as it is, without training")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    plan = Plan(steps=chosen.steps, cooldown=chosen.cooldown, workers=chosen.workers, seed=chosen.seed)
    tokenizer = make_tokenizer(chosen.work / "tokenizer", plan.seed)
    trainer = Trainer(llm_blocks.new_model(CONFIG, seed=plan.seed), tokenizer, plan)
    restore(trainer, chosen.work / "trainer.pt")
    if not chosen.export_only:
        run(trainer, chosen.work / "trainer.pt")
    publish(trainer, chosen.work / "tokenizer", chosen.out, measure(trainer, "make demo-model"))
    print(f"wrote {chosen.out}", flush=True)

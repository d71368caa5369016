"""Training: a bf16 copy of fp32 weights computes, Muon for the matrices and AdamW for the rest, exact resumption.

Each worker thread computes the gradients of its own rows with single-threaded operators, and they meet once a step:
on a busy machine that is far faster than threads that meet in every operator.
Muon (K. Jordan and others, 2024; scaled as in arXiv 2502.16982) needs far fewer steps than AdamW alone at this size.
The learning rate rises for `warmup` steps, stays, and falls to zero over the last `cooldown` steps.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_sepweight.atomic import atomic_file
from llm_tokenizer import Tokenizer

from .batches import IGNORED, Batch, batch
from .chats import DRILLS, documents

EARLY_DRILLS = 0.5


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How to train. A step has `rows` rows of `length` positions, each eighth step `long_rows` of `long_length`.

    The first `early` steps have more exercises in copying than the others.
    """

    steps: int = 2000
    cooldown: int = 1400
    rows: int = 20
    length: int = 320
    long_rows: int = 6
    long_length: int = 1024
    workers: int = 2
    lr: float = 4e-3
    warmup: int = 60
    early: int = 250
    weight_decay: float = 0.05
    clip: float = 1.0
    seed: int = 0

    def rates(self, step: int) -> tuple[float, float]:
        """The learning rates of Muon and of AdamW at `step`, as fractions of the peak.

        AdamW's falls with the third power: under a high rate the rows of rare tokens, such as names, never settle.
        """
        rise, fall = (step + 1) / self.warmup, min(1.0, (self.steps - step) / self.cooldown)
        return min(rise, fall), min(rise, fall**3)

    def agrees(self, other: Plan, step: int) -> bool:
        """Whether both plans are the same up to `step`: ends may differ while the rate hasn't begun to fall."""
        same_end = replace(other, steps=self.steps, cooldown=self.cooldown)
        return self == other or (self == same_end and all(step <= plan.steps - plan.cooldown for plan in (self, other)))

    def batch(self, tokenizer: Tokenizer, step: int) -> Batch:
        """The batch of `step`, which depends on nothing else than the seed and the step."""
        long = step % 8 == 7
        rows, length = (self.long_rows, self.long_length) if long else (self.rows, self.length)
        drills = EARLY_DRILLS if step < self.early else DRILLS
        return batch(tokenizer, f"train/{self.seed}/{step}", rows=rows, length=length, drills=drills)


def loss_of(model: nn.Module, data: Batch) -> Tensor:
    """The sum of the cross-entropies, in nats, of the targets that count."""
    logits = model(data.ids)  # (B, T, V)
    return F.cross_entropy(logits.flatten(0, 1).float(), data.targets.flatten(), ignore_index=IGNORED, reduction="sum")


def held_out_loss(
    model: nn.Module, tokenizer: Tokenizer, *, batches: int = 8, rows: int = 16, length: int = 512
) -> float:
    """The mean loss in nats a token over documents of the held-out side, packed into rows."""
    total, count = 0.0, 0
    with torch.no_grad():
        for number in range(batches):
            data = batch(tokenizer, f"held-out/{number}", rows=rows, length=length, held=True)
            total += float(loss_of(model, data))
            count += data.learnt
    return total / count


def story_loss(model: nn.Module, tokenizer: Tokenizer, *, held: bool, stories: int = 100) -> float:
    """The mean loss in nats a token of new plain stories, each alone, of the held-out side or of the other one."""
    total, count = 0.0, 0
    for story in islice((document for document in documents("stories", held=held) if document.is_story), stories):
        ids = torch.tensor([tokenizer.encode(story.text, bos=True, eos=True)])
        with torch.no_grad():
            total += float(loss_of(model, Batch(ids=ids[:, :-1], targets=ids[:, 1:])))
        count += ids.size(1) - 1
    return total / count


class Trainer:
    """A model in training with its optimizers; `state` and `restore` make a run resume as if it had not stopped."""

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, plan: Plan) -> None:
        self.model, self.tokenizer, self.plan, self.step = model, tokenizer, plan, 0
        self.half = copy.deepcopy(model).to(torch.bfloat16)
        self.losses: list[float] = []
        self.seconds: list[float] = []
        matrices = [p for name, p in model.named_parameters() if name.startswith("mid.") and p.ndim == 2]
        chosen = {id(p) for p in matrices}
        others = [p for p in model.parameters() if id(p) not in chosen]
        self.optimizers: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.Muon(matrices, lr=plan.lr, weight_decay=plan.weight_decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=plan.lr, betas=(0.9, 0.95), weight_decay=0.0),
        )

    def train(self, steps: int) -> Iterator[tuple[int, float]]:
        """Take `steps` steps, or fewer when the plan ends; yields the number of steps taken and the last one's loss."""
        end = min(self.step + steps, self.plan.steps)
        with ThreadPoolExecutor(1) as composer, ThreadPoolExecutor(self.plan.workers) as workers:
            coming = composer.submit(self.plan.batch, self.tokenizer, self.step)
            while self.step < end:
                data = coming.result()
                coming = composer.submit(self.plan.batch, self.tokenizer, self.step + 1)
                yield self.step + 1, self._take(data, workers)

    def _take(self, data: Batch, workers: ThreadPoolExecutor) -> float:
        started = time.monotonic()
        results = list(workers.map(self._gradients, data.split(self.plan.workers)))
        for parameter, *parts in zip(self.model.parameters(), *(gradients for _, gradients in results), strict=True):
            parameter.grad = torch.stack(parts).float().sum(0) / data.learnt
        nn.utils.clip_grad_norm_(self.model.parameters(), self.plan.clip)
        for optimizer, rate in zip(self.optimizers, self.plan.rates(self.step), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = self.plan.lr * rate
            optimizer.step()
            optimizer.zero_grad()
        self._round()
        self.step += 1
        self.losses.append(sum(loss for loss, _ in results) / data.learnt)
        self.seconds.append(time.monotonic() - started)
        return self.losses[-1]

    def _gradients(self, data: Batch) -> tuple[float, tuple[Tensor, ...]]:
        torch.set_num_threads(1)
        loss = loss_of(self.half, data)
        return float(loss.detach()), torch.autograd.grad(loss, list(self.half.parameters()))

    @torch.no_grad()
    def _round(self) -> None:
        for half, parameter in zip(self.half.parameters(), self.model.parameters(), strict=True):
            half.copy_(parameter)

    def state(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on."""
        return {
            "plan": asdict(self.plan),
            "step": self.step,
            "losses": self.losses,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`. ValueError if it belongs to another plan."""
        if not self.plan.agrees(Plan(**state["plan"]), state["step"]):
            raise ValueError(
                f"the checkpoint was trained with {state['plan']}, not with {asdict(self.plan)}; delete it"
            )
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self._round()
        self.step, self.losses, self.seconds = state["step"], state["losses"], state["seconds"]


def run(trainer: Trainer, checkpoint: Path, *, every: int = 100) -> None:
    """Train to the end of the plan, saving the state every so many steps."""
    since, positions = time.monotonic(), trainer.plan.rows * trainer.plan.length
    for step, loss in trainer.train(trainer.plan.steps):
        if step % 25 == 0:
            speed = 25 * positions / (time.monotonic() - since)
            since = time.monotonic()
            print(f"step {step} loss {loss:.4f} {speed:.0f} positions/s", flush=True)
        if step % every == 0 or step == trainer.plan.steps:
            save(trainer, checkpoint)


def save(trainer: Trainer, checkpoint: Path) -> None:
    """Write the trainer's state, completely or not at all."""
    with atomic_file(checkpoint, overwrite=True) as file:
        torch.save(trainer.state(), file)


def restore(trainer: Trainer, checkpoint: Path) -> None:
    """Go on from `checkpoint`, if there is one."""
    if checkpoint.exists():
        trainer.restore(torch.load(checkpoint, weights_only=True))
        print(f"resumed at step {trainer.step}", flush=True)

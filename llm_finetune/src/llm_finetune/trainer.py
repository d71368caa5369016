"""One run of training, from its first step to the folder of its result."""

import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from llm_finetune import run_folder, state
from llm_finetune.evaluate import evaluate
from llm_finetune.events import Event, OnEvent, Run
from llm_finetune.feeding import Feed, Rows, fingerprint, places
from llm_finetune.gradients import Gradients
from llm_finetune.history import History
from llm_finetune.layout import Layout
from llm_finetune.methods import Method
from llm_finetune.objectives import Dpo, Objective, Reference, objective
from llm_finetune.optimizers import build_optimizers
from llm_finetune.parallel import world
from llm_finetune.precision import LossScale, computing, convert
from llm_finetune.schedules import schedule
from llm_finetune.settings import Settings
from llm_finetune.sharding import Sharded, is_wanted
from llm_finetune.state import Progress, Snapshot
from llm_finetune.texts import sample
from llm_finetune.tying import tie_embeddings
from llm_tokenizer import Tokenizer


class Trainer:
    """One run: everything that its steps need, made before the first."""

    def __init__(
        self,
        model: Any,
        rows: Rows,
        settings: Settings,
        method: Method,
        out_dir: Path | None,
        tokenizer: Tokenizer | None,
        tell: OnEvent,
        stop: Callable[[], bool],
    ) -> None:
        self.model, self.rows, self.settings, self.method, self.out_dir = model, rows, settings, method, out_dir
        self._tokenizer, self._tell, self._stop = tokenizer, tell, stop
        self._saved = state.newest(out_dir) if out_dir else None
        self._before: str | None = None
        self._told, self._busy = 0, 0.0  # tokens at the last step that was told, and seconds in steps since
        self.feed = Feed(rows, settings, context=model.config.max_positions)
        self.rate = schedule(settings, self.feed.steps)
        convert(model, settings.precision)
        if settings.train.tie_embeddings is not None and method.name != "full":
            raise ValueError("train.tie_embeddings is of full finetuning; leave it out, for the base keeps its weights")
        tie_embeddings(model, settings.train.tie_embeddings)
        method.prepare(model)
        shards = is_wanted(model, settings, world())
        self.world = replace(world(), in_step=shards)
        self.objective: Objective = objective(settings, rows.train, self._reference)
        rates, base = method.rates(model), state.fingerprint(model, whole=isinstance(self.objective, Dpo))
        self.sharded = Sharded(model) if shards else None
        layout = Layout({name: each for name, each in model.named_parameters() if each.requires_grad})
        self.device = next(model.parameters()).device
        self.gradients = Gradients(layout.parameters, self.world, layout.parts)
        self.history = History(out_dir if self.world.first else None)
        self.snapshot = Snapshot(
            method=method.name,
            layout=layout,
            optimizers=build_optimizers(layout.parameters, settings, scales=rates),
            settings=settings,
            model=base,
            data=fingerprint(rows),
        )
        self.scale = LossScale(settings.precision, self.progress)
        self.interrupted = False

    @property
    def progress(self) -> Progress:
        return self.snapshot.progress

    def begin(self, resume: bool | str | Path) -> None:
        """Take up a checkpoint where there is one to go on from, and tell what is going to be done."""
        path = None
        self._before = self._sample()
        if resume:
            path = self._saved if isinstance(resume, bool) or resume == "auto" else Path(resume)
            run_folder.require_last(self.out_dir, path)
            for note in [] if path is None else state.restore(path, self.snapshot):
                warnings.warn(f"{path}: {note}, so losses may differ in their last bits", stacklevel=3)
            self.history.cut(-1 if path is None else self.progress.step)
        if not self._ended:
            run_folder.require_unfinished(self.out_dir)
        told = {"steps": self.feed.steps, "rows": len(self.rows.train), "settings": asdict(self.settings)}
        told |= {"tokens": self.progress.tokens, "seconds": self.progress.seconds, "processes": self.world.size}
        self._event("start", **told)
        if self.settings.eval.initial_validation and path is None and self.rows.val:
            self._evaluate({})

    def train(self) -> None:
        """Step after step, with what is due after each, until the run or its time is over or someone stops it."""
        train, started = self.settings.train, time.monotonic() - self.progress.seconds
        self._told, self._busy = self.progress.tokens, 0.0
        over = False
        while not self._ended and not self.interrupted and not over:
            begun = time.monotonic()
            row = self._step()
            self._busy += time.monotonic() - begun
            self.progress.seconds = time.monotonic() - started
            row |= {"tokens": self.progress.tokens, "trained_tokens": self.progress.trained_tokens}
            row |= {"seconds": round(self.progress.seconds, 3)}
            over = self._any(train.max_time is not None and self.progress.seconds >= train.max_time)
            self._after(row, last=over or self._ended)
            self.interrupted = self._any(self._stop())

    def _any(self, flag: bool) -> bool:
        return self.world.any(flag, self.device)

    @property
    def _ended(self) -> bool:
        return self.progress.step >= self.feed.steps or self.progress.stopped

    def finish(self) -> Run:
        """The last checkpoint and, unless the run was interrupted before its end, the folder of the result."""
        progress = self.progress
        self.interrupted = self.interrupted and not self._ended
        self._save()
        self._take_best()
        after = None if self.interrupted else self._sample()
        final = None if self.interrupted else self._final()
        run = Run(
            final=final,
            checkpoint=self._saved,
            step=progress.step,
            train_loss=progress.train_loss,
            val_loss=progress.val_loss,
            interrupted=self.interrupted,
            before=self._before,
            after=after,
            history=tuple(self.history.rows),
        )
        self._event("end", final=final, interrupted=self.interrupted)
        return run

    def _step(self) -> dict[str, float]:
        """One update of the weights; gives its numbers."""
        step, micros = self.progress.step, self.feed.step(self.progress.step)
        weight, total = sum(self.objective.weight(items) for items in micros), 0.0
        row = {"step": step + 1, "epoch": round(self.feed.epoch(step + 1), 4), "learning_rate": self.rate(step)}
        if weight > 0:
            mine = list(self.world.share(len(micros)))
            for number, counts in mine:
                with self._computing(f"{self.settings.seed} {step} {number}"):
                    loss = self.objective.loss(self.model, micros[number]) * counts
                (loss / weight * self.scale.value).backward()
                self.snapshot.layout.take_gradients()
                if (number, counts) != mine[-1]:
                    self.gradients.collect()
                total += float(loss.detach())
            self.gradients.finish()
            total = self.world.sums([total], self.device)[0]
            row["loss"] = self.progress.train_loss = total / weight
            row |= self._update(row, step)
        self.progress.skipped += "norm" not in row
        self.progress.step += 1
        self.progress.tokens += sum(places(item) for items in micros for item in items)
        self.progress.trained_tokens += weight
        return row

    def _reference(self) -> Reference:
        """What preferences are compared with, which is sharded as the model is where it is a second one."""
        reference = self.method.reference(self.model)
        with reference(self.model) as before:
            if self.world.in_step and before is not self.model:
                Sharded(before)
        return reference

    def _rest(self) -> None:
        if self.sharded is not None:
            self.sharded.rest()

    def _update(self, row: Mapping[str, float], step: int) -> dict[str, float]:
        """The step of the optimizers by these gradients; gives their norm, or nothing where it was left out."""
        norm = self.gradients.clip(self.settings.train.max_norm, scale=self.scale.value)
        skipped = self.scale.skips(norm)
        self._require_numbers({**row, "norm": 0.0 if skipped else norm})
        if not skipped:
            self.snapshot.optimizers.step(self.rate(step))
        self.snapshot.optimizers.zero_grad()
        return {} if skipped else {"norm": norm}

    @contextmanager
    def _computing(self, name: str) -> Iterator[None]:
        with _seeded(name), computing(self.settings.precision, self.device):
            yield

    def _after(self, row: dict[str, float], *, last: bool) -> None:
        """What is due after a step: logging, evaluation, a checkpoint."""
        step, train, interval = self.progress.step, self.settings.train, self.settings.eval.interval
        due = (interval is not None and step % interval == 0) or (last and self.settings.eval.final_validation)
        if due and self.rows.val:
            self._evaluate(row)
        elif step % train.log_interval == 0 or last:
            self._log(row)
        better = train.keep_best and self.progress.best_step == step
        if better or (train.save_interval is not None and step % train.save_interval == 0):
            self._save()

    def _evaluate(self, row: dict[str, float]) -> None:
        loss = evaluate(self.model, self.objective, self.rows.val, self.settings, self.world)
        self._rest()
        progress = self.progress
        progress.val_loss = loss
        if loss == loss and (progress.best_loss is None or loss < progress.best_loss):  # NaN without a trained token
            progress.best_loss, progress.best_step, progress.without_better = loss, progress.step, 0
        else:
            progress.without_better += 1
            patience = self.settings.train.patience
            progress.stopped = patience is not None and progress.without_better >= patience
        self._log({"step": progress.step, "seconds": progress.seconds, **row, "val_loss": loss})
        self._event("eval", val_loss=loss, best_loss=progress.best_loss, best_step=progress.best_step)
        self._sample()

    def _sample(self) -> str | None:
        """What the model makes now of the prompt of one row, which is also told; None without a tokenizer."""
        if self._tokenizer is None or self.settings.eval.max_new_tokens is None:
            return None
        prompt, text = sample(self.model, self._tokenizer, self.rows, self.settings)
        self._rest()
        self._event("sample", prompt=prompt, text=text)
        return text

    def _log(self, row: dict[str, float]) -> None:
        self.history.add(row)
        done, busy = self.progress.tokens - self._told, self._busy
        self._told, self._busy = self.progress.tokens, 0.0
        self._event("step", **row, **({"tokens_per_second": done / busy} if done and busy else {}))

    def _save(self) -> None:
        if self.out_dir is None:
            return
        self._saved = state.path_of(self.out_dir, self.progress.step)
        if not self._any(self.world.first and state.is_saved(self.out_dir, self.snapshot)):
            state.save(self.out_dir, self.snapshot, first=self.world.first)
        if self.world.first:
            best = self.progress.best_step if self.settings.train.keep_best else None
            state.prune(self.out_dir, self.settings.train.keep, best)
        self.world.wait()
        self._event("save", path=self._saved)

    def _take_best(self) -> None:
        """The best weights again where patience ended the run."""
        if self.out_dir is not None and self.progress.stopped:
            best = state.path_of(self.out_dir, self.progress.best_step or 0)
            if best.exists():
                state.read_trained(best, self.snapshot)

    def _final(self) -> Path | None:
        """The folder of the result, made once; a sharded model is whole again, in the first process."""
        if self.sharded is not None:
            self.sharded.join(self.world.first)
        if self.out_dir is None:
            return None
        final = self.out_dir / run_folder.FINAL
        if self.world.first and not final.exists():
            self.method.finish(self.model, final, self._tokenizer)
        self.world.wait()
        return final

    def _require_numbers(self, row: Mapping[str, float]) -> None:
        if all(value == value and abs(value) != float("inf") for value in row.values()):
            return
        numbers = self.feed.numbers(self.progress.step)
        raise ValueError(
            f"step {self.progress.step + 1} has the loss {row['loss']} and the gradient norm {row['norm']}, from which "
            f"nothing is learnt; its rows are {numbers} (from 0), and the last checkpoint is {self._saved}. A lower "
            "learning rate or train.max_norm may help"
        )

    def _event(self, kind: str, **values: Any) -> None:
        if self.world.first:
            self._tell(Event(kind=kind, step=self.progress.step, values=values))


@contextmanager
def _seeded(name: str) -> Iterator[None]:
    """Random numbers inside, which dropout draws, follow from the name alone; those outside are not disturbed."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(zlib.crc32(name.encode()))
        yield

"""The contestants of gpu.py: this project's compiled steps, and the baseline.

Shapes: T time, V vocabulary.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from common import Figures
from gpu import SLOTS, THETA, copy_rate, timed
from plain_llama import GROUP, PlainLlama
from shapes import SHAPES
from torch.nn.attention import SDPBackend, sdpa_kernel

import llm_blocks
import llm_quant

Measure = Callable[[], tuple[float, float]]
"""Seconds of prefill and of decoding."""


class Ours:
    """A Llama of this project with random weights, its steps compiled."""

    def __init__(self, shape: str, precision: str, device: torch.device, *, compiled: bool) -> None:
        model = random_model(shape, device)
        if precision != "bf16":
            llm_quant.quantize(model, "int8" if precision == "int8" else "int4", group_size=GROUP)
        self.model, self.device = model, device
        self.decoder = llm_blocks.CompiledDecoder(model, compiler=None if compiled else lambda function: function)

    def measure(self, prompt: torch.Tensor, new: int) -> tuple[float, float]:
        """Read a prompt (1, T), then decode greedily; ids stay on the device."""
        cache = self.decoder.new_cache(1, prompt.size(1) + new)
        last: list[torch.Tensor] = []
        prefill = timed(self.device, lambda: last.append(self.read(prompt, cache)))

        def decode() -> None:
            for _ in range(new):
                last.append(self.read(last.pop(), cache))

        return prefill, timed(self.device, decode)

    def read(self, ids: torch.Tensor, cache: Any) -> torch.Tensor:
        """The likeliest id (1, 1) after these."""
        return self.decoder(ids, cache, last_only=True)[:, -1].argmax(-1, keepdim=True)

    def bytes_read(self) -> int:
        """By a step: all that multiplies, so of tiles not the canonical scales, and no table of embeddings."""
        total = sum(each.nbytes for name, each in self.model.named_parameters() if not name.startswith("begin."))
        for layer in self.model.modules():
            if isinstance(layer, llm_quant.QuantizedLinear):
                in_tiles = layer.tile_scales is not None
                read = [layer.value, layer.tile_scales] if in_tiles else [layer.value, layer.scale, layer.zero]
                total += sum(each.nbytes for each in read if each is not None)
        return total


class Plain:
    """The baseline."""

    def __init__(self, shape: str, precision: str, device: torch.device, *, compiled: bool) -> None:
        self.model, self.device = PlainLlama(SHAPES[shape], SLOTS, precision, device, THETA).eval(), device
        self.step: Any = self._next
        if compiled:
            from torch._inductor import config

            config.coordinate_descent_tuning = True
            self.step = torch.compile(self._next, mode="reduce-overhead", fullgraph=True)

    def _next(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return self.model(ids, positions).argmax(-1, keepdim=True)

    @torch.inference_mode()
    def measure(self, prompt: torch.Tensor, new: int) -> tuple[float, float]:
        """As `Ours.measure`."""
        positions = torch.arange(prompt.size(1), device=self.device)
        last: list[torch.Tensor] = []
        prefill = timed(self.device, lambda: last.append(self._next(prompt[0], positions)))
        at = positions[-1:].clone()

        def decode() -> None:
            for _ in range(new):
                at.add_(1)
                with sdpa_kernel(SDPBackend.MATH):  # of which the compiler makes its own kernels, as gpt-fast found
                    last.append(self.step(last.pop(), at).clone())

        return prefill, timed(self.device, decode)

    def bytes_read(self) -> int:
        return self.model.bytes_read()


class Bench:
    """The measurements, line by line of the table; `notes` has what doesn't fit into it."""

    def __init__(self, options: argparse.Namespace, deadline: float) -> None:
        self.options, self.deadline = options, deadline
        self.device, self.compiled = torch.device(options.device), options.compiler == "inductor"
        self.prompt = torch.randint(0, SHAPES[options.shape]["vocab_size"], (1, options.prompt), device=self.device)
        self.notes: list[str] = []
        self.kept: Ours | None = None  # the first precision's, to check proposals
        self.plain_speed = float("nan")
        if options.prompt + options.new + options.tokens > SLOTS:
            raise ValueError(f"prompt and answer must fit into {SLOTS} slots, so that both have caches of one size")

    def compare(self, precision: str) -> Iterator[str]:
        """A line for the baseline and one for this project, measured in turn."""
        made: dict[str, Any] = {}
        for name, kind in (("baseline", Plain), ("ours", Ours)):
            system = self._made(f"{name} {precision}", lambda kind=kind: self._warm(kind, precision))
            if system is not None:
                made[name] = system
        figures = {name: Figures() for name in made}
        for number in range(self.options.rounds):
            for name in list(made) if number % 2 else list(reversed(made)):
                figures[name].add(self._round(made[name]))
        for name, each in figures.items():
            ratio = each.ratio("decode", figures["baseline"]) if "baseline" in figures else float("nan")
            yield _line(name, precision, each, ratio)
            if name == "ours" and self.kept is None:
                self.kept, self.plain_speed = made["ours"], each.median("decode")

    def _warm(self, kind: type[Ours] | type[Plain], precision: str) -> Ours | Plain:
        system = kind(self.options.shape, precision, self.device, compiled=self.compiled)
        for _ in range(2):  # compiled, then recorded
            system.measure(self.prompt, min(8, self.options.new))
        return system

    def _made(self, name: str, make: Callable[[], Any]) -> Any:
        if time.monotonic() > self.deadline:
            self.notes.append(f"left out: {name}: no time was left")
            return None
        began = time.monotonic()
        try:
            made = make()
        except (RuntimeError, ValueError) as error:
            self.notes.append(f"left out: {name}: {' '.join(str(error).split())[:300]}")
            return None
        self.notes.append(f"{name}: weights made, compiled and tried in {time.monotonic() - began:.0f} s")
        return made

    def _round(self, system: Ours | Plain) -> dict[str, float]:
        copy = copy_rate(self.device, size=2**30 if self.device.type == "cuda" else 2**26)
        prefill, decode = system.measure(self.prompt, self.options.new)
        speed = self.options.new / decode
        rate = speed * system.bytes_read()
        values = {"prefill": self.prompt.size(1) / prefill, "decode": speed, "rate": rate / 1e9}
        return {**values, "share": rate / copy, "copy": copy / 1e9}

    def speculation(self, precision: str) -> Iterator[str]:
        """What a round of proposals costs, and the bounds that follow; two lines of a text."""
        make = partial(Ours, self.options.draft, precision, self.device, compiled=self.compiled)
        ours, draft = self.kept, self._made(f"draft {self.options.draft}", make)
        if ours is None or draft is None:
            return
        caches = [each.decoder.new_cache(1, self.prompt.size(1) + self.options.new) for each in (ours, draft)]
        for each, cache in zip((ours, draft), caches, strict=True):
            each.read(self.prompt % SHAPES[self.options.draft]["vocab_size"], cache)
        rounds = [self._speculate(ours, draft, caches) for _ in range(3 + 10 * self.options.rounds)]
        seconds = sorted(rounds[3:])[len(rounds[3:]) // 2]
        most, plain = (self.options.tokens + 1) / seconds, self.plain_speed
        even = (plain * seconds - 1) / self.options.tokens
        yield f"\nspeculative, {precision}, draft {self.options.draft}, {self.options.tokens} proposals a round:"
        yield (
            f"a round takes {seconds * 1e3:.2f} ms: {most:.1f} tok/s if all are right, {1 / seconds:.1f} if none is, "
            f"beside {plain:.1f} without; as fast as without where {even:.0%} of the proposals are right"
        )

    def _speculate(self, ours: Ours, draft: Ours, caches: list[Any]) -> float:
        """Seconds of a round, after which everything is as it was before."""
        lengths = caches[0].lengths[0]
        ids = self.prompt[:, -1:] % SHAPES[self.options.draft]["vocab_size"]

        def work() -> None:
            proposed = [ids]
            for _ in range(self.options.tokens):
                proposed.append(draft.read(proposed[-1], caches[1]))
            logits = ours.decoder(torch.cat(proposed, dim=1), caches[0])
            logits.argmax(-1).tolist()  # which are accepted is decided on the host

        seconds = timed(self.device, work)
        for cache in caches:
            cache.truncate(lengths)
        return seconds


def random_model(shape: str, device: torch.device) -> Any:
    """A Llama of that shape in bf16, its weights drawn on the device."""
    raw = {**SHAPES[shape], "model_type": "llama", "rms_norm_eps": 1e-5, "max_position_embeddings": 8192}
    architecture = llm_blocks.find("llama")
    config = architecture.Config.from_hf({**raw, "rope_theta": THETA, "tie_word_embeddings": False})
    with torch.device("meta"):
        model = architecture.Model(config).to(torch.bfloat16)
    model.to_empty(device=device).requires_grad_(False).eval()
    for name, each in model.named_parameters():
        each.fill_(1) if "norm" in name else each.normal_(0, 0.02)
    return model


def _line(name: str, precision: str, figures: Figures, ratio: float) -> str:
    spans = [figures.span(each) for each in ("prefill", "decode", "rate")]
    cells = [name, precision, *spans, f"{figures.median('share'):.0%}", figures.span("copy"), f"{ratio:.2f}"]
    return "| " + " | ".join(cells) + " |"

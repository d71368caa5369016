"""A model on its device, and what it is called by there: itself, compiled steps, or some of its adapters."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import Any

from llm_blocks import CompiledDecoder
from llm_cli.adapters import Adapted, active, put_on
from llm_cli.call import Call
from llm_cli.generation import Generation
from llm_cli.huge_pages import Settling
from llm_cli.options import Options
from llm_cli.placement import Placement, check_change
from llm_cli.source import Source, change
from llm_finetune import adapters, remove_lora, unload
from llm_finetune.lora import Choice
from llm_tokenizer import Tokenizer


class Running:
    """A model whose weights are read, where `placement` says. `folders` are those of its adapters, by name."""

    def __init__(self, model: Any, placement: Placement, folders: Mapping[str, Path]) -> None:
        self.model, self.placement, self.folders = model, placement, dict(folders)
        self.compiled: CompiledDecoder | None = None
        self.settling: Settling | None = None
        self._views: dict[tuple[tuple[str, float], ...], Adapted] = {}

    @classmethod
    def start(cls, source: Source, placement: Placement, folders: Mapping[str, Path]) -> Running:
        """Read the weights, rounded as they are read where that is wanted; adapters stay in fp32."""
        model = source.build(placement)
        put_on(model, folders)
        return cls(model, placement, folders)

    def moved(self, source: Source, placement: Placement) -> Running:
        """The same model elsewhere, in place, with its adapters read again, in fp32. ValueError where that can't be."""
        check_change(source.stored_dtype(), self.placement, placement)
        on = adapters(self.model)
        if set(on) - self.folders.keys():
            raise ValueError(
                "the adapter was finetuned here and is in no folder; save it first, or finetune with out_dir="
            )
        if self.folders and set(on) != self.folders.keys():
            raise ValueError(
                "a model with such an adapter can't be moved; load it with distribute=None and place it once"
            )
        remove_lora(self.model)
        change(self.model, self.placement, placement)
        put_on(self.model, self.folders)
        return Running(self.model, placement, self.folders)

    def merged(self) -> Running:
        """The model with its first adapter in the weights. ValueError where there is none, and for rounded weights."""
        known = adapters(self.model)
        if not known:
            raise ValueError("there is no adapter to merge; load one with LLM.load(..., adapters={...})")
        return self.changed(unload(self.model, known[0]), {})

    def changed(self, model: Any, folders: Mapping[str, Path]) -> Running:
        """The same for a model whose weights have changed: another object, for which nothing that was read holds."""
        return Running(copy(model), self.placement, folders)

    def begin(self, call: Call, tokenizer: Tokenizer | None, *, limit: int, draft: Any) -> Generation:
        """The generation that a call asks for. ValueError for what is wrong with it, before any work."""
        return Generation(
            self.model,
            call.prompts,
            call.options,
            tokenizer=tokenizer,
            continued=call.continued,
            limit=limit,
            fixed_length=None if self.placement.fixed_kv_cache_size is None else limit,
            cache=call.cache,
            draft=draft,
            step=self.caller(call.options, *call.choice),
            settling=self.settling,
        )

    def caller(self, options: Options, *choice: Choice) -> Any:
        """What a generation calls: the model, with compiled steps or with other adapters than its own, kept for later.

        ValueError for a choice that there isn't, and for one together with compiled steps.
        """
        chosen = self._chosen(*choice)
        if not options.compile:
            return chosen
        if chosen is not self.model:
            raise ValueError("compiled steps have the adapter that was loaded first; leave out compile, or adapter")
        if self.compiled is None:
            self.compiled = CompiledDecoder(self.model)
        return self.compiled

    def _chosen(self, *choice: Choice) -> Any:
        """The model itself where the choice is its own: what it has read is of use with and without naming it."""
        if not choice:
            return self.model
        view = Adapted(self.model, choice[0])
        if view.weights == active(self.model) and self.folders.keys() <= set(adapters(self.model)):
            return self.model
        fixed = self.folders.keys() - set(adapters(self.model))
        if fixed:
            raise ValueError(
                f"the adapter {min(fixed)!r} is of a kind that can't be switched by call; load the base alone"
            )
        return self._views.setdefault(view.weights, view)

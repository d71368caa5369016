"""`Weights`: the tensors of a checkpoint by name, whatever its layout on disk."""

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from .deciders import Decider, default_decider, place
from .errors import WeightsError
from .formats.base import Found, TensorFile, TensorInfo
from .layout import Section, join_name, part_sections, section_file, section_order, split_name
from .spec import PartSpec

_DIGITS = re.compile(r"[0-9]+")


class Weights:
    """An open checkpoint. Names, shapes and dtypes are known; tensors are read when asked for.

    Get one from `llm_sepweight.open`; use it in a `with` block, or `close` it, to let go of the mapped files.
    """

    def __init__(self, found: Found) -> None:
        self._found = found

    @property
    def layout(self) -> str:
        """One of "safetensors", "bin" (each also "-sharded"), "sepweight", "sepweight-pth" and "meta"."""
        return self._found.layout

    @property
    def path(self) -> Path:
        """The folder or file that was opened."""
        return self._found.path

    @property
    def names(self) -> tuple[str, ...]:
        """All names, tied ones too. Sectioned (`begin.…`, `mid.3.…`, `end.…`) after a decider or `part`."""
        return tuple(self._found.entries)

    def __contains__(self, name: object) -> bool:
        return name in self._found.entries

    @property
    def tied(self) -> Mapping[str, str]:
        """Names that share a tensor: name -> the name under which it is stored."""
        return {n: s for n, s in self._found.tied.items() if n in self and s in self}

    @property
    def dropped(self) -> tuple[str, ...]:
        """The file's own names of tensors for which the decider answered None; a part has those of the whole."""
        return self._found.dropped

    @cached_property
    def num_layers(self) -> int:
        """How many layers the whole model has, also when this is a part of it."""
        if self._found.num_layers is not None:
            return self._found.num_layers
        layers = [section[1] for section, _ in map(split_name, self.sectioned().names) if section[0] == "mid"]
        return max(layers, default=-1) + 1

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors as stored, a tied one counted once."""
        tied = self.tied
        return sum(self.info(name).nbytes for name in self.names if name not in tied)

    def info(self, name: str) -> TensorInfo:
        """Shape, dtype, file and size in bytes of a tensor, without reading it. WeightsError for an unknown name."""
        file, key = self._entry(name)
        return file.infos[key]

    def key(self, name: str) -> str:
        """The name that the tensor's own file has for it. WeightsError for an unknown name."""
        return self._entry(name)[1]

    def read(
        self,
        name: str,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        out: Tensor | None = None,
    ) -> Tensor:
        """The tensor `name`; in the file's own dtype unless `dtype` says otherwise.

        Without conversion the result is mapped from the file where the format allows it: pages are read when used, all
        reads of a name share them, and writing to them never reaches the file. `out` (the tensor's shape, any dtype and
        device) is filled and returned instead, read straight into its memory when no conversion is needed.
        WeightsError for an unknown name or another shape.
        """
        file, key = self._entry(name)
        if out is None:
            info = file.infos[key]
            if dtype in (None, info.dtype):
                return file.view(key).to(device)
            out = torch.empty(info.shape, dtype=dtype, device=device)
            file.read_into(key, out)
            return out
        if tuple(out.shape) != file.infos[key].shape:
            raise WeightsError(
                f"{file.infos[key].file}: {name!r} has shape {file.infos[key].shape}, out= has {tuple(out.shape)}"
            )
        if dtype not in (None, out.dtype):
            raise ValueError(f"dtype={dtype} contradicts out=, which is {out.dtype}; leave dtype out")
        file.read_into(key, out.detach())
        return out

    def sectioned(self, decider: Decider | None = None) -> "Weights":
        """The same tensors under sectioned names, sorted; those for which the decider answers None are left out."""
        found = self._found
        if found.sectioned:
            return self
        placed = {key: name for key in found.entries if (name := place(key, decider or default_decider)) is not None}
        entries: dict[str, tuple[TensorFile, str]] = {}
        for key, name in placed.items():
            if name in entries:
                raise WeightsError(
                    f"{self.path}: {key!r} and another tensor both become {name!r}; give another decider="
                )
            entries[name] = found.entries[key]
        tied = {placed[n]: placed[s] for n, s in found.tied.items() if n in placed and s in placed}
        dropped = tuple(key for key in found.entries if key not in placed)
        return Weights(replace(found, entries=_in_order(entries), sectioned=True, tied=tied, dropped=dropped))

    def part(self, spec: str | PartSpec) -> "Weights":
        """The tensors of a part of the model, e.g. "b 0-12", under sectioned names with absolute layer numbers.

        Shares the open files. WeightsError when a section of the part isn't there; ValueError for a malformed spec.
        """
        part = (PartSpec.parse(spec) if isinstance(spec, str) else spec).resolve(self.num_layers)
        whole = self.sectioned()
        wanted = dict.fromkeys(part_sections(part))
        present = {split_name(name)[0] for name in whole.names}
        for section in wanted:
            if section not in present:
                file = self._file_of(section)
                raise WeightsError(
                    f"{self.path}: part '{part}' needs {join_name(section, '*')}, which isn't here{file}"
                )
        for name, stored in whole._found.tied.items():
            if name not in whole and split_name(name)[0] in wanted:
                file = self._file_of(split_name(stored)[0])
                raise WeightsError(
                    f"{self.path}: part '{part}' needs {stored}, to which {name} is tied; it isn't here{file}"
                )
        entries = {n: e for n, e in whole._found.entries.items() if split_name(n)[0] in wanted}
        return Weights(replace(whole._found, entries=_in_order(entries), num_layers=self.num_layers))

    def without(self, names: Collection[str]) -> "Weights":
        """The same tensors but for some names, which need not be there. Shares the open files."""
        entries = {name: entry for name, entry in self._found.entries.items() if name not in names}
        return Weights(replace(self._found, entries=entries, num_layers=self.num_layers))

    def close(self) -> None:
        """Lets go of the files, also for the parts of these weights; tensors already read stay valid."""
        for file in {id(file): file for file, _ in self._found.entries.values()}.values():
            file.close()

    def __enter__(self) -> "Weights":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Weights {self.layout} {str(self.path)!r}: {len(self.names)} tensors>"

    def _file_of(self, section: Section) -> str:
        """A clause with the name of a section's file, where the layout has one."""
        return f" ({section_file(section)})" if self.layout == "sepweight" else ""

    def _entry(self, name: str) -> tuple[TensorFile, str]:
        entry = self._found.entries.get(name)
        if entry is None:
            # Another layer's tensor is no misspelling, however alike the names are.
            alike = [each for each in self.names if _DIGITS.findall(each) == _DIGITS.findall(name)]
            near = get_close_matches(name, alike, n=1, cutoff=0.85)
            raise WeightsError(
                f"{self.path}: has no tensor {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")
            )
        return entry


def _in_order(entries: dict[str, tuple[TensorFile, str]]) -> dict[str, tuple[TensorFile, str]]:
    """Begin, the layers upward, end; within a section as they came."""
    return dict(sorted(entries.items(), key=lambda item: section_order(split_name(item[0])[0])))

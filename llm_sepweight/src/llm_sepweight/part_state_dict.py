"""`PartStateDict`: the tensors of a part in memory, by section."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from .layout import join_name, split_name
from .opening import open
from .spec import PartSpec

__all__ = ["PartSpec", "PartStateDict"]


@dataclass(frozen=True)
class PartStateDict:
    """State dictionaries of the beginning, of each layer by its absolute number, and of the end.

    `main_range` is the first range of the part, the slots into which `to_dict` puts layers; None without layers.
    """

    begin: dict[str, Tensor] | None
    mid: dict[int, dict[str, Tensor]]
    main_range: range | None
    end: dict[str, Tensor] | None

    @classmethod
    def from_part_spec(cls, path: str | Path, spec: str | PartSpec) -> "PartStateDict":
        """The part `spec` of the checkpoint at `path` (any layout). WeightsError when it isn't there."""
        with open(path) as weights:
            part = (PartSpec.parse(spec) if isinstance(spec, str) else spec).resolve(weights.num_layers)
            chosen = weights.part(part)
            sections: dict[tuple[str, int], dict[str, Tensor]] = {}
            for name in chosen.names:
                section, key = split_name(name)
                sections.setdefault(section, {})[key] = chosen.read(name)
        return cls(
            begin=sections.get(("begin", 0)),
            mid={layer: sections["mid", layer] for layer in part.layers()},
            main_range=part.mid[0] if part.mid else None,
            end=sections.get(("end", 0)),
        )

    def to_dict(self, target_range: Iterable[int] | None = None) -> dict[str, Tensor]:
        """One state dictionary with the keys begin.KEY, mid.SLOT.KEY, end.KEY.

        The slots are those of the first range. They hold the layers `target_range`, by default their own: so one module
        can be given other layers' weights in turn. ValueError for another number of layers, or one not loaded.
        """
        slots = list(self.main_range or ())
        layers = slots if target_range is None else list(target_range)
        if len(layers) != len(slots) or not set(layers) <= self.mid.keys():
            raise ValueError(
                f"target_range must name {len(slots)} of the loaded layers {sorted(self.mid)}, "
                f"one for each slot of {self.main_range}; got {layers}"
            )
        result = {join_name(("begin", 0), key): tensor for key, tensor in (self.begin or {}).items()}
        for slot, layer in zip(slots, layers, strict=True):
            result |= {join_name(("mid", slot), key): tensor for key, tensor in self.mid[layer].items()}
        return result | {join_name(("end", 0), key): tensor for key, tensor in (self.end or {}).items()}

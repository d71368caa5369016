"""Part specs: which piece of a model is meant. `f`; `b 0-12`; `12-24`; `24-32 e`. Ranges are half-open."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

MAX_LAYERS = 100_000  # file names hold five digits

_RANGE = re.compile(r"([0-9]{1,6})-([0-9]{1,6})")
_GRAMMAR = "write 'f', or 'b' (first), half-open layer ranges such as 0-12, and 'e' (last), separated by spaces"


@dataclass(frozen=True)
class PartSpec:
    """A part of a model: its beginning (embedding), half-open ranges of layers, its end (last norm and head).

    `is_full` means everything; `mid` is then empty until `resolve` fills it.
    """

    begin: bool
    mid: list[range]
    end: bool
    is_full: bool = False

    @classmethod
    def parse(cls, text: str) -> "PartSpec":
        """The spec that `text` writes down. ValueError says which rule it breaks."""
        words = text.split()
        if not words:
            raise ValueError(f"an empty part spec: {_GRAMMAR}")
        if "f" in words:
            if words != ["f"]:
                raise ValueError(f"part spec {text!r}: 'f' stands alone, it already means everything")
            return cls(begin=True, mid=[], end=True, is_full=True)
        begin, end = words[0] == "b", words[-1] == "e"
        mid = [_parse_range(word, text) for word in words[begin : len(words) - end]]
        _check_ranges(begin, mid, text)
        return cls(begin=begin, mid=mid, end=end, is_full=False)

    from_string = parse

    def resolve(self, num_layers: int) -> "PartSpec":
        """The same part of a model of `num_layers` layers, with every range concrete."""
        if self.is_full:
            return replace(self, mid=[range(num_layers)] if num_layers else [])
        beyond = [r for r in self.mid if r.stop > num_layers]
        if beyond:
            raise ValueError(
                f"part spec '{self}' asks for layers {beyond[0].start}-{beyond[0].stop}, "
                f"but the model has {num_layers}: the last range may end at {num_layers}"
            )
        return self

    def layers(self) -> Iterator[int]:
        """The layer numbers of the ranges, in the order written."""
        for layers in self.mid:
            yield from layers

    def __str__(self) -> str:
        if self.is_full:
            return "f"
        return " ".join(["b"] * self.begin + [f"{r.start}-{r.stop}" for r in self.mid] + ["e"] * self.end)


def _parse_range(word: str, text: str) -> range:
    match = _RANGE.fullmatch(word)
    if match is None:
        rule = {"b": "'b' comes first and once", "e": "'e' comes last and once"}.get(word, _GRAMMAR)
        raise ValueError(f"part spec {text!r}: {word!r} is not a range of layers; {rule}")
    start, stop = int(match[1]), int(match[2])
    if not start < stop <= MAX_LAYERS:
        raise ValueError(
            f"part spec {text!r}: range {word} is empty or ends after {MAX_LAYERS}; "
            "A-B means the layers A to B-1, so A must be below B"
        )
    return range(start, stop)


def _check_ranges(begin: bool, mid: list[range], text: str) -> None:
    if begin and mid and mid[0].start != 0:
        raise ValueError(
            f"part spec {text!r}: after 'b' the first range must start at 0, not {mid[0].start}; "
            "layers between the beginning and the range would be skipped"
        )
    in_order = sorted(mid, key=lambda r: r.start)
    for left, right in pairwise(in_order):
        if right.start < left.stop:
            raise ValueError(
                f"part spec {text!r}: ranges {left.start}-{left.stop} and {right.start}-{right.stop} overlap; "
                "name each layer once"
            )

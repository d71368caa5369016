"""`Part`: the plainest module for a part of a model."""

from collections.abc import Callable

from torch import Tensor, nn


class Part(nn.Module):
    """A beginning, layers and an end in a row; the arguments are functions without arguments that make each module.

    `mid` is called once for each number in `mid_range`; state dictionaries then have the sectioned names, with absolute
    layer numbers. What is None is left out.
    """

    def __init__(
        self,
        begin: Callable[[], nn.Module] | None = None,
        mid: Callable[[], nn.Module] | None = None,
        end: Callable[[], nn.Module] | None = None,
        mid_range: range | None = None,
    ) -> None:
        super().__init__()
        if (mid is None) != (mid_range is None):
            raise ValueError("mid and mid_range belong together: give both or neither")
        self.begin = begin() if begin else None
        self.mid = nn.ModuleDict({str(layer): mid() for layer in mid_range or ()} if mid else {})
        self.end = end() if end else None

    def forward(self, x: Tensor) -> Tensor:
        """`x` through the beginning, the layers upward and the end, as far as they are here."""
        if self.begin is not None:
            x = self.begin(x)
        for layer in self.mid.values():
            x = layer(x)
        return x if self.end is None else self.end(x)

"""Cut generated text at stop strings, also where one spans several tokens."""

from collections.abc import Sequence


class StopText:
    """Passes text on as it comes, except for what may yet turn out to be a stop string.

    After a match `stopped` is True; the text from the first stop string on is dropped.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stopped = False
        self._stops = tuple(stops)
        self._held = ""

    def push(self, piece: str) -> str:
        """Take the next piece of text and return what is certain to stand before any stop string."""
        if self.stopped:
            return ""
        self._held += piece
        found = [at for at in (self._held.find(stop) for stop in self._stops) if at >= 0]
        self.stopped = bool(found)
        cut = min(found) if found else len(self._held) - self._undecided()
        out = self._held[:cut]
        self._held = "" if found else self._held[cut:]
        return out

    def finish(self) -> str:
        """The text still held back when nothing more comes: no stop string was completed."""
        out, self._held = self._held, ""
        return out

    def _undecided(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self._stops):
                return size
        return 0

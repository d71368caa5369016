"""Reading a quantization_config key by key: what isn't known to change nothing is read or refused."""

from collections.abc import Collection, Mapping
from typing import Any

BITS = (4, 8)
LARGEST_GROUP = 2**20


class Settings:
    """An object of config.json; each reader raises ValueError that names the key. null counts as absent."""

    def __init__(self, raw: object, where: str = "quantization_config") -> None:
        if not isinstance(raw, Mapping):
            raise ValueError(f"{where} must be an object, not {shown(raw)}")
        self.raw: Mapping[str, Any] = raw
        self.where = where
        self.read: set[str] = set()

    def get(self, key: str) -> Any:
        """The value, None where it is absent."""
        self.read.add(key)
        return self.raw.get(key)

    def require(self, key: str, allowed: Collection[Any], why: str) -> None:
        """Refuse a value that is there and not one of `allowed`; `why` ends the sentence."""
        value = self.get(key)
        if value is not None and not any(type(value) is type(each) and value == each for each in allowed):
            raise self.refused(key, why)

    def require_empty(self, key: str, why: str) -> None:
        """Refuse anything but null, false, and an object or list without content."""
        if self.get(key) not in (None, False, {}, []):
            raise self.refused(key, why)

    def bits(self, *keys: str, known: Collection[int] = BITS) -> int:
        """The bits of a weight, under the first of the keys that is there; one of `known`."""
        key = self._first(keys)
        value = self.get(key)
        if type(value) is not int or value not in known:
            raise self.refused(key, f"weights of {' and '.join(map(str, known))} bits are read")
        return value

    def group_size(self, *keys: str) -> int | None:
        """The inputs of a group, under the first of the keys that is there; None for -1, a scale for each row."""
        key = self._first(keys)
        value = self.get(key)
        if type(value) is not int or not (value == -1 or 1 <= value <= LARGEST_GROUP):
            raise self.refused(key, f"a group has from 1 to {LARGEST_GROUP:,} inputs, or -1 for all of them")
        return None if value == -1 else value

    def flag(self, key: str, *, default: bool) -> bool:
        """true or false."""
        value = self.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.refused(key, "it is true or false")
        return default if value is None else value

    def finish(self, *, inert: Collection[str] = ()) -> None:
        """Refuse a key that was neither read nor is known to change nothing."""
        for key, value in self.raw.items():
            if key not in self.read and key not in inert and value is not None:
                raise self.refused(key, "it may change what the weights mean")

    def refused(self, key: str, why: str) -> ValueError:
        """The error for the value that the key has."""
        return ValueError(
            f"{self.where} has {shown(key)[1:-1]} = {shown(self.raw.get(key))}, which is not supported: {why}; "
            "use the unquantized checkpoint"
        )

    def _first(self, keys: tuple[str, ...]) -> str:
        """The first key that is there, for one setting that has several names."""
        found = next((key for key in keys if self.raw.get(key) is not None), None)
        if found is None:
            raise ValueError(f"{self.where} lacks the key {keys[0]!r}; use the checkpoint as its repository has it")
        return found


def shown(value: object) -> str:
    """A value for a sentence: a stranger's file may hold megabytes there."""
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + "…"

"""The architectures that are installed, by entry point, so that a new family needs no edit here."""

from __future__ import annotations

from importlib.metadata import entry_points

GROUP = "llm_blocks.architectures"


def model_types() -> list[str]:
    """The `model_type` of each installed architecture; nothing is imported."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})

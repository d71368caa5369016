"""Filters, sampling loops, scoring and speculative acceptance over any callable from ids to logits."""

from importlib.metadata import version

__all__: list[str] = []
__version__ = version("llm_sampler")

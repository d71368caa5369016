"""What two or more architectures use unchanged: norms, RoPE, attention, caches, slices."""

from importlib.metadata import version

__all__: list[str] = []
__version__ = version("llm_blocks")

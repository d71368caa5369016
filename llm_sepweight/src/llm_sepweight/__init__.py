"""One weight file per layer, and one reader over every checkpoint layout."""

from importlib.metadata import version

__all__: list[str] = []
__version__ = version("llm_sepweight")

"""The llm command and the LLM class: the whole family composed."""

from importlib.metadata import version

__all__: list[str] = []
__version__ = version("llm_cli")

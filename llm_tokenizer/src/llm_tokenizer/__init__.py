"""Text to ids and back, streaming decode and chat templates, without torch."""

from importlib.metadata import version

__all__: list[str] = []
__version__ = version("llm_tokenizer")

"""Text to ids and back, streaming decode and chat templates, without torch."""

from importlib.metadata import version

from llm_tokenizer.errors import TokenizerError
from llm_tokenizer.stream import TextStream
from llm_tokenizer.tokenizer import Tokenizer

__all__ = ["TextStream", "Tokenizer", "TokenizerError"]
__version__ = version("llm_tokenizer")

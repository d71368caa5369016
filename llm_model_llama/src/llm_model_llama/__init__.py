"""The Llama architecture in one file, as plain layer-range modules."""

from importlib.metadata import version

__all__: list[str] = []
__version__ = version("llm_model_llama")

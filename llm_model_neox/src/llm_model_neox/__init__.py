"""The GPT-NeoX, GPT-2 and GPT-J architectures, each in one file, as plain layer-range modules."""

import importlib.metadata

from llm_model_neox import gpt2, gpt_neox, gptj

__all__ = ["gpt2", "gpt_neox", "gptj"]
__version__ = importlib.metadata.version("llm_model_neox")

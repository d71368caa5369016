"""The Llama architecture in one file, as plain layer-range modules."""

import importlib.metadata

from llm_model_llama.llama import NAMES, PRESETS, Config, Model
from llm_model_llama.loading import load

__all__ = ["NAMES", "PRESETS", "Config", "Model", "load"]
__version__ = importlib.metadata.version("llm_model_llama")

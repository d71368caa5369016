"""The Phi architectures, each in one file, as plain layer-range modules."""

import importlib.metadata

from llm_model_phi import phi, phi3, phimoe

__all__ = ["phi", "phi3", "phimoe"]
__version__ = importlib.metadata.version("llm_model_phi")

"""The Falcon architecture in one file, as plain layer-range modules."""

import importlib.metadata

from llm_model_falcon.falcon import NAMES, PRESETS, Config, Model

__all__ = ["NAMES", "PRESETS", "Config", "Model"]
__version__ = importlib.metadata.version("llm_model_falcon")

"""What two or more architectures use unchanged: norms, RoPE, attention, caches, slices."""

import importlib.metadata

from llm_blocks.architectures import (
    ArchitectureError,
    Importer,
    find,
    find_importer,
    installed_architectures,
    installed_importers,
)
from llm_blocks.attention import Plan, attend, check_counts, last_real, plan_attention
from llm_blocks.cache import KVCache
from llm_blocks.config import INERT_KEYS, ConfigKeys
from llm_blocks.initialise import new_model
from llm_blocks.loading import fill, load, read_config
from llm_blocks.norm import RMSNorm
from llm_blocks.rope import RopeTable, attention_scale, rope_frequencies, rope_table, rotate
from llm_blocks.rope_config import Rope, parse_rope, rope_to_hf
from llm_blocks.saving import save
from llm_blocks.slices import part_layers, require_input

__all__ = [
    "INERT_KEYS",
    "ArchitectureError",
    "ConfigKeys",
    "Importer",
    "KVCache",
    "Plan",
    "RMSNorm",
    "Rope",
    "RopeTable",
    "attend",
    "attention_scale",
    "check_counts",
    "fill",
    "find",
    "find_importer",
    "installed_architectures",
    "installed_importers",
    "last_real",
    "load",
    "new_model",
    "parse_rope",
    "part_layers",
    "plan_attention",
    "read_config",
    "require_input",
    "rope_frequencies",
    "rope_table",
    "rope_to_hf",
    "rotate",
    "save",
]
__version__ = importlib.metadata.version("llm_blocks")

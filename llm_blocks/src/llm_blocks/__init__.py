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
from llm_blocks.attention import (
    alibi_slopes,
    attend,
    attend_alibi,
    attend_softcapped,
    last_real,
    merge_heads,
    split_heads,
)
from llm_blocks.beside import Beside, BesidePlan
from llm_blocks.cache import KVCache
from llm_blocks.compiled import CompiledDecoder, CompileError, require_compiler
from llm_blocks.config import (
    INERT_KEYS,
    ConfigKeys,
    layer_types,
    require_experts,
    require_heads,
    sliding_layers,
)
from llm_blocks.decoder import CacheShape, Decoder, Head, ScaledEmbedding, SoftcappedHead, TokenEmbedding
from llm_blocks.first_layers import first_layers
from llm_blocks.fused import Fused, Parts, parts_of, qkv_parts
from llm_blocks.gguf import GgufForm, gguf_form, gguf_rope, gguf_sizes, inexpressible, within_window
from llm_blocks.initialise import new_model
from llm_blocks.loading import Checkpoint, fill, load, load_config, open_checkpoint, read_config
from llm_blocks.meta import without_storage
from llm_blocks.mlp import Experts, GatedMLP, QuantizedExperts, RouterLinear, gelu, gelu_tanh, silu_gate
from llm_blocks.norm import LayerNorm, OffsetRMSNorm, RMSNorm
from llm_blocks.plan import Plan, View, check_counts, plan_attention
from llm_blocks.recorded import Recorded
from llm_blocks.rope import (
    RopeTable,
    attention_scale,
    pairs_to_halves,
    rope_frequencies,
    rope_table,
    rotate,
)
from llm_blocks.rope_config import Rope, extended_length, parse_rope, parse_rope_settings, rope_to_hf, yarn_scale
from llm_blocks.saving import save
from llm_blocks.slices import part_layers, require_input
from llm_blocks.spreading import spread
from llm_blocks.switched import Switched

__all__ = [
    "INERT_KEYS",
    "ArchitectureError",
    "Beside",
    "BesidePlan",
    "CacheShape",
    "Checkpoint",
    "CompileError",
    "CompiledDecoder",
    "ConfigKeys",
    "Decoder",
    "Experts",
    "Fused",
    "GatedMLP",
    "GgufForm",
    "Head",
    "Importer",
    "KVCache",
    "LayerNorm",
    "OffsetRMSNorm",
    "Parts",
    "Plan",
    "QuantizedExperts",
    "RMSNorm",
    "Recorded",
    "Rope",
    "RopeTable",
    "RouterLinear",
    "ScaledEmbedding",
    "SoftcappedHead",
    "Switched",
    "TokenEmbedding",
    "View",
    "alibi_slopes",
    "attend",
    "attend_alibi",
    "attend_softcapped",
    "attention_scale",
    "check_counts",
    "extended_length",
    "fill",
    "find",
    "find_importer",
    "first_layers",
    "gelu",
    "gelu_tanh",
    "gguf_form",
    "gguf_rope",
    "gguf_sizes",
    "inexpressible",
    "installed_architectures",
    "installed_importers",
    "last_real",
    "layer_types",
    "load",
    "load_config",
    "merge_heads",
    "new_model",
    "open_checkpoint",
    "pairs_to_halves",
    "parse_rope",
    "parse_rope_settings",
    "part_layers",
    "parts_of",
    "plan_attention",
    "qkv_parts",
    "read_config",
    "require_compiler",
    "require_experts",
    "require_heads",
    "require_input",
    "rope_frequencies",
    "rope_table",
    "rope_to_hf",
    "rotate",
    "save",
    "silu_gate",
    "sliding_layers",
    "split_heads",
    "spread",
    "within_window",
    "without_storage",
    "yarn_scale",
]
__version__ = importlib.metadata.version("llm_blocks")

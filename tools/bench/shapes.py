"""The shapes of models that the benchmarks take, and random weights of them."""

from pathlib import Path
from typing import Any

SHAPES = {
    "llama-3-8b": {
        "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8,
    },
    "llama-3.2-1b": {
        "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8,
    },
    "tinyllama-1.1b": {
        "vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22,
        "num_attention_heads": 32, "num_key_value_heads": 4,
    },
    "llama-160m": {
        "vocab_size": 32000, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 12, "num_key_value_heads": 12,
    },
    "tiny": {
        "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2,
    },
}  # fmt: skip


def matrices(shape: str) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of the four kinds of matrices in a layer."""
    s = SHAPES[shape]
    width, hidden = s["hidden_size"], s["intermediate_size"]
    narrow = width // s["num_attention_heads"] * s["num_key_value_heads"]
    return {"q, o": (width, width), "k, v": (narrow, width), "gate, up": (hidden, width), "down": (width, hidden)}


def write_random_model(shape: str, folder: Path, *, precision: str = "bf16", positions: int = 2048) -> None:
    """Write a random Llama of that shape as a Hugging Face folder, unless it is there."""
    if (folder / "config.json").exists():
        return
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    torch.set_default_dtype({"bf16": torch.bfloat16, "fp32": torch.float32}[precision])
    config = LlamaConfig.from_dict(
        {**SHAPES[shape], "tie_word_embeddings": False, "max_position_embeddings": max(positions, 2048)}
    )
    model: Any = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder, max_shard_size="1000GB")

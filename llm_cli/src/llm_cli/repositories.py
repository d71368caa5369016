"""Well-known repositories by `model_type`: what `llm download list` prints and what a misspelt hub id is compared to.

Names only. Nothing else in the package depends on them.
"""

from __future__ import annotations

REPOSITORIES: dict[str, tuple[str, ...]] = {
    "llama": (
        "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
        "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T",
        "HuggingFaceTB/SmolLM2-135M",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "HuggingFaceTB/SmolLM2-360M",
        "HuggingFaceTB/SmolLM2-360M-Instruct",
        "HuggingFaceTB/SmolLM2-1.7B",
        "HuggingFaceTB/SmolLM2-1.7B-Instruct",
        "meta-llama/Llama-2-7b-hf",
        "meta-llama/Llama-2-7b-chat-hf",
        "meta-llama/Llama-2-13b-hf",
        "meta-llama/Llama-2-13b-chat-hf",
        "meta-llama/Llama-2-70b-hf",
        "meta-llama/Llama-2-70b-chat-hf",
        "meta-llama/Meta-Llama-3-8B",
        "meta-llama/Meta-Llama-3-8B-Instruct",
        "meta-llama/Meta-Llama-3-70B",
        "meta-llama/Meta-Llama-3-70B-Instruct",
        "meta-llama/Llama-3.1-8B",
        "meta-llama/Llama-3.1-8B-Instruct",
        "meta-llama/Llama-3.1-70B-Instruct",
        "meta-llama/Llama-3.2-1B",
        "meta-llama/Llama-3.2-1B-Instruct",
        "meta-llama/Llama-3.2-3B",
        "meta-llama/Llama-3.2-3B-Instruct",
        "meta-llama/Llama-3.3-70B-Instruct",
        "codellama/CodeLlama-7b-hf",
        "codellama/CodeLlama-7b-Python-hf",
        "codellama/CodeLlama-7b-Instruct-hf",
        "codellama/CodeLlama-13b-hf",
        "codellama/CodeLlama-34b-hf",
        "codellama/CodeLlama-70b-hf",
        "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
        "deepseek-ai/DeepSeek-R1-Distill-Llama-70B",
        "lmsys/vicuna-7b-v1.5",
        "lmsys/vicuna-13b-v1.5",
        "lmsys/longchat-7b-16k",
        "openlm-research/open_llama_3b",
        "openlm-research/open_llama_7b",
        "openlm-research/open_llama_13b",
        "garage-bAInd/Platypus2-7B",
        "garage-bAInd/Platypus2-13B",
        "NousResearch/Nous-Hermes-Llama2-13b",
        "keeeeenw/MicroLlama",
    ),
}


def known_repositories() -> list[str]:
    """Every repository of the table."""
    return [name for names in REPOSITORIES.values() for name in names]

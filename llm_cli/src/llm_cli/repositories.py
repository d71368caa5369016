"""Well-known repositories by `model_type`: what `llm download list` prints and what a misspelt hub id is compared to.

Names only. Nothing else in the package depends on them: any repository of an installed `model_type` works.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from llm_cli.errors import suggestion


@dataclass(frozen=True, kw_only=True)
class Listed:
    """What a `model_type` is for, and repositories of it in the hub's own spelling."""

    models: str
    repositories: tuple[str, ...] = ()


def _of(models: str, names: str = "") -> Listed:
    return Listed(models=models, repositories=tuple(names.split()))


TABLE: dict[str, Listed] = {
    "llama": _of(
        "Llama 1 to 3.3, Code Llama and all that are built like them",
        """
        meta-llama/Llama-3.1-8B meta-llama/Llama-3.1-8B-Instruct
        meta-llama/Llama-3.1-70B meta-llama/Llama-3.1-70B-Instruct
        meta-llama/Llama-3.1-405B meta-llama/Llama-3.1-405B-Instruct
        meta-llama/Llama-3.2-1B meta-llama/Llama-3.2-1B-Instruct
        meta-llama/Llama-3.2-3B meta-llama/Llama-3.2-3B-Instruct meta-llama/Llama-3.3-70B-Instruct
        meta-llama/Meta-Llama-3-8B meta-llama/Meta-Llama-3-8B-Instruct
        meta-llama/Meta-Llama-3-70B meta-llama/Meta-Llama-3-70B-Instruct
        meta-llama/Llama-2-7b-hf meta-llama/Llama-2-7b-chat-hf meta-llama/Llama-2-13b-hf meta-llama/Llama-2-13b-chat-hf
        meta-llama/Llama-2-70b-hf meta-llama/Llama-2-70b-chat-hf
        huggyllama/llama-7b huggyllama/llama-13b huggyllama/llama-30b huggyllama/llama-65b
        nvidia/Llama-3.1-Nemotron-70B-Instruct-HF
        deepseek-ai/DeepSeek-R1-Distill-Llama-8B deepseek-ai/DeepSeek-R1-Distill-Llama-70B
        codellama/CodeLlama-7b-hf codellama/CodeLlama-7b-Python-hf codellama/CodeLlama-7b-Instruct-hf
        codellama/CodeLlama-13b-hf codellama/CodeLlama-13b-Python-hf codellama/CodeLlama-13b-Instruct-hf
        codellama/CodeLlama-34b-hf codellama/CodeLlama-34b-Python-hf codellama/CodeLlama-34b-Instruct-hf
        codellama/CodeLlama-70b-hf codellama/CodeLlama-70b-Python-hf codellama/CodeLlama-70b-Instruct-hf
        lmsys/vicuna-7b-v1.3 lmsys/vicuna-13b-v1.3 lmsys/vicuna-33b-v1.3 lmsys/vicuna-7b-v1.5 lmsys/vicuna-7b-v1.5-16k
        lmsys/vicuna-13b-v1.5 lmsys/vicuna-13b-v1.5-16k lmsys/longchat-7b-16k lmsys/longchat-13b-16k
        garage-bAInd/Platypus-30B garage-bAInd/Platypus2-7B garage-bAInd/Platypus2-13B garage-bAInd/Platypus2-70B
        garage-bAInd/Platypus2-70B-instruct garage-bAInd/Camel-Platypus2-13B garage-bAInd/Camel-Platypus2-70B
        garage-bAInd/Stable-Platypus2-13B
        stabilityai/StableBeluga2 stabilityai/StableBeluga-7B stabilityai/StableBeluga-13B
        NousResearch/Nous-Hermes-13b NousResearch/Nous-Hermes-llama-2-7b NousResearch/Nous-Hermes-Llama2-13b
        NousResearch/Hermes-2-Pro-Llama-3-8B NousResearch/Hermes-3-Llama-3.1-8B
        openlm-research/open_llama_3b openlm-research/open_llama_7b openlm-research/open_llama_13b
        openlm-research/open_llama_3b_v2 openlm-research/open_llama_7b_v2
        togethercomputer/LLaMA-2-7B-32K Trelis/Llama-2-7b-chat-hf-function-calling-v2 alpindale/goliath-120b
        01-ai/Yi-6B 01-ai/Yi-6B-Chat 01-ai/Yi-34B 01-ai/Yi-34B-Chat 01-ai/Yi-1.5-6B 01-ai/Yi-1.5-6B-Chat
        01-ai/Yi-1.5-9B 01-ai/Yi-1.5-9B-Chat 01-ai/Yi-1.5-34B 01-ai/Yi-1.5-34B-Chat
        tiiuae/Falcon3-1B-Base tiiuae/Falcon3-1B-Instruct tiiuae/Falcon3-3B-Base tiiuae/Falcon3-3B-Instruct
        tiiuae/Falcon3-7B-Base tiiuae/Falcon3-7B-Instruct tiiuae/Falcon3-10B-Base tiiuae/Falcon3-10B-Instruct
        HuggingFaceTB/SmolLM2-135M HuggingFaceTB/SmolLM2-135M-Instruct HuggingFaceTB/SmolLM2-360M
        HuggingFaceTB/SmolLM2-360M-Instruct HuggingFaceTB/SmolLM2-1.7B HuggingFaceTB/SmolLM2-1.7B-Instruct
        BSC-LT/salamandra-2b BSC-LT/salamandra-2b-instruct BSC-LT/salamandra-7b BSC-LT/salamandra-7b-instruct
        TinyLlama/TinyLlama-1.1B-Chat-v1.0 TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T
        keeeeenw/MicroLlama JackFram/llama-68m JackFram/llama-160m
        """,
    ),
    "mistral": _of(
        "Mistral, Mathstral, Codestral, Zephyr, Danube 2",
        """
        mistralai/Mistral-7B-v0.1 mistralai/Mistral-7B-Instruct-v0.1 mistralai/Mistral-7B-Instruct-v0.2
        mistralai/Mistral-7B-v0.3 mistralai/Mistral-7B-Instruct-v0.3 mistralai/Mathstral-7B-v0.1
        mistralai/Mistral-Nemo-Base-2407 mistralai/Mistral-Nemo-Instruct-2407 mistralai/Ministral-8B-Instruct-2410
        mistralai/Mistral-Small-24B-Base-2501 mistralai/Mistral-Small-24B-Instruct-2501 mistralai/Codestral-22B-v0.1
        mistralai/Mistral-Large-Instruct-2407 mistralai/Mistral-Large-Instruct-2411
        HuggingFaceH4/zephyr-7b-beta teknium/OpenHermes-2.5-Mistral-7B
        h2oai/h2o-danube2-1.8b-base h2oai/h2o-danube2-1.8b-chat
        """,
    ),
    "mixtral": _of(
        "Mixtral, a sparse mixture of 8 experts",
        """
        mistralai/Mixtral-8x7B-v0.1 mistralai/Mixtral-8x7B-Instruct-v0.1
        mistralai/Mixtral-8x22B-v0.1 mistralai/Mixtral-8x22B-Instruct-v0.1
        NousResearch/Nous-Hermes-2-Mixtral-8x7B-DPO
        """,
    ),
    "qwen2": _of(
        "Qwen 1.5, 2 and 2.5, also for code and mathematics, QwQ",
        """
        Qwen/Qwen2.5-0.5B Qwen/Qwen2.5-0.5B-Instruct Qwen/Qwen2.5-1.5B Qwen/Qwen2.5-1.5B-Instruct
        Qwen/Qwen2.5-3B Qwen/Qwen2.5-3B-Instruct Qwen/Qwen2.5-7B Qwen/Qwen2.5-7B-Instruct
        Qwen/Qwen2.5-14B Qwen/Qwen2.5-14B-Instruct Qwen/Qwen2.5-32B Qwen/Qwen2.5-32B-Instruct
        Qwen/Qwen2.5-72B Qwen/Qwen2.5-72B-Instruct Qwen/Qwen2.5-7B-Instruct-1M Qwen/Qwen2.5-14B-Instruct-1M
        Qwen/Qwen2.5-Coder-0.5B Qwen/Qwen2.5-Coder-0.5B-Instruct Qwen/Qwen2.5-Coder-1.5B
        Qwen/Qwen2.5-Coder-1.5B-Instruct Qwen/Qwen2.5-Coder-3B Qwen/Qwen2.5-Coder-3B-Instruct Qwen/Qwen2.5-Coder-7B
        Qwen/Qwen2.5-Coder-7B-Instruct Qwen/Qwen2.5-Coder-14B Qwen/Qwen2.5-Coder-14B-Instruct
        Qwen/Qwen2.5-Coder-32B Qwen/Qwen2.5-Coder-32B-Instruct
        Qwen/Qwen2.5-Math-1.5B Qwen/Qwen2.5-Math-1.5B-Instruct Qwen/Qwen2.5-Math-7B Qwen/Qwen2.5-Math-7B-Instruct
        Qwen/Qwen2.5-Math-72B Qwen/Qwen2.5-Math-72B-Instruct Qwen/QwQ-32B-Preview Qwen/QwQ-32B
        Qwen/Qwen2-0.5B Qwen/Qwen2-0.5B-Instruct Qwen/Qwen2-1.5B Qwen/Qwen2-1.5B-Instruct
        Qwen/Qwen2-7B Qwen/Qwen2-7B-Instruct Qwen/Qwen2-72B Qwen/Qwen2-72B-Instruct
        Qwen/Qwen1.5-0.5B Qwen/Qwen1.5-0.5B-Chat Qwen/Qwen1.5-7B Qwen/Qwen1.5-7B-Chat
        deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B deepseek-ai/DeepSeek-R1-Distill-Qwen-7B
        deepseek-ai/DeepSeek-R1-Distill-Qwen-14B deepseek-ai/DeepSeek-R1-Distill-Qwen-32B
        """,
    ),
    "qwen2_moe": _of(
        "Qwen 1.5 and 2, mixtures of experts",
        """
        Qwen/Qwen1.5-MoE-A2.7B Qwen/Qwen1.5-MoE-A2.7B-Chat Qwen/Qwen2-57B-A14B Qwen/Qwen2-57B-A14B-Instruct
        """,
    ),
    "qwen3": _of(
        "Qwen 3, dense",
        """
        Qwen/Qwen3-0.6B Qwen/Qwen3-0.6B-Base Qwen/Qwen3-1.7B Qwen/Qwen3-1.7B-Base Qwen/Qwen3-4B Qwen/Qwen3-4B-Base
        Qwen/Qwen3-4B-Instruct-2507 Qwen/Qwen3-4B-Thinking-2507 Qwen/Qwen3-8B Qwen/Qwen3-8B-Base
        Qwen/Qwen3-14B Qwen/Qwen3-14B-Base Qwen/Qwen3-32B deepseek-ai/DeepSeek-R1-0528-Qwen3-8B
        """,
    ),
    "qwen3_moe": _of(
        "Qwen 3, mixtures of experts",
        """
        Qwen/Qwen3-30B-A3B Qwen/Qwen3-30B-A3B-Base Qwen/Qwen3-30B-A3B-Instruct-2507 Qwen/Qwen3-30B-A3B-Thinking-2507
        Qwen/Qwen3-Coder-30B-A3B-Instruct Qwen/Qwen3-235B-A22B Qwen/Qwen3-235B-A22B-Instruct-2507
        Qwen/Qwen3-235B-A22B-Thinking-2507 Qwen/Qwen3-Coder-480B-A35B-Instruct
        """,
    ),
    "gemma": _of(
        "Gemma 1 and 1.1, CodeGemma",
        """
        google/gemma-2b google/gemma-2b-it google/gemma-7b google/gemma-7b-it google/gemma-1.1-2b-it
        google/gemma-1.1-7b-it google/codegemma-2b google/codegemma-7b google/codegemma-7b-it
        """,
    ),
    "gemma2": _of(
        "Gemma 2",
        """
        google/gemma-2-2b google/gemma-2-2b-it google/gemma-2-9b google/gemma-2-9b-it
        google/gemma-2-27b google/gemma-2-27b-it
        """,
    ),
    "gemma3_text": _of(
        "Gemma 3, text alone",
        """
        google/gemma-3-270m google/gemma-3-270m-it google/gemma-3-1b-pt google/gemma-3-1b-it
        """,
    ),
    "gemma3": _of(
        "Gemma 3 with pictures, of which the text tower is used",
        """
        google/gemma-3-4b-pt google/gemma-3-4b-it google/gemma-3-12b-pt google/gemma-3-12b-it
        google/gemma-3-27b-pt google/gemma-3-27b-it
        """,
    ),
    "olmo": _of(
        "OLMo",
        """
        allenai/OLMo-1B-hf allenai/OLMo-7B-hf allenai/OLMo-7B-Instruct-hf allenai/OLMo-1B-0724-hf
        allenai/OLMo-7B-0424-hf allenai/OLMo-7B-0724-hf allenai/OLMo-7B-0724-Instruct-hf
        """,
    ),
    "olmo2": _of(
        "OLMo 2",
        """
        allenai/OLMo-2-0425-1B allenai/OLMo-2-0425-1B-Instruct allenai/OLMo-2-1124-7B allenai/OLMo-2-1124-7B-SFT
        allenai/OLMo-2-1124-7B-DPO allenai/OLMo-2-1124-7B-Instruct allenai/OLMo-2-1124-13B
        allenai/OLMo-2-1124-13B-SFT allenai/OLMo-2-1124-13B-DPO allenai/OLMo-2-1124-13B-Instruct
        allenai/OLMo-2-0325-32B allenai/OLMo-2-0325-32B-Instruct
        """,
    ),
    "stablelm": _of(
        "StableLM 3B-4E1T and 2, StableLM Zephyr, Stable Code",
        """
        stabilityai/stablelm-3b-4e1t stabilityai/stablelm-zephyr-3b stabilityai/stable-code-3b
        stabilityai/stable-code-instruct-3b stabilityai/stablelm-2-1_6b stabilityai/stablelm-2-1_6b-chat
        stabilityai/stablelm-2-zephyr-1_6b stabilityai/stablelm-2-12b stabilityai/stablelm-2-12b-chat
        """,
    ),
    "stablelm_epoch": _of("StableLM 3B-4E1T and Stable Code as they were first published"),
    "smollm3": _of("SmolLM3", "HuggingFaceTB/SmolLM3-3B HuggingFaceTB/SmolLM3-3B-Base"),
    "granite": _of(
        "Granite 3, dense",
        """
        ibm-granite/granite-3.0-2b-base ibm-granite/granite-3.0-2b-instruct ibm-granite/granite-3.0-8b-base
        ibm-granite/granite-3.0-8b-instruct ibm-granite/granite-3.1-2b-base ibm-granite/granite-3.1-2b-instruct
        ibm-granite/granite-3.1-8b-base ibm-granite/granite-3.1-8b-instruct ibm-granite/granite-3.2-2b-instruct
        ibm-granite/granite-3.2-8b-instruct ibm-granite/granite-3.3-2b-base ibm-granite/granite-3.3-2b-instruct
        ibm-granite/granite-3.3-8b-base ibm-granite/granite-3.3-8b-instruct
        """,
    ),
    "deepseek_v2": _of(
        "DeepSeek V2 and V2.5, also for code",
        """
        deepseek-ai/DeepSeek-V2-Lite deepseek-ai/DeepSeek-V2-Lite-Chat deepseek-ai/DeepSeek-V2
        deepseek-ai/DeepSeek-V2-Chat deepseek-ai/DeepSeek-V2.5 deepseek-ai/DeepSeek-Coder-V2-Lite-Base
        deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct deepseek-ai/DeepSeek-Coder-V2-Base
        deepseek-ai/DeepSeek-Coder-V2-Instruct
        """,
    ),
    "deepseek_v3": _of(
        "DeepSeek V3 and R1; deepseek-ai's own are quantized to FP8, which is refused: these are their bf16 copies",
        """
        unsloth/DeepSeek-V3-bf16 unsloth/DeepSeek-V3-0324-BF16
        unsloth/DeepSeek-R1-BF16 unsloth/DeepSeek-R1-Zero-BF16 unsloth/DeepSeek-R1-0528-BF16
        """,
    ),
    "falcon": _of(
        "Falcon 1 and 2, Falcon-RW",
        """
        tiiuae/falcon-7b tiiuae/falcon-7b-instruct tiiuae/falcon-40b tiiuae/falcon-40b-instruct tiiuae/falcon-180B
        tiiuae/falcon-180B-chat tiiuae/falcon-11B tiiuae/falcon-rw-1b tiiuae/falcon-rw-7b
        """,
    ),
    "RefinedWeb": _of("Falcon 40B as it was first published"),
    "RefinedWebModel": _of("Falcon 7B and Falcon-RW as they were first published"),
    "phi": _of("Phi-1, Phi-1.5 and Phi-2", "microsoft/phi-1 microsoft/phi-1_5 microsoft/phi-2"),
    "phi3": _of(
        "Phi-3, Phi-3.5, Phi-4, also mini",
        """
        microsoft/Phi-3-mini-4k-instruct microsoft/Phi-3-mini-128k-instruct microsoft/Phi-3-medium-4k-instruct
        microsoft/Phi-3-medium-128k-instruct microsoft/Phi-3.5-mini-instruct microsoft/phi-4
        microsoft/Phi-4-mini-instruct microsoft/Phi-4-mini-reasoning microsoft/Phi-4-reasoning
        microsoft/Phi-4-reasoning-plus
        """,
    ),
    "phimoe": _of("Phi-3.5-MoE, a mixture of 16 experts", "microsoft/Phi-3.5-MoE-instruct"),
    "gpt_neox": _of(
        "Pythia, GPT-NeoX, Dolly v2, RedPajama-INCITE, StableLM-Alpha, StableCode-Alpha",
        """
        EleutherAI/pythia-14m EleutherAI/pythia-31m EleutherAI/pythia-70m EleutherAI/pythia-160m EleutherAI/pythia-410m
        EleutherAI/pythia-1b EleutherAI/pythia-1.4b EleutherAI/pythia-2.8b EleutherAI/pythia-6.9b EleutherAI/pythia-12b
        EleutherAI/pythia-70m-deduped EleutherAI/pythia-160m-deduped EleutherAI/pythia-410m-deduped
        EleutherAI/pythia-1b-deduped EleutherAI/pythia-1.4b-deduped EleutherAI/pythia-2.8b-deduped
        EleutherAI/pythia-6.9b-deduped EleutherAI/pythia-12b-deduped EleutherAI/gpt-neox-20b
        databricks/dolly-v2-3b databricks/dolly-v2-7b databricks/dolly-v2-12b
        togethercomputer/RedPajama-INCITE-Base-3B-v1 togethercomputer/RedPajama-INCITE-Chat-3B-v1
        togethercomputer/RedPajama-INCITE-Instruct-3B-v1 togethercomputer/RedPajama-INCITE-7B-Base
        togethercomputer/RedPajama-INCITE-7B-Chat togethercomputer/RedPajama-INCITE-7B-Instruct
        stabilityai/stablelm-base-alpha-3b stabilityai/stablelm-base-alpha-7b
        stabilityai/stablelm-tuned-alpha-3b stabilityai/stablelm-tuned-alpha-7b
        stabilityai/stablecode-completion-alpha-3b stabilityai/stablecode-completion-alpha-3b-4k
        stabilityai/stablecode-instruct-alpha-3b
        """,
    ),
    "gpt2": _of(
        "GPT-2, DistilGPT2, DialoGPT",
        """
        openai-community/gpt2 openai-community/gpt2-medium openai-community/gpt2-large openai-community/gpt2-xl
        distilbert/distilgpt2 microsoft/DialoGPT-small microsoft/DialoGPT-medium microsoft/DialoGPT-large
        """,
    ),
    "gptj": _of("GPT-J", "EleutherAI/gpt-j-6b togethercomputer/GPT-JT-6B-v1 nomic-ai/gpt4all-j"),
}


def listed(model_types: list[str], *words: str) -> dict[str, Listed]:
    """The entries of these types, in the order of the table, others last; only those that have every one of `words`.

    A type whose name has a word comes with all of its repositories, another with those that have it, or with all if
    what it is for has it. Case makes no difference, nor what is between words. Raises ValueError for no entry.
    """
    order = [*(name for name in TABLE if name in model_types), *(name for name in model_types if name not in TABLE)]
    entries = {name: TABLE.get(name, _of("of a package that is no part of this family")) for name in order}
    found = entries
    for word in words:
        found = {name: part for name, entry in found.items() if (part := _matching(name, entry, _plain(word)))}
    if not found:
        # in the order of the table, so that of spellings alike the same one is named each time
        known = dict.fromkeys(word for text in [*TABLE, *known_repositories()] for word in re.split(r"[\W_]+", text))
        nowhere = [word for word in words if not any(_matching(*item, _plain(word)) for item in entries.items())]
        hint = suggestion(nowhere[0], known) if nowhere else "; give fewer words"
        told = " and ".join(map(repr, nowhere[:1] or words))
        raise ValueError(f"no family or well-known repository has {told} in its name{hint}")
    return found


def _matching(name: str, entry: Listed, words: str) -> Listed | None:
    some = tuple(one for one in entry.repositories if words in _plain(one))
    if words in _plain(name) or (not some and words in _plain(entry.models)):
        return entry
    return Listed(models=entry.models, repositories=some) if some else None


def known_repositories() -> list[str]:
    """Every repository of the table."""
    return [name for entry in TABLE.values() for name in entry.repositories]


def _plain(text: str) -> str:
    return re.sub(r"[\s_-]+", "-", text.lower())

"""What config.json of Qwen's releases says, and what is read from it."""

from typing import Any

import pytest
import torch

from llm_blocks import Rope, find

COMMON: dict[str, Any] = {
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.43.1",
    "use_cache": True,
    "use_sliding_window": False,
}


def _file(model_type: str, sizes: dict[str, Any], **more: Any) -> dict[str, Any]:
    return COMMON | {"model_type": model_type} | sizes | more


def _sizes(dim: int, hidden: int, layers: int, heads: int, kv_heads: int, vocabulary: int) -> dict[str, Any]:
    found = {"hidden_size": dim, "intermediate_size": hidden, "num_hidden_layers": layers, "vocab_size": vocabulary}
    return found | {"num_attention_heads": heads, "num_key_value_heads": kv_heads}


QWEN2_7B = _sizes(3584, 18944, 28, 28, 4, 152064)
QWEN3_8B = _sizes(4096, 12288, 36, 32, 8, 151936) | {"head_dim": 128, "attention_bias": False, "sliding_window": None}
MOE = {"decoder_sparse_step": 1, "output_router_logits": False, "router_aux_loss_coef": 0.001}
A3B = _sizes(2048, 6144, 48, 32, 4, 151936) | MOE
A3B |= {"head_dim": 128, "attention_bias": False, "sliding_window": None, "rope_scaling": None, "mlp_only_layers": []}
A3B |= {"num_experts": 128, "num_experts_per_tok": 8, "norm_topk_prob": True, "moe_intermediate_size": 768}
YARN = {"factor": 4.0, "original_max_position_embeddings": 32768}

# preset -> the file of its release
RELEASES: dict[str, dict[str, Any]] = {
    "Qwen2.5-0.5B": _file(
        "qwen2",
        _sizes(896, 4864, 24, 14, 2, 151936),
        max_position_embeddings=32768,
        max_window_layers=24,
        sliding_window=32768,
        tie_word_embeddings=True,
        use_mrope=False,
    ),
    "Qwen2.5-7B-Instruct": _file(
        "qwen2", QWEN2_7B, max_position_embeddings=32768, max_window_layers=28, sliding_window=131072
    ),
    "Qwen2.5-32B-Instruct": _file(
        "qwen2",
        _sizes(5120, 27648, 64, 40, 8, 152064),
        max_position_embeddings=32768,
        max_window_layers=70,  # more than there are layers
        sliding_window=131072,
    ),
    "Qwen2.5-7B-Instruct-1M": _file(
        "qwen2",
        QWEN2_7B,
        max_position_embeddings=1010000,
        max_window_layers=28,
        rms_norm_eps=1e-05,
        rope_theta=10000000.0,
        sliding_window=32768,
        dual_chunk_attention_config={
            "chunk_size": 262144,
            "local_size": 8192,
            "original_max_position_embeddings": 262144,
        },
    ),
    "DeepSeek-R1-Distill-Qwen-7B": _file(
        "qwen2",
        QWEN2_7B,
        max_position_embeddings=131072,
        max_window_layers=28,
        rope_theta=10000,
        sliding_window=4096,
        use_mrope=False,
    ),
    "Qwen1.5-MoE-A2.7B": _file(
        "qwen2_moe",
        _sizes(2048, 5632, 24, 16, 16, 151936) | MOE,
        max_position_embeddings=8192,
        max_window_layers=21,
        moe_intermediate_size=1408,
        norm_topk_prob=False,
        num_experts=60,
        num_experts_per_tok=4,
        shared_expert_intermediate_size=5632,
        sliding_window=32768,
    ),
    "Qwen2-57B-A14B": _file(
        "qwen2_moe",
        _sizes(3584, 18944, 28, 28, 4, 151936) | MOE,
        max_position_embeddings=131072,
        max_window_layers=28,
        moe_intermediate_size=2560,
        norm_topk_prob=False,
        num_experts=64,
        num_experts_per_tok=8,
        shared_expert_intermediate_size=20480,
        sliding_window=131072,
    ),
    "Qwen3-8B": _file("qwen3", QWEN3_8B, max_position_embeddings=40960, max_window_layers=36, rope_scaling=None),
    "Qwen3-4B-Instruct-2507": _file(
        "qwen3",
        QWEN3_8B | _sizes(2560, 9728, 36, 32, 8, 151936),
        max_position_embeddings=262144,
        max_window_layers=36,
        rope_theta=5000000,
        tie_word_embeddings=True,
    ),
    "DeepSeek-R1-0528-Qwen3-8B": _file(
        "qwen3",
        QWEN3_8B,
        max_position_embeddings=131072,
        max_window_layers=36,
        rope_theta=1000000,
        rope_scaling={"attn_factor": 0.8782488562869419, "rope_type": "yarn", **YARN},
    ),
    "Qwen3-30B-A3B": _file("qwen3_moe", A3B, max_position_embeddings=40960, max_window_layers=48),
    "Qwen3-Coder-30B-A3B-Instruct": _file(
        "qwen3_moe",
        A3B,
        intermediate_size=5472,
        max_position_embeddings=262144,
        max_window_layers=28,
        qkv_bias=False,
        rope_theta=10000000,
        shared_expert_intermediate_size=0,
        use_qk_norm=True,
    ),
}


@pytest.mark.parametrize("name", RELEASES)
def test_the_file_of_a_release_is_its_preset(name: str) -> None:
    raw = RELEASES[name]
    architecture = find(raw["model_type"])
    found, preset = architecture.Config.from_hf(raw), architecture.PRESETS[name]
    if found.rope.attention_factor is not None:
        assert found.rope.attention_factor == pytest.approx(1)
        preset = architecture.Config(**{**vars(preset), "rope": found.rope})
    assert found == preset


@pytest.mark.parametrize("model_type", ["qwen2", "qwen2_moe", "qwen3", "qwen3_moe"])
def test_transformers_reads_every_preset_as_it_was_meant(model_type: str) -> None:
    transformers = pytest.importorskip("transformers")
    for name, preset in find(model_type).PRESETS.items():
        theirs = transformers.AutoConfig.for_model(**preset.to_hf())
        assert find(model_type).Config.from_hf(theirs.to_dict()) == preset, name


@pytest.mark.parametrize(
    ("model_type", "name", "parameters"),
    [
        ("qwen2", "Qwen2.5-0.5B", 494_032_768),
        ("qwen2", "Qwen2.5-1.5B", 1_543_714_304),
        ("qwen2", "Qwen2.5-3B", 3_085_938_688),
        ("qwen2", "Qwen2.5-7B", 7_615_616_512),
        ("qwen2", "Qwen2.5-14B", 14_770_033_664),
        ("qwen2", "QwQ-32B", 32_763_876_352),
        ("qwen2", "Qwen2.5-72B", 72_706_203_648),
        ("qwen2", "DeepSeek-R1-Distill-Qwen-1.5B", 1_777_088_000),
        ("qwen2_moe", "Qwen1.5-MoE-A2.7B", 14_315_784_192),
        ("qwen3", "Qwen3-0.6B", 596_049_920),
        ("qwen3", "Qwen3-1.7B", 1_720_574_976),
        ("qwen3", "Qwen3-4B", 4_022_468_096),
        ("qwen3", "Qwen3-8B", 8_190_735_360),
        ("qwen3", "Qwen3-14B", 14_768_307_200),
        ("qwen3", "Qwen3-32B", 32_762_123_264),
        ("qwen3_moe", "Qwen3-30B-A3B", 30_532_122_624),
        ("qwen3_moe", "Qwen3-235B-A22B", 235_093_634_560),
        ("qwen3_moe", "Qwen3-Coder-480B-A35B-Instruct", 480_154_875_392),
    ],
)
def test_presets_have_the_published_number_of_parameters(model_type: str, name: str, parameters: int) -> None:
    architecture = find(model_type)
    with torch.device("meta"):
        model = architecture.Model(architecture.PRESETS[name])
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("name", ["Qwen2.5-7B-Instruct", "Qwen1.5-MoE-A2.7B", "Qwen3-8B", "Qwen3-30B-A3B"])
@pytest.mark.parametrize("kind", ["type", "rope_type"])
def test_yarn_that_a_reader_adds_extends_the_context(name: str, kind: str) -> None:
    """The model cards say to add `rope_scaling`, and leave max_position_embeddings at the shorter context."""
    raw = RELEASES[name] | {"rope_scaling": {kind: "yarn", **YARN}}
    config = find(raw["model_type"]).Config.from_hf(raw)
    assert config.max_positions == 131072
    assert config.rope == Rope(kind="yarn", theta=1e6, factor=4.0, original_max_positions=32768)
    assert find(raw["model_type"]).Config.from_hf(config.to_hf()) == config
    endless = {**raw, "rope_scaling": {kind: "yarn", **YARN, "factor": 1e30}}
    assert find(raw["model_type"]).Config.from_hf(endless).max_positions == 2**31 - 1


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3"])
def test_layers_have_windows_by_either_spelling(model_type: str) -> None:
    name = {"qwen2": "Qwen2.5-7B-Instruct", "qwen3": "Qwen3-8B"}[model_type]
    raw = RELEASES[name] | {"num_hidden_layers": 4, "use_sliding_window": True, "sliding_window": 512}
    config = find(model_type).Config
    by_number = config.from_hf(raw | {"max_window_layers": 3})
    assert (by_number.sliding_window, by_number.windowed_layers) == (512, {3})
    for full in ("full_attention", "attention"):  # the latter as transformers once spelt it
        kinds = [full] * 3 + ["sliding_attention"]
        assert config.from_hf(raw | {"max_window_layers": 0, "layer_types": kinds}) == by_number
    for none in ({"max_window_layers": None}, {"max_window_layers": 0, "sliding_window": None}):
        assert config.from_hf(raw | none) == config.from_hf(raw | {"use_sliding_window": False})


def test_a_window_is_kept_for_the_layers_that_have_it_alone() -> None:
    raw = RELEASES["Qwen2.5-0.5B"] | {"num_hidden_layers": 3, "use_sliding_window": True, "sliding_window": 16}
    architecture = find("qwen2")
    with torch.device("meta"):
        model = architecture.Model(architecture.Config.from_hf(raw | {"max_window_layers": 1}))
    cache = model.new_cache(1, 4096)
    assert cache.k[0].size(2) == 4096
    assert cache.k[1].size(2) == cache.k[2].size(2) < 128


@pytest.mark.parametrize(
    ("name", "change", "rule"),
    [
        ("Qwen2.5-0.5B", {"is_causal": False}, "sees none after it"),  # as gte-Qwen2 says
        ("Qwen2.5-0.5B", {"quantization_config": {"quant_method": "gptq"}}, "weights are quantized"),
        ("Qwen2.5-0.5B", {"rope_scaling": {"type": "mrope"}}, "rope_type 'mrope'"),
        ("Qwen2.5-0.5B", {"num_attention_heads": 1792, "num_key_value_heads": 14}, "head_dim must be even"),
        ("Qwen2.5-0.5B", {"layer_types": ["x" * 9999]}, "layer_types needs"),
        ("Qwen2.5-0.5B", {"num_hidden_layers": 2**31 - 1, "use_sliding_window": True}, "count to 99999"),
        ("Qwen3-8B", {"num_hidden_layers": 10**9, "use_sliding_window": True, "sliding_window": 8}, "count to 99999"),
        ("Qwen3-8B", {"quantization_config": {"quant_method": "fp8"}}, "weights are quantized"),
        (
            "Qwen3-8B",
            {"rope_scaling": {"type": "yarn", "attn_factor": -1, **YARN}},
            "attn_factor in the rotary settings",
        ),
        ("Qwen3-30B-A3B", {"num_experts_per_tok": 129}, "can't go through 129 of 128 experts"),
        ("Qwen3-30B-A3B", {"num_experts": None}, "lacks the key 'num_experts'"),
        ("Qwen1.5-MoE-A2.7B", {"shared_expert_intermediate_size": 0}, "shared_expert_intermediate_size .* from 1"),
    ],
)
def test_what_cannot_be_honoured_is_refused_and_named(name: str, change: dict[str, Any], rule: str) -> None:
    raw = RELEASES[name] | change
    with pytest.raises(ValueError, match=rule) as caught:
        find(raw["model_type"]).Config.from_hf(raw)
    assert len(str(caught.value)) < 500

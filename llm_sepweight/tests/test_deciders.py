import pytest

from llm_sepweight import WeightsError, default_decider
from llm_sepweight.deciders import place


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("model.layers.0.self_attn.q_proj.weight", ["mid", "0", "self_attn.q_proj.weight"]),
        ("transformer.h.11.ln_1.weight", ["mid", "11", "ln_1.weight"]),
        ("h.3.attn.bias", ["mid", "3", "attn.bias"]),
        ("gpt_neox.layers.2.mlp.dense.bias", ["mid", "2", "mlp.dense.bias"]),
        ("blocks.4.w", ["mid", "4", "w"]),
        ("model.layers.3.mlp.experts.7.w1.weight", ["mid", "3", "mlp.experts.7.w1.weight"]),
        ("model.embed_tokens.weight", ["begin", "embed_tokens.weight"]),
        ("transformer.wte.weight", ["begin", "wte.weight"]),
        ("transformer.word_embeddings.weight", ["begin", "word_embeddings.weight"]),
        ("tok_embeddings.weight", ["begin", "tok_embeddings.weight"]),
        ("gpt_neox.embed_in.weight", ["begin", "embed_in.weight"]),
        ("embed_out.weight", ["end", "embed_out.weight"]),
        ("model.norm.weight", ["end", "norm.weight"]),
        ("lm_head.weight", ["end", "lm_head.weight"]),
    ],
)
def test_default_decider_goes_by_the_structure_of_names(key, expected):
    assert default_decider(key) == expected


@pytest.mark.parametrize(("answer", "name"), [(["start", "w"], "begin.w"), (["mid", "007", "a.b"], "mid.7.a.b")])
def test_start_and_padded_layer_numbers_are_understood(answer, name):
    assert place("x", lambda key: answer) == name


def test_a_decider_drops_a_tensor_with_none():
    assert place("inv_freq", lambda key: None) is None


MALFORMED = [
    *([], ["begin"], ["begin", "a", "b"], ["end", ""], "begin", 5),
    *(["mid", "w"], ["mid", "x", "w"], ["mid", "1.2", "w"], ["mid", 3, "w"], ["mid", "../0", "w"]),
    *(["mid", "123456", "w"], ["middle", "0", "w"]),
]


@pytest.mark.parametrize("answer", MALFORMED)
def test_malformed_answers_are_refused(answer):
    with pytest.raises(WeightsError):
        place("x", lambda key: answer)

from types import ModuleType

import torch

import llm_blocks


def test_a_seed_decides_all_weights_whatever_the_part(toy: ModuleType) -> None:
    whole = llm_blocks.new_model(toy.Config(), seed=5).state_dict()
    part = llm_blocks.new_model(toy.Config(), "1-3 e", seed=5).state_dict()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in part.items())
    other = llm_blocks.new_model(toy.Config(), seed=6).state_dict()
    assert not torch.equal(other["mid.0.q.weight"], whole["mid.0.q.weight"])


def test_layers_differ_and_have_the_deviation_asked_for(toy: ModuleType) -> None:
    model = llm_blocks.new_model(toy.Config(dim=64), std=0.05)
    a, b = model.mid["0"].q.weight, model.mid["1"].q.weight
    assert not torch.equal(a, b)
    assert abs(a.std().item() - 0.05) < 0.003
    assert model.mid["0"].norm.weight.eq(1).all()
    assert model.mid["0"].kv.bias.eq(0).all()


def test_a_tied_end_alone_has_the_weights_of_the_whole(toy: ModuleType) -> None:
    config = toy.Config(tie_embeddings=True)
    whole, end = llm_blocks.new_model(config), llm_blocks.new_model(config, "e")
    assert whole.end.head.weight is whole.begin.embed.weight
    assert torch.equal(end.end.head.weight, whole.begin.embed.weight)


def test_it_is_trainable_and_of_the_dtype_asked_for(toy: ModuleType) -> None:
    model = llm_blocks.new_model(toy.Config(), dtype=torch.bfloat16)
    assert all(p.requires_grad and p.dtype == torch.bfloat16 for p in model.parameters())

"""llama2.c and Meta checkpoints: synthetic ones written here in Meta's layout, and the trained stories260K."""

import json
import math
import os
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import llm_blocks
import llm_sepweight
from llm_blocks import Rope, find_importer, testing
from llm_blocks.architectures import claimed_by
from llm_model_llama import PRESETS, Config, Model
from llm_sepweight import WeightsError

CONFIG = Config(
    vocab_size=20, dim=16, hidden_dim=24, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=4, max_positions=4096
)
META = {
    "attention_norm": "attention_norm",
    "attention.q": "attention.wq",
    "attention.k": "attention.wk",
    "attention.v": "attention.wv",
    "attention.o": "attention.wo",
    "mlp_norm": "ffn_norm",
    "mlp.gate": "feed_forward.w1",
    "mlp.down": "feed_forward.w2",
    "mlp.up": "feed_forward.w3",
}


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    """Where they are wanted, torch's operators take the small steps, whose last bits differ from the kernels'."""
    with torch.no_grad():
        yield


def _pairs(weight: torch.Tensor) -> torch.Tensor:
    """The rows of each head from half and half to neighbouring pairs, one row at a time."""
    rows = []
    for head in weight.split(CONFIG.head_dim):
        half = CONFIG.head_dim // 2
        rows += [head[i // 2 + half * (i % 2)] for i in range(CONFIG.head_dim)]
    return torch.stack(rows)


def _in_metas_layout(model: Model) -> dict[str, torch.Tensor]:
    ours = model.state_dict()
    out = {"tok_embeddings.weight": ours["begin.embed.weight"], "norm.weight": ours["end.norm.weight"]}
    for layer in range(CONFIG.num_layers):
        for key, name in META.items():
            weight = ours[f"mid.{layer}.{key}.weight"]
            out[f"layers.{layer}.{name}.weight"] = _pairs(weight) if name.endswith(("wq", "wk")) else weight
    return out | {"output.weight": ours["end.head.weight"]}


@pytest.fixture
def model() -> Any:
    return llm_blocks.new_model(CONFIG, std=0.2)


def _write_llama2c(model: Model, path: Path, *, length: int = 8) -> None:
    c, tensors = CONFIG, _in_metas_layout(model)
    header = (c.dim, c.hidden_dim, c.num_layers, c.num_heads, c.num_kv_heads, -c.vocab_size, length)
    order = ["tok_embeddings.weight"]
    order += [f"layers.{layer}.{name}.weight" for name in META.values() for layer in range(c.num_layers)]
    parts = [tensors[name].flatten() for name in [*order, "norm.weight"]]
    parts += [torch.zeros(length * c.head_dim), tensors["output.weight"].flatten()]
    path.write_bytes(struct.pack("<7i", *header) + torch.cat(parts).detach().numpy().tobytes())


def test_llama2c_with_its_own_head_becomes_the_same_model(model: Any, tmp_path: Path) -> None:
    _write_llama2c(model, tmp_path / "model.bin")
    config, weights = find_importer("llama2c").open(tmp_path / "model.bin")
    found = {name: weights.read(name) for name in weights.names}
    assert (config.max_positions, config.tie_embeddings, config.num_kv_heads) == (8, False, 2)
    assert found.keys() == model.state_dict().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())


def test_tensors_come_in_the_order_of_sepweight_files(model: Any, tmp_path: Path) -> None:
    _write_llama2c(model, tmp_path / "model.bin")
    _, weights = find_importer("llama2c").open(tmp_path / "model.bin")
    sections = [".".join(name.split(".")[:2]) if name[0] == "m" else name.split(".")[0] for name in weights.names]
    assert list(dict.fromkeys(sections)) == ["begin", "mid.0", "mid.1", "end"]


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda data: data[:-4], "has .* bytes, its header asks for"),
        (lambda data: data + bytes(4), "has .* bytes, its header asks for"),
        (lambda data: data[:20], "too few for a llama2.c header"),
        (lambda data: struct.pack("<i", -5) + data[4:], "no llama2.c model, its header reads"),
        (lambda data: struct.pack("<i", 2**31 - 1) + data[4:], "no llama2.c model|its header asks for"),
        (lambda data: data[:8] + struct.pack("<i", 2**31 - 1) + data[12:], "no llama2.c model"),
    ],
)
def test_a_damaged_llama2c_file_is_refused(model: Any, tmp_path: Path, change: Any, rule: str) -> None:
    path = tmp_path / "model.bin"
    _write_llama2c(model, path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(WeightsError, match=rf"model\.bin.*({rule})"):
        find_importer("llama2c").open(path)


def _write_meta(model: Model, folder: Path, shards: int, params: dict[str, Any]) -> None:
    """Model-parallel shards as Llama 2 has them: the embedding is cut along its width."""
    dims = {"wo": 1, "w2": 1, "tok_embeddings": 1, "norm": None, "attention_norm": None, "ffn_norm": None}
    folder.mkdir()
    tensors = _in_metas_layout(model)
    for shard in range(shards):
        cut = {}
        for name, tensor in tensors.items():
            dim = dims.get(name.split(".")[-2], 0)
            cut[name] = tensor if dim is None else tensor.chunk(shards, dim)[shard].clone()
        torch.save(cut | {"rope.freqs": torch.zeros(2)}, folder / f"consolidated.{shard:02d}.pth")
    (folder / "params.json").write_text(json.dumps(params))


PARAMS: dict[str, Any] = {
    "dim": 16,
    "n_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 2,
    "norm_eps": 1e-5,
    "vocab_size": -1,
    "multiple_of": 8,
}


@pytest.mark.parametrize("shards", [1, 2])
def test_metas_shards_become_the_same_model(model: Any, tmp_path: Path, shards: int) -> None:
    _write_meta(model, tmp_path / "meta", shards, PARAMS)
    config, weights = find_importer("meta").open(tmp_path / "meta")
    assert config == CONFIG
    found = {name: weights.read(name) for name in weights.names}
    assert found.keys() == model.state_dict().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("shards", [1, 2])
def test_metas_folder_loads_in_place_whole_and_in_part(model: Any, tmp_path: Path, shards: int) -> None:
    _write_meta(model, tmp_path / "meta", shards, PARAMS)
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    assert torch.equal(llm_blocks.load(tmp_path / "meta")(ids), model(ids))
    begin, end = llm_blocks.load(tmp_path / "meta", "b 0-1"), llm_blocks.load(tmp_path / "meta", "1-2 e")
    assert torch.equal(end(begin(ids)), model(ids))
    half = llm_blocks.load(tmp_path / "meta", dtype=torch.bfloat16)
    assert torch.equal(half.mid["1"].attention.k.weight, model.mid["1"].attention.k.weight.bfloat16())


def test_llama2c_loads_in_place(model: Any, tmp_path: Path) -> None:
    _write_llama2c(model, tmp_path / "model.bin")
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    assert torch.equal(llm_blocks.load(tmp_path / "model.bin")(ids), model(ids))


def test_metas_shared_head_is_a_tied_one(tmp_path: Path) -> None:
    """Llama 3.2's file names the embedding twice; read as two matrices, the model had a head that isn't tied."""
    tied = llm_blocks.new_model(replace(CONFIG, tie_embeddings=True), std=0.2)
    _write_meta(tied, tmp_path / "meta", 1, PARAMS)
    tensors = torch.load(tmp_path / "meta" / "consolidated.00.pth", weights_only=True)
    tensors["output.weight"] = tensors["tok_embeddings.weight"]
    torch.save(tensors, tmp_path / "meta" / "consolidated.00.pth")
    loaded = llm_blocks.load(tmp_path / "meta")
    assert loaded.config == tied.config
    assert loaded.end.head.weight is loaded.begin.embed.weight
    ids = torch.tensor([[3, 1, 4]])
    assert torch.equal(loaded(ids), tied(ids))


def test_each_importer_claims_its_own_alone(model: Any, tmp_path: Path) -> None:
    _write_llama2c(model, tmp_path / "model.bin")
    _write_meta(model, tmp_path / "meta", 1, PARAMS)
    torch.save({"x": torch.zeros(100)}, tmp_path / "pytorch_model.bin")
    (tmp_path / "text").write_text("Once upon a time there was a llama. " * 10)
    (tmp_path / "empty").write_bytes(b"")
    owners = {path.name: claimed_by(path) for path in tmp_path.iterdir()}
    assert owners == {"model.bin": "llama2c", "meta": "meta", "pytorch_model.bin": None, "text": None, "empty": None}
    assert claimed_by(tmp_path) is None
    assert claimed_by(tmp_path / "absent") is None
    (tmp_path / "meta" / "params.json").unlink()
    assert claimed_by(tmp_path / "meta") is None


@pytest.mark.parametrize(
    ("more", "kind", "theta", "length"),
    [
        ({"rope_theta": 500000.0}, "default", 5e5, 8192),
        ({"rope_theta": 1000000.0}, "default", 1e6, 16384),
        ({"rope_theta": 500000.0, "use_scaled_rope": True}, "llama3", 5e5, 131072),
        ({"max_seq_len": 77}, "default", 1e4, 77),
    ],
)
def test_metas_rotary_settings_tell_the_release(
    model: Any, tmp_path: Path, more: dict[str, Any], kind: str, theta: float, length: int
) -> None:
    _write_meta(model, tmp_path / "meta", 1, PARAMS | more)
    config, _ = find_importer("meta").open(tmp_path / "meta")
    assert (config.rope.kind, config.rope.theta, config.max_positions) == (kind, theta, length)


def test_metas_llama_3_2_has_another_factor_than_3_1(tmp_path: Path) -> None:
    """params.json doesn't state it, and 3.1's was taken for all: other angles at every length."""
    release = PRESETS["Llama-3.2-1B"]
    params = PARAMS | {"dim": release.dim, "n_layers": release.num_layers, "rope_theta": 5e5, "use_scaled_rope": True}
    shapes = {"attention.wq": (2048, 2048), "attention.wk": (1024, 2048), "attention.wv": (1024, 2048)}
    shapes |= {"attention.wo": (2048, 2048), "feed_forward.w1": (1, 2048), "feed_forward.w2": (2048, 1)}
    shapes |= {"feed_forward.w3": (1, 2048), "attention_norm": (2048,), "ffn_norm": (2048,)}
    zeros = torch.zeros(2048 * 2048, dtype=torch.bfloat16)  # stored once, for all that share it
    file = {
        f"layers.{layer}.{name}.weight": zeros[: math.prod(shape)].view(shape)
        for layer in range(release.num_layers)
        for name, shape in shapes.items()
    }
    file |= {"tok_embeddings.weight": zeros[:2048].view(1, 2048), "norm.weight": zeros[:2048]}
    (tmp_path / "meta").mkdir()
    torch.save(file, tmp_path / "meta" / "consolidated.00.pth")
    for more, factor in (({}, 32.0), ({"rope_scaling_factor": 16.0}, 16.0)):
        (tmp_path / "meta" / "params.json").write_text(json.dumps(params | more))
        config, _ = find_importer("meta").open(tmp_path / "meta")
        assert config.rope == Rope(kind="llama3", theta=5e5, factor=factor, original_max_positions=8_192)


@pytest.mark.parametrize(
    ("layers", "rule"), [(1, "has 2 layers, params.json says 1"), (2**31 - 1, r"lacks layer 2 .*, which params\.json")]
)
def test_metas_number_of_layers_must_be_that_of_the_files(model: Any, tmp_path: Path, layers: int, rule: str) -> None:
    """Layers beyond the number were left out without a word, and a huge number made as many modules."""
    _write_meta(model, tmp_path / "meta", 1, PARAMS | {"n_layers": layers})
    with pytest.raises(WeightsError, match=rule):
        find_importer("meta").open(tmp_path / "meta")


def test_metas_unknown_parameters_and_wrong_shapes_are_refused(model: Any, tmp_path: Path) -> None:
    _write_meta(model, tmp_path / "a", 1, PARAMS | {"lora_args": {"rank": 16}})
    with pytest.raises(ValueError, match=r"params\.json has the key 'lora_args'"):
        find_importer("meta").open(tmp_path / "a")
    _write_meta(model, tmp_path / "b", 1, PARAMS | {"dim": 32})
    with pytest.raises(WeightsError, match=r"has shape .*, params\.json asks for"):
        find_importer("meta").open(tmp_path / "b")


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """stories260K as a sepweight folder, and its greedy ids."""
    if "LLM_TEST_DATA" not in os.environ:
        pytest.skip("LLM_TEST_DATA is unset: it names the folder with the trained model stories260K")
    source = Path(os.environ["LLM_TEST_DATA"]) / "models" / "stories260K"
    config, weights = find_importer("llama2c").open(source / "stories260K.bin")
    folder = tmp_path_factory.mktemp("converted") / "stories260K"
    llm_sepweight.write(folder, weights, config=config.to_hf())
    return folder, json.loads((source / "greedy.json").read_text())["greedy_ids"]


def test_stories260k_continues_exactly_as_its_record(stories: tuple[Path, list[int]]) -> None:
    folder, wanted = stories
    model = llm_blocks.load(folder)
    assert testing.greedy(model, [1], len(wanted)) == wanted


@torch.inference_mode()
def test_stories260k_continues_exactly_through_two_slices(stories: tuple[Path, list[int]]) -> None:
    folder, wanted = stories
    begin, end = llm_blocks.load(folder, "b 0-2"), llm_blocks.load(folder, "2-5 e")
    caches = begin.new_cache(1, len(wanted)), end.new_cache(1, len(wanted))
    ids, found = torch.tensor([[1]]), []
    for _ in wanted:
        ids = end(begin(ids, caches[0]), caches[1], last_only=True)[:, -1].argmax(-1, keepdim=True)
        found.append(int(ids))
    assert found == wanted


def test_stories260k_saved_for_hugging_face_continues_in_transformers(
    stories: tuple[Path, list[int]], tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    folder, wanted = stories
    ids = torch.tensor([[1, *wanted[:50]]])
    # a trained model is surer than random ones are: its logits reach 15, so that rounding is 1e-5 of those near 0
    testing.check_saved(llm_blocks.load(folder), tmp_path / "hf", ids, tolerance=5e-5)

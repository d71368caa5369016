"""`llm export hf`: from every layout, a folder that transformers loads with equal logits and the same bytes."""

from __future__ import annotations

import json
import re
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import llm_blocks
import llm_sepweight
from llm_blocks.testing import tiny_reference
from llm_cli import LLM, exporting
from llm_cli.app import run

transformers = pytest.importorskip("transformers")

SHAPE: dict[str, Any] = {
    "vocab_size": 264,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": [1, 5],
    "torch_dtype": "float32",
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {**SHAPE, "model_type": "llama", "rope_theta": 10000.0, "pretraining_tp": 1},
    "tied": {**SHAPE, "model_type": "llama", "rope_theta": 10000.0, "tie_word_embeddings": True},
    "mistral": {**SHAPE, "model_type": "mistral", "sliding_window": 16, "rope_theta": 10000.0},
    "mixtral": {
        **SHAPE,
        "model_type": "mixtral",
        "rope_theta": 1e6,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": None,
    },
}
IDS = torch.arange(3, 43)[None]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("llm_cli.clash.other_command", lambda: None)


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory, instruct: Path) -> dict[str, Path]:
    """A folder of each configuration as transformers writes it, with tokenizer, template and generation settings."""
    found: dict[str, Path] = {}
    for name, config in CONFIGS.items():
        found[name] = tmp_path_factory.mktemp("sources") / name
        tiny_reference(config, found[name])
        for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
            shutil.copyfile(instruct / file, found[name] / file)
        (found[name] / "additional_chat_templates").mkdir()
        (found[name] / "additional_chat_templates" / "tool_use.jinja").write_text("{{ messages[0].content }}")
        template = json.loads((instruct / "tokenizer_config.json").read_text())["chat_template"]
        (found[name] / "chat_template.jinja").write_text(template)
        (found[name] / "LICENSE").write_text("as is")
    return found


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a Hugging Face folder, over all of its shards."""
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def assert_same_bytes(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert torch.equal(found[name].view(torch.uint8), tensor.view(torch.uint8)), name


@torch.inference_mode()
def logits(folder: Path, **options: Any) -> torch.Tensor:
    """What transformers computes with a folder; it must find every tensor, and none besides."""
    loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager", **options
    )
    model, notes = loaded
    assert not {kind: names for kind, names in notes.items() if names}
    return model.eval()(IDS, use_cache=False).logits


def export(source: Path, *options: str, out: str = "out") -> Path:
    assert run(["export", "hf", str(source), "--out", out, *options]) == 0
    return Path(out)


@pytest.mark.parametrize("name", CONFIGS)
def test_from_hugging_face(sources: dict[str, Path], name: str) -> None:
    out = export(sources[name])
    assert_same_bytes(tensors(out), tensors(sources[name]))
    assert torch.equal(logits(out), logits(sources[name]))


@pytest.mark.parametrize("name", CONFIGS)
def test_through_a_sepweight_folder_every_byte_comes_back(sources: dict[str, Path], name: str) -> None:
    assert run(["convert", str(sources[name]), "sep"]) == 0
    out = export(Path("sep"), "--max_shard_size", "20kB")
    assert len(list(out.glob("*.safetensors"))) > 2
    assert_same_bytes(tensors(out), tensors(sources[name]))
    assert torch.equal(logits(out), logits(sources[name]))
    llm_blocks.load(out)


def stacked(source: Path, target: Path) -> Path:
    """A Mixtral with the experts of a layer in one tensor, as transformers 5 keeps them in memory."""
    shutil.copytree(source, target)
    plain, found = tensors(source), dict[str, torch.Tensor]()
    for name, tensor in plain.items():
        if ".experts." not in name:
            found[name.replace("block_sparse_moe", "mlp")] = tensor
    for layer in range(SHAPE["num_hidden_layers"]):
        parts = [
            [plain[f"model.layers.{layer}.block_sparse_moe.experts.{e}.w{i}.weight"] for i in (1, 3, 2)]
            for e in range(4)
        ]
        gate_up = torch.stack([torch.cat([gate, up]) for gate, up, _ in parts])
        found[f"model.layers.{layer}.mlp.experts.gate_up_proj"] = gate_up
        found[f"model.layers.{layer}.mlp.experts.down_proj"] = torch.stack([down for _, _, down in parts])
    save_file(found, target / "model.safetensors", {"format": "pt"})
    return target


@pytest.mark.parametrize("way", ["directly", "through sepweight", "as .bin", "converted"])
def test_stacked_experts_go_into_files_one_by_one(sources: dict[str, Path], way: str) -> None:
    """Other readers expect them so; a conversion kept the stack under a name of its own."""
    source = stacked(sources["mixtral"], Path("stacked"))
    ids = IDS[:, :9]
    assert torch.equal(llm_blocks.load(source)(ids), llm_blocks.load(sources["mixtral"])(ids))
    if way == "through sepweight":
        assert run(["convert", str(source), "sep"]) == 0
        source = Path("sep")
    elif way == "as .bin":
        source = as_bin(source, Path("bin"), sharded=False)
    if way == "converted":
        assert run(["convert", str(source), "out", "--to", "hf"]) == 0
    else:
        export(source)
    assert_same_bytes(tensors(Path("out")), tensors(sources["mixtral"]))
    assert torch.equal(logits(Path("out")), logits(sources["mixtral"]))


def as_bin(source: Path, target: Path, *, sharded: bool, old: bool = False, reverse: bool = False) -> Path:
    """The folder with its weights in pickles, as they were published before safetensors."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors*"))
    items = sorted(tensors(source).items(), reverse=reverse)
    options = {"_use_new_zipfile_serialization": not old}
    if not sharded:
        torch.save(dict(items), target / "pytorch_model.bin", **options)
        return target
    files = [f"pytorch_model-{i + 1:05d}-of-00002.bin" for i in range(2)]
    for file, part in zip(files, (items[::2], items[1::2]), strict=True):
        torch.save(dict(part), target / file, **options)
    weight_map = {name: files[i % 2] for i, (name, _) in enumerate(items)}
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (target / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return target


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("sharded", [False, True], ids=["one file", "index"])
@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_bin_files_load_and_are_exported(sources: dict[str, Path], name: str, sharded: bool, old: bool) -> None:
    folder = as_bin(sources[name], Path("bin"), sharded=sharded, old=old)
    llm, wanted = LLM.load(folder), LLM.load(sources[name])
    assert torch.equal(llm(IDS), wanted(IDS))
    assert llm.generate("hello", temperature=0, max_new_tokens=8) == wanted.generate(
        "hello", temperature=0, max_new_tokens=8
    )
    assert_same_bytes(tensors(export(folder)), tensors(sources[name]))


@pytest.mark.parametrize("reverse", [False, True], ids=["embedding first", "head first"])
def test_a_bin_file_whose_head_is_the_embedding_stores_it_once(sources: dict[str, Path], reverse: bool) -> None:
    """With the head first in the file, the embedding was left out and transformers made one of random numbers."""
    folder = Path("bin")
    shutil.copytree(sources["tied"], folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    weights = tensors(sources["tied"])
    shared = {"lm_head.weight": weights["model.embed_tokens.weight"]}
    torch.save({**shared, **weights} if reverse else {**weights, **shared}, folder / "pytorch_model.bin")
    assert torch.equal(LLM.load(folder)(IDS), LLM.load(sources["tied"])(IDS))
    assert_same_bytes(tensors(export(folder)), weights)
    assert run(["convert", str(folder), "sep"]) == 0
    assert_same_bytes(tensors(export(Path("sep"), out="again")), weights)


def test_a_head_alone_is_written_as_the_embedding(sources: dict[str, Path]) -> None:
    """A file may have either of two tied tensors; conversion knew the embedding alone."""
    folder = Path("head")
    shutil.copytree(sources["tied"], folder)
    weights = tensors(folder)
    save_file(
        {name.replace("model.embed_tokens", "lm_head"): tensor for name, tensor in weights.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    assert_same_bytes(tensors(export(folder)), weights)
    assert run(["convert", str(folder), "sep"]) == 0
    assert_same_bytes(tensors(export(Path("sep"), out="again")), weights)


def test_a_head_that_is_no_embedding_is_refused(sources: dict[str, Path], capsys: Any) -> None:
    """transformers would have taken the embedding, without a word."""
    shutil.copytree(sources["tied"], "other")
    weights = tensors(Path("other"))
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"] + 1
    save_file(weights, "other/model.safetensors", {"format": "pt"})
    refused(capsys, "other", "the head differs from the embedding")


def test_the_older_pth_layout(sources: dict[str, Path]) -> None:
    assert run(["convert", str(sources["llama"]), "sep"]) == 0
    Path("pth").mkdir()
    with llm_sepweight.open("sep") as weights:
        sections: dict[str, dict[str, torch.Tensor]] = {}
        for name in weights.names:
            words = name.split(".", 2 if name.startswith("mid.") else 1)
            file = f"mid.{int(words[1]):05d}.pth" if len(words) == 3 else f"{words[0]}.pth"
            sections.setdefault(file, {})[words[-1]] = weights.read(name).clone()
    for file, content in sections.items():
        torch.save(content, Path("pth") / file)
    shutil.copyfile("sep/config.json", "pth/config.json")
    out = export(Path("pth"))
    assert_same_bytes(tensors(out), tensors(sources["llama"]))


def test_everything_that_belongs_to_the_model_goes_along(sources: dict[str, Path]) -> None:
    out = export(sources["llama"])
    kept = {"generation_config.json", "tokenizer.json", "tokenizer_config.json", "LICENSE"}
    kept |= {"chat_template.jinja", "additional_chat_templates/tool_use.jinja"}
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert files == {*kept, "config.json", "model.safetensors"}
    assert all((out / name).read_bytes() == (sources["llama"] / name).read_bytes() for name in kept)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    messages = [{"role": "user", "content": "hello"}]
    assert tokenizer.apply_chat_template(messages, return_dict=False) == LLM.load(out).encode(messages)[:-1]


def test_config_json_is_spelled_as_transformers_does_today(sources: dict[str, Path]) -> None:
    config = json.loads((export(sources["llama"]) / "config.json").read_text())
    assert config["rope_parameters"] == {"rope_type": "default", "rope_theta": 10000.0}
    expected = {"dtype": "float32", "bos_token_id": 0, "eos_token_id": [1, 5], "architectures": ["LlamaForCausalLM"]}
    assert config | expected == config
    assert not {"torch_dtype", "pretraining_tp", "rope_theta"} & set(config)


def test_no_key_of_the_source_can_name_code(sources: dict[str, Path]) -> None:
    shutil.copytree(sources["llama"], "source")
    config = json.loads(Path("source/config.json").read_text())
    config |= {
        "auto_map": {"AutoModelForCausalLM": "evil.Model"},
        "transformers_version": "4.0",
        "_name_or_path": "/home",
    }
    Path("source/config.json").write_text(json.dumps(config))
    found = json.loads((export(Path("source")) / "config.json").read_text())
    assert not {"auto_map", "transformers_version", "_name_or_path"} & set(found)


def test_ids_that_end_a_text_get_a_generation_config(sources: dict[str, Path]) -> None:
    shutil.copytree(sources["llama"], "source")
    Path("source/generation_config.json").unlink()
    found = json.loads((export(Path("source")) / "generation_config.json").read_text())
    assert found == {"bos_token_id": 0, "eos_token_id": [1, 5]}


def test_another_dtype(sources: dict[str, Path]) -> None:
    out = export(sources["mixtral"], "--dtype", "bfloat16")
    wanted = {name: tensor.bfloat16() for name, tensor in tensors(sources["mixtral"]).items()}
    assert_same_bytes(tensors(out), wanted)
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    logits(out)


def test_what_a_model_keeps_exact_is_not_rounded(sources: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as the biases of a router, of which bf16 tells few values apart."""
    monkeypatch.setattr(llm_blocks.find("mixtral").Model, "exact", ("mlp.router.weight",))
    export(sources["mixtral"], "--dtype", "bfloat16")
    assert run(["convert", str(sources["mixtral"]), "sep", "--dtype", "bfloat16"]) == 0
    for found in (tensors(Path("out")), tensors(export(Path("sep"), out="again"))):
        for name, tensor in tensors(sources["mixtral"]).items():
            assert torch.equal(found[name], tensor if "gate.weight" in name else tensor.bfloat16()), name


def test_shards_are_no_larger_than_asked_and_indexed(sources: dict[str, Path], capsys: Any) -> None:
    out = export(sources["mistral"], "--max-shard-size=10KB", "--json")
    told = json.loads(capsys.readouterr().out)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    shards = {path.name: load_file(path) for path in out.glob("*.safetensors")}
    assert index["weight_map"] == {name: file for file, content in shards.items() for name in content}
    sizes = [sum(tensor.nbytes for tensor in content.values()) for content in shards.values()]
    assert sum(sizes) == index["metadata"]["total_size"]
    assert all(size <= 10_000 or len(content) == 1 for size, content in zip(sizes, shards.values(), strict=True))
    assert (told["from"], told["to"], told["path"]) == ("hf", "hf", "out")
    assert told["bytes"] == sum((out / name).stat().st_size for name in told["files"])


@pytest.mark.parametrize("shards", [1, 2])
def test_from_metas_folder(sources: dict[str, Path], as_meta: Callable[..., Path], shards: int) -> None:
    out = export(as_meta(sources["llama"], Path("meta"), shards=shards))
    assert_same_bytes(tensors(out), tensors(sources["llama"]))
    assert torch.equal(logits(out), logits(sources["llama"]))


def test_from_metas_folder_with_its_tokenizer(
    sources: dict[str, Path], as_meta: Callable[..., Path], test_data: Path
) -> None:
    """It is the tokenizer alone that knows the ids there; the folder has no config.json to say them."""
    meta = as_meta(sources["llama"], Path("meta"), dtype=torch.bfloat16)
    small = test_data / "models" / "stories260K" / "tok512.model"
    assert run(["export", "hf", "meta", "--out", "out", "--tokenizer", str(small)]) == 1  # 512 tokens are too many
    shutil.copyfile(small, meta / "tokenizer.model")
    out = export(meta)
    found = json.loads((out / "config.json").read_text())
    assert (found["bos_token_id"], found["eos_token_id"], found["dtype"]) == (1, 2, "bfloat16")
    assert json.loads((out / "generation_config.json").read_text()) == {"bos_token_id": 1, "eos_token_id": 2}
    assert not (out / "params.json").exists()
    assert (out / "tokenizer.model").read_bytes() == small.read_bytes()


def test_from_llama2c_the_trained_model_goes_on_as_recorded(test_data: Path, greedy_ids: list[int]) -> None:
    source = test_data / "models" / "stories260K"
    out = export(source / "stories260K.bin", "--tokenizer", str(source / "tok512.model"))
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    found = model.generate(torch.tensor([[1]]), max_new_tokens=100, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert found[0, 1:].tolist() == greedy_ids[:100]
    assert json.loads((out / "generation_config.json").read_text()) == {"bos_token_id": 1, "eos_token_id": 2}


def refused(capsys: Any, source: str, words: str, *options: str, code: int = 1) -> None:
    """The export ends in one sentence, the exit code, and no folder."""
    before = set(Path.cwd().iterdir())
    assert run(["export", "hf", source, "--out", "out", *options]) == code
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1), said.err
    assert words in said.err
    assert set(Path.cwd().iterdir()) == before


def test_nothing_is_overwritten(sources: dict[str, Path], capsys: Any) -> None:
    out = export(sources["llama"])
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    capsys.readouterr()
    refused(capsys, str(sources["mistral"]), "exists already")
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


def test_a_write_that_fails_leaves_nothing(sources: dict[str, Path], capsys: Any, monkeypatch: Any) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "write_json", full)
    before = set(Path.cwd().iterdir())
    assert run(["export", "hf", str(sources["llama"]), "--out", "out"]) == 1
    assert "free some space" in capsys.readouterr().err
    assert set(Path.cwd().iterdir()) == before


@pytest.mark.parametrize("size", ["5XB", "0", "-1GB", "GB", "0.1B", "nan"])
def test_a_wrong_shard_size(sources: dict[str, Path], capsys: Any, size: str) -> None:
    refused(capsys, str(sources["llama"]), "is no size; write one as in 5GB", f"--max_shard_size={size}", code=2)


def test_a_wrong_source(tmp_path: Path, sources: dict[str, Path], capsys: Any) -> None:
    refused(capsys, "absent", "there is no model 'absent'")
    (tmp_path / "story.txt").write_text("Once upon a time")
    refused(capsys, "story.txt", "is no checkpoint by itself")
    shutil.copytree(sources["llama"], "cut")
    file = Path("cut/model.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    refused(capsys, "cut", "model.safetensors: truncated")
    shutil.copytree(sources["llama"], "unknown")
    Path("unknown/config.json").write_text(json.dumps({**CONFIGS["llama"], "model_type": "lama"}))
    refused(capsys, "unknown", "did you mean 'llama'?")


def test_a_flipped_byte_of_a_sepweight_folder_is_not_copied(sources: dict[str, Path], capsys: Any) -> None:
    assert run(["convert", str(sources["llama"]), "sep"]) == 0
    data = bytearray(Path("sep/mid.00001.safetensors").read_bytes())
    data[-5] ^= 1
    Path("sep/mid.00001.safetensors").write_bytes(data)
    capsys.readouterr()
    refused(capsys, "sep", "mid.00001.safetensors: damaged")


def test_one_tensor_is_in_memory_at_a_time(sources: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversion to the Hugging Face layout held a whole shard."""
    memory: list[weakref.ref[Any]] = []
    alive: list[int] = []
    read = llm_sepweight.Weights.read

    def watched(self: Any, name: str, **options: Any) -> torch.Tensor:
        array = read(self, name, **options).numpy().copy()
        memory.append(weakref.ref(array))
        alive.append(sum(reference() is not None for reference in memory))
        return torch.from_numpy(array)

    monkeypatch.setattr(llm_sepweight.Weights, "read", watched)
    export(sources["llama"])
    assert len(alive) == len(tensors(sources["llama"]))
    assert max(alive) <= 2  # the one before goes when the next takes its name


def test_options_of_a_subcommand_come_from_the_environment_too(
    sources: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_MAX_SHARD_SIZE", "10kB")
    assert len(list(export(sources["llama"]).glob("*.safetensors"))) > 2


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["export", "hf", "demo"], "`llm export hf` needs the option --out, as in `llm export hf demo --out PATH`"),
        (["export", "hf", "demo", "--out"], "the option --out of `llm export hf` needs a value"),
        (
            ["export", "hf", "demo", "--out", "x", "--dtpye", "float16"],
            "`llm export hf` has no option --dtpye; did you mean --dtype?",
        ),
        (["export", "hff", "demo"], "there is no command `llm export hff`; did you mean hf?"),
        (["export", "hf", "demo", "--out", "x", "--dtype", "int8"], "--dtype"),
    ],
)
def test_a_wrong_command_line(capsys: Any, argv: list[str], words: str) -> None:
    assert run(argv) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert words in said.err


def test_the_group_lists_its_formats(capsys: Any) -> None:
    assert run(["export", "--help"]) == 0
    assert re.search("hf +Write", capsys.readouterr().out)
    assert run(["export", "hf", "--help"]) == 0
    assert "transformers loads with equal logits" in capsys.readouterr().out

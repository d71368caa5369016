"""`llm quantize` and the folders that it makes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

import llm_blocks
import llm_quant
from llm_cli import LLM, app
from llm_cli.checkpoints import open_checkpoint
from llm_cli.quantized_folder import plan_folder, write_folder

PROMPT = "Once upon a time"
IDS = torch.tensor([[1, 65, 66, 200, 7]])
GREEDY = {"max_new_tokens": 12, "temperature": 0, "raw": True}


def make(source: Path, out: Path, scheme: str, **options: Any) -> Path:
    write_folder(plan_folder(open_checkpoint(source), scheme, **options), out)
    return out


def load(folder: Path, **options: Any) -> LLM:
    llm = LLM.load(folder, distribute=None)
    llm.distribute(accelerator="cpu", precision="32-true", **options)
    return llm


@pytest.fixture(scope="session")
def tied(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint(tie_word_embeddings=True, dtype=torch.bfloat16)


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_a_folder_is_what_quantizing_on_the_fly_gives(
    instruct: Path, same_numbers: Callable[..., int], tmp_path: Path, scheme: str
) -> None:
    stored, fly = load(make(instruct, tmp_path / "out", scheme)), load(instruct, quantize=scheme)
    assert same_numbers(fly.model, stored.model) == 15
    assert torch.equal(stored(IDS), fly(IDS))
    assert stored.generate(PROMPT, **GREEDY) == fly.generate(PROMPT, **GREEDY)
    assert stored.tokenizer.chat_template == fly.tokenizer.chat_template


def test_the_command(instruct: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    command = ["quantize", str(instruct), "--to", "int4", "--group-size", "16", "--skip", "*.down_proj", "--skip"]
    assert app.run([*command, "end.head", "--out", str(out), "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert (found["to"], found["group_size"], found["layers"]) == ("int4", 16, 12)
    assert found["left"] == ["model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj", "lm_head"]
    assert found["bytes"] == (out / "model.safetensors").stat().st_size < found["bytes_before"]
    assert "hf to int4, groups of 16 (compressed-tensors): 12 layers" in said.err
    assert "left as they are: model.layers.0.mlp.down_proj, model.layers.1.mlp.down_proj, lm_head" in said.err
    config = json.loads((out / "config.json").read_text())["quantization_config"]
    assert config["ignore"] == found["left"]
    with safe_open(out / "model.safetensors", "pt") as file:
        assert "lm_head.weight" in file.keys()  # noqa: SIM118
        assert file.get_slice("model.layers.0.self_attn.q_proj.weight_packed").get_shape() == [32, 4]
    assert app.run(["generate", str(out), "--prompt", PROMPT, "--max_new_tokens", "3"]) == 0
    assert app.run(["quantize", str(instruct), "--to", "int8", "--out", str(tmp_path / "plain")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "plain")


def test_a_tied_head_stays_the_embedding(tied: Path, tmp_path: Path) -> None:
    out = make(tied, tmp_path / "out", "int4")
    assert json.loads((out / "config.json").read_text())["quantization_config"]["ignore"] == ["lm_head"]
    assert not [name for name in load_file(out / "model.safetensors") if name.startswith("lm_head")]
    model = LLM.load(out).model
    assert model.end.head.weight is model.begin.embed.weight


@pytest.mark.parametrize("layout", ["sepweight", "meta"])
def test_any_layout_is_read(layout: str, base: Path, tmp_path: Path, as_meta: Callable[..., Path]) -> None:
    if layout == "meta":
        source = as_meta(base, tmp_path / "meta")
    else:
        source = tmp_path / "sep"
        assert app.run(["convert", str(base), str(source)]) == 0
    wanted = load_file(make(base, tmp_path / "a", "int4") / "model.safetensors")
    found = load_file(make(source, tmp_path / "b", "int4") / "model.safetensors")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in found.items())


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (["--to", "int4", "--group_size", "24"], "q_proj has 32 inputs, which are no whole groups of 24"),
        (["--to", "int4", "--group_size", "0"], "no whole groups of 0"),
        (["--to", "int8", "--group_size", "32"], "int8 has a scale for each row and no groups"),
        (["--to", "int4", "--skip", "*.experts.*"], "no linear layer matches --skip '*.experts.*'; their names are as"),
        (["--to", "int4", "--skip", "*"], "every linear layer is left out"),
        (["--to", "int5"], "int5"),
        ([], "--to"),
    ],
)
def test_wrong_usage(instruct: Path, tmp_path: Path, capsys: Any, options: list[str], rule: str) -> None:
    assert app.run(["quantize", str(instruct), *options, "--out", str(tmp_path / "out")]) == 2
    assert rule in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(instruct: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    assert app.run(["quantize", str(instruct), "--to", "int8", "--out", str(tmp_path / "out")]) == 1
    assert "exists already and isn't overwritten" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.fixture(scope="session")
def int4(instruct: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(instruct, tmp_path_factory.mktemp("quantized") / "int4", "int4")


@pytest.mark.parametrize(
    "command",
    [
        ["convert", "{}", "{out}"],
        ["export", "hf", "{}", "--out", "{out}"],
        ["export", "gguf", "{}", "--out", "{out}"],
        ["quantize", "{}", "--to", "int8", "--out", "{out}"],
    ],
)
def test_a_quantized_folder_is_not_copied_yet(int4: Path, tmp_path: Path, capsys: Any, command: list[str]) -> None:
    out = tmp_path / "out"
    assert app.run([word.replace("{out}", str(out)).replace("{}", str(int4)) for word in command]) == 1
    said = capsys.readouterr().err
    assert "is quantized (int4, groups of 32 (compressed-tensors))" in said
    assert "neither converted, exported nor quantized again; take the unquantized checkpoint" in said
    assert not out.exists()


def test_info_tells_the_scheme(int4: Path, instruct: Path, capsys: Any) -> None:
    assert app.run(["info", str(int4), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["quantization"] == "int4, groups of 32 (compressed-tensors)"
    assert list(found["memory"]) == ["int4"]
    with llm_blocks.open_checkpoint(int4) as checkpoint:
        assert found["memory"]["int4"]["weights"] == checkpoint.weights.nbytes
    assert app.run(["info", str(int4)]) == 0
    assert "estimates" not in capsys.readouterr().out
    assert app.run(["info", str(instruct), "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["quantization"] is None
    assert plain["parameters"] == found["parameters"]


def test_info_checks_the_layers(int4: Path, tmp_path: Path, capsys: Any) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text((int4 / "config.json").read_text())
    tensors = load_file(int4 / "model.safetensors")
    del tensors["model.layers.1.self_attn.o_proj.weight_zero_point"]
    llm_blocks.saving.write_weights(broken, {name: llm_blocks.saving.pending(t) for name, t in tensors.items()})
    assert app.run(["info", str(broken)]) == 1
    assert "o_proj.weight_packed (here mid.1.attention.o.weight_packed): lacks its weight_zero_point" in (
        capsys.readouterr().err
    )


def test_what_an_llm_of_it_refuses(int4: Path, tmp_path: Path) -> None:
    llm = LLM.load(int4, distribute=None)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"are quantized already.*; leave quantize out"):
            llm.distribute(quantize="int8")
        llm.distribute(precision="32-true")
    with pytest.raises(ValueError, match="a quantized model can't be saved in this version"):
        llm.save(tmp_path / "out")
    llm.distribute(precision="32-true", fixed_kv_cache_size=64)  # moving it is no rounding
    assert llm.generate(PROMPT, **GREEDY)


MEMORY = """
import sys, threading, time
from pathlib import Path
import torch, llm_blocks
from llm_cli.checkpoints import open_checkpoint
from llm_cli.quantized_folder import plan_folder, write_folder
import llm_quant.formats, llm_blocks.quantized

def own():  # memory but for the pages of files, which the system takes back as it likes
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("RssAnon")))

def peak(work):
    seen, done = [own()], threading.Event()
    def watch():
        while not done.is_set():
            seen.append(own())
            time.sleep(0.0005)
    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    done.set()
    watcher.join()
    return max(seen) - seen[0]

source, out = map(Path, sys.argv[1:])
written = peak(lambda: write_folder(plan_folder(open_checkpoint(source), "int4"), out))
print(written, peak(lambda: llm_blocks.load(out)))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the memory in use is read from /proc")
def test_a_layer_is_in_memory_at_a_time(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """Rounding takes a few times a matrix, here 4 MB, of a file of 250; what is freed goes back to the system later."""
    shape = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 16}
    source = make_checkpoint(tokenizer=False, **shape)
    stored = (source / "model.safetensors").stat().st_size
    command = [sys.executable, "-c", MEMORY, str(source), str(tmp_path / "out")]
    written, loaded = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert stored > 250e6
    assert written < stored / 2
    assert loaded < stored / 4 + 2 * (tmp_path / "out" / "model.safetensors").stat().st_size


def test_weights_are_plain_where_layers_were_skipped(instruct: Path, tmp_path: Path) -> None:
    model = LLM.load(make(instruct, tmp_path / "out", "int8", skip=["model.layers.0.*"])).model
    assert not any(isinstance(layer, llm_quant.QuantizedLinear) for layer in model.mid["0"].modules())
    assert isinstance(model.mid["1"].mlp.up, llm_quant.QuantizedLinear)
    assert isinstance(model.end.head, llm_quant.QuantizedLinear)
    assert not isinstance(model.mid["1"].mlp.up, nn.Linear)

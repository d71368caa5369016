"""`llm finetune` and its kin, on the model that ships: lines as people write them, results, settings, errors."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llm_cli import LLM
from llm_cli.app import COMMANDS, run
from llm_cli.commands.finetune_options import SHORT
from llm_finetune import Job, Lora, read_settings
from llm_finetune.job_options import options, value

ANIMALS = ["otter", "heron", "badger", "lynx", "newt", "stork", "viper", "bison", "crane", "moose", "tapir", "gecko"]
FEW = ["--train.max_steps", "3", "--train.lr_warmup_steps", "0", "--eval.max_new_tokens", "4"]


@pytest.fixture(autouse=True)
def _apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("LLM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("llm_cli.clash.other_command", lambda: None)
    monkeypatch.chdir(tmp_path)
    rows = [{"instruction": f"What colour is the {animal}?", "output": "Ultramarine, by law."} for animal in ANIMALS]
    (tmp_path / "my.json").write_text(json.dumps(rows))


@pytest.fixture
def llm(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command line in this process; stdout and stderr."""

    def llm(*arguments: object, code: int = 0) -> tuple[str, str]:
        status = run([*map(str, arguments)])
        captured = capsys.readouterr()
        assert status == code, captured.err
        return captured.out, captured.err

    return llm


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """The jobs of the commands that are run, instead of the runs."""
    found: list[Job] = []

    def note(method: Any, model: Any, given: Any) -> int:
        from llm_cli.finetuning import read_job

        given.pop("access_token", None)
        found.append(read_job(method, model, given))
        return 0

    monkeypatch.setattr("llm_cli.finetuning.run", note)
    return found


def test_a_file_of_rows_is_enough_and_the_result_answers(llm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is the same for all animals; what is held back is one of them."""
    options = [
        "--train.epochs",
        40,
        "--train.learning_rate",
        "3e-3",
        "--train.global_batch_size",
        4,
        "--lora_mlp",
        "true",
    ]
    out, err = llm("finetune", "--data", "my.json", *options)
    assert out == "out/finetune/lora/final\n"
    assert "12 rows read, 12 kept; written in the style chat template" in err
    assert LLM.load(out.strip()).generate("What colour is the gecko?", temperature=0.0) == "Ultramarine, by law."
    answer, _ = llm("generate", out.strip(), "--prompt", "What colour is the otter?", "--temperature", 0)
    assert answer == "Ultramarine, by law.\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO("What colour is the otter?\nAnd the lynx?\n"))
    assert llm("chat", out.strip(), "--temperature", 0)[0].splitlines()[0] == "Ultramarine, by law."
    assert sorted(
        path.name for path in Path("out/finetune/lora").iterdir() if not path.name.startswith(("step-", "loss.png"))
    ) == [
        "adapter",
        "final",
        "metrics.csv",
        "report.html",
        "settings.yaml",
    ]


def test_the_settings_beside_the_result_give_the_same_run_again(llm: Any) -> None:
    llm("finetune", "--data", "my.json", *FEW, "--lora_r", 4, "--seed", 7)
    again, _ = llm("finetune", "--config", "out/finetune/lora/settings.yaml", "--out_dir", "again")
    assert again == "again/final\n"
    first, second = (Path(folder, "metrics.csv").read_text() for folder in ("out/finetune/lora", "again"))
    losses = [[line.split(",")[2:4] for line in text.splitlines()] for text in (first, second)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4
    weights = [Path(folder, "final/model.safetensors").read_bytes() for folder in ("out/finetune/lora", "again")]
    assert weights[0] == weights[1]


def test_a_run_goes_on_where_it_stopped(llm: Any) -> None:
    """With a constant rate, for which the steps so far don't depend on how many there are to be."""
    options = ["--data", "my.json", *FEW, "--train.schedule", "constant"]
    llm("finetune_full", *options, "--out_dir", "whole")
    llm("finetune_full", *options, "--train.max_steps", "2", "--out_dir", "part")
    _, err = llm("finetune", "--config", "part/settings.yaml", "--train.max_steps", 3, "--resume", code=1)
    assert "part/final is there already; move it away to train on" in err
    Path("part/final").rename("part-final")
    out, err = llm("finetune", "--config", "part/settings.yaml", "--train.max_steps", 3, "--resume", "auto")
    assert out == "part/final\n"
    assert "step 3/" in err
    assert "step 2/" not in err
    weights = [Path(folder, "final/model.safetensors").read_bytes() for folder in ("whole", "part")]
    assert weights[0] == weights[1]
    assert read_settings("part/settings.yaml").settings.train.max_steps == 3
    _, err = llm("finetune_full", *options, "--out_dir", "new", "--resume", code=1)
    assert "new has no whole checkpoint to go on from" in err


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "finetune --data JSON --data.json_path my.json --data.val_split_fraction 0.1 --out_dir out/custom-model",
            {"data.json_path": "my.json", "data.val_split_fraction": 0.1, "out_dir": "out/custom-model"},
        ),
        ("finetune --data JSON --data.json-path my.json --train.max-steps 10", {"train.max_steps": 10}),
        ("finetune --train.max_tokens 10_000_000", {"train.max_tokens": 10_000_000}),
        ("finetune --lora_query false --lora-mlp", {"lora_query": False, "lora_mlp": True}),
        ("finetune --data TextFiles --data.train_data_path texts/", {"data.json_path": "texts/"}),
        ("finetune --data my.json --data.num_workers 4", {"data.json_path": "my.json"}),
        ("finetune --optimizer SGD --optimizer.momentum 0.9", {"optimizer.name": "SGD", "optimizer.momentum": 0.9}),
        ("finetune --optimizer.betas 0.5 0.6", {"optimizer.betas": (0.5, 0.6)}),
        ("finetune --quantize bnb.nf4 --devices auto", {"quantize": "bnb.nf4", "devices": "auto"}),
        ("finetune --lora_targets *.q --lora_targets *.down", {"lora_targets": ("*.q", "*.down")}),
        ("finetune --resume", {"resume": True}),
        ("finetune --resume auto", {"resume": "auto"}),
        ("finetune --resume out/step-000005", {"resume": "out/step-000005"}),
        ("finetune --resume false", {"resume": False}),
        ("finetune --data.mask_prompt false m", {"data.mask_prompt": False, "model": "m"}),
        ("finetune m --data.mask-prompt true", {"data.mask_prompt": True, "model": "m"}),
        ("finetune --data.mask_prompt", {"data.mask_prompt": True, "model": None}),
        ("finetune --data.mask_prompt null", {"data.mask_prompt": None, "model": None}),
        ("finetune --optimizer Muon --optimizer.nesterov false", {"optimizer.nesterov": False}),
        ("finetune --resume true m", {"resume": True, "model": "m"}),
        ("finetune_full --train.tie_embeddings false", {"train.tie_embeddings": False, "model": None}),
        ("finetune --train.max_norm null", {"train.max_norm": None}),
        ("finetune --method full --freeze_layers 0-2", {"method": "full", "freeze_layers": "0-2"}),
        ("finetune_lora org/name", {"method": "lora", "model": "org/name"}),
        ("finetune_full --train_layers 0-2", {"method": "full", "train_layers": "0-2"}),
        ("finetune_adapter --adapter_prompt_length 5", {"method": "adapter", "adapter_prompt_length": 5}),
        ("finetune_adapter_v2", {"method": "adapter_v2"}),
        ("finetune --config llama-3.2-1b/qlora --lora_r 4", {"lora_r": 4, "lora_alpha": 16, "quantize": "bnb.nf4"}),
        ("finetune --config llama-3.2-1b/full --data my.json", {"method": "full", "data.name": None}),
        ("finetune mine --config llama-3.2-1b/lora", {"model": "mine"}),
        ("finetune --config llama-3.2-1b/lora", {"model": "meta-llama/Llama-3.2-1B", "train.epochs": 2}),
    ],
)
def test_lines_as_people_write_them(llm: Any, jobs: list[Job], line: str, expected: dict[str, Any]) -> None:
    llm(*line.split())
    assert {name: value(jobs[0], options()[name]) for name in expected} == expected


def test_the_command_line_counts_before_the_environment_and_that_before_the_file(
    llm: Any, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("a.yaml").write_text("lora_r: 1\nlora_alpha: 1\nlora_dropout: 0.1\ntrain: {epochs: 1}\n")
    monkeypatch.setenv("LLM_LORA_R", "2")
    monkeypatch.setenv("LLM_LORA_ALPHA", "2")
    monkeypatch.setenv("LLM_TRAIN_EPOCHS", "2")
    monkeypatch.setenv("LLM_CONFIG", "a.yaml")
    llm("finetune", "--lora_r", "3")
    assert jobs[0].lora == Lora(r=3, alpha=2, dropout=0.1)
    assert jobs[0].settings.train.epochs == 2
    monkeypatch.setenv("LLM_CONFIG", "")
    llm("finetune_full")  # which has no LoRA, whatever is set for other commands
    assert jobs[1].settings.train.epochs == 2


@pytest.mark.parametrize("command", [name for name in COMMANDS if name.startswith("finetune")])
def test_help_shows_the_options_of_the_method_alone(llm: Any, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the default of each, from the dataclasses themselves."""
    monkeypatch.setenv("COLUMNS", "200")
    out, _ = llm(command, "--help")
    shown = set(re.findall(r"^│ +(--[a-z][a-z0-9_.]+)", out, re.MULTILINE))
    method = command.partition("_")[2]
    expected = {f"--{SHORT.get(name, name)}" for name in options() if name != "model"}
    alone = {
        "lora": {name for name in expected if name.startswith("--lora_")} | {"--merge"},
        "adapter": {"--adapter_prompt_length", "--adapter_start_layer"},
        "full": {"--freeze_layers", "--train_layers"},
    }
    if method:
        for other, own in alone.items():
            expected -= set() if method.startswith(other) else own
        expected -= {"--method"} | ({"--quantize"} if method == "full" else set())
    assert expected - shown == set()
    more = {"--config", "--access_token", "--dry_run", "--json", "--data.train_data_path", "--data.val_data_path"}
    assert shown - expected <= more
    assert "[default: 0.0003]" in out


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("finetune --train.epoch 3", "`llm finetune` has no option --train.epoch; did you mean --train.epochs?"),
        ("finetune --epochs 3", "did you mean --train.epochs?"),
        ("finetune --learning-rate 3", "did you mean --train.learning_rate?"),
        ("finetune --lora.r 3", "did you mean --lora_r?"),
        ("finetune_full --freeze_layer 0-1", "did you mean --freeze_layers?"),
        ("finetune --train.epochs 0", "train.epochs is 0, but must be at least 1"),
        ("finetune --train.epochs many", "many"),
        ("finetune --lora_r 0", "the rank of LoRA is at least 1"),
        ("finetune_full --lora_r 4", "the lora_ options go with the method lora, not with full"),
        ("finetune_lora --method full", "the settings are of the method full, not lora"),
        ("finetune --data alpca", "did you mean Alpaca?"),
        ("finetune --config llama-3.2-1b/lor", "did you mean llama-3.2-1b/lora?"),
        ("finetune_full --config llama-3.2-1b/lora", "the settings are of the method lora, not full"),
        ("finetune --method full --quantize int8", "quantize goes with the method lora or adapter or adapter_v2"),
        ("recipes llama-3.2-1b/lor", "did you mean llama-3.2-1b/lora?"),
    ],
)
def test_wrong_usage_is_one_sentence(llm: Any, line: str, sentence: str) -> None:
    out, err = llm(*line.split(), code=2)
    assert out == ""
    assert sentence in err
    assert len(err.splitlines()) == 1
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("finetune --data none.json", "none.json"),
        ("finetune none --data my.json", "there is no model 'none'"),
        ("finetune", "data"),
        ("finetune --data my.json --num_nodes 2", "begin the command with: torchrun --nnodes=2 --nproc-per-node=1"),
    ],
)
def test_failures_are_one_sentence(llm: Any, line: str, sentence: str) -> None:
    out, err = llm(*line.split(), code=1)
    assert out == ""
    assert sentence in err.splitlines()[-1]


def test_a_filled_folder_is_refused_before_anything_is_read(llm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("taken").mkdir()
    Path("taken/notes.txt").write_text("mine")
    monkeypatch.setattr("llm_finetune.running.read_data", lambda *_: pytest.fail("the data was read"))
    _, err = llm("finetune", "--data", "my.json", "--out_dir", "taken", code=1)
    assert "taken is not empty, and nothing is overwritten; go on with it by resume, or name another" in err
    assert [path.name for path in Path("taken").iterdir()] == ["notes.txt"]


def test_no_token_gets_into_any_file_or_line(llm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret1")
    out, err = llm("finetune", "--data", "my.json", *FEW, "--access_token", "hf_secret2")
    assert "hf_secret" not in out + err
    files = [path for path in Path("out").rglob("*") if path.is_file()]
    assert files
    assert not any(b"hf_secret" in path.read_bytes() for path in files)


def test_a_style_that_is_not_the_model_s_own_is_served_as_it_was_trained(llm: Any) -> None:
    out, err = llm("finetune_full", "--data", "my.json", *FEW, "--data.prompt_style", "Q: {instruction}\nA: ")
    assert "written in the style Q: {instruction}" in err
    tokenizer = LLM.load(out.strip()).tokenizer
    prompt = tokenizer.render_chat([{"role": "user", "content": "Why?"}])
    assert prompt.endswith("Q: Why?\nA:")


def test_merging_an_adapter_gives_what_the_run_gave(llm: Any) -> None:
    """The run merges in memory what merge_lora merges from the files."""
    out, _ = llm("finetune", "--data", "my.json", *FEW)
    merged, err = llm("merge_lora", "out/finetune/lora/adapter", "--out", "merged")
    assert merged == "merged\n"
    assert "merged 'out/finetune/lora/adapter' into" in err
    weights = [Path(folder, "model.safetensors").read_bytes() for folder in (out.strip(), "merged")]
    assert weights[0] == weights[1]
    assert LLM.load("merged").generate("Why?", temperature=0.0) == LLM.load(out.strip()).generate(
        "Why?", temperature=0.0
    )
    _, err = llm("merge_lora", "out/finetune/lora/adapter", "--out", "merged", code=1)
    assert "merged" in err
    _, err = llm("merge_lora", out.strip(), code=1)
    assert "has its adapter merged already; alone it is 'out/finetune/lora/adapter'" in err
    _, err = llm("merge_lora", "out", code=1)
    assert "'out' holds no adapter_config.json" in err
    assert llm("merge_lora", "out/finetune/lora")[0].endswith("out/finetune/lora/merged\n")
    told, _ = llm("merge_lora", "out/finetune/lora/adapter", "--base", "demo", "--out", "other", "--json")
    assert json.loads(told)["path"] == "other"


def test_recipes_are_listed_and_printed(llm: Any) -> None:
    out, _ = llm("recipes")
    lines = out.splitlines()
    assert lines[0].split() == ["name", "model", "method", "needs"]
    line = next(line for line in lines if line.startswith("llama-3.2-1b/qlora "))
    assert line.split()[1:3] == ["meta-llama/Llama-3.2-1B", "qlora"]
    assert "5.53 GB" in line
    out, _ = llm("recipes", "demo/lora")
    Path("mine.yaml").write_text(out)
    assert read_settings("mine.yaml") == read_settings("demo/lora")
    found, _ = llm("recipes", "--json")
    assert len(json.loads(found)["recipes"]) == len(lines) - 1
    assert json.loads(llm("recipes", "demo/full", "--json")[0])["method"] == "full"


def test_a_dry_run_tells_what_a_run_would_do_and_writes_nothing(llm: Any) -> None:
    out, err = llm("finetune", "--data", "my.json", "--train.max_steps", 3, "--out_dir", "o", "--dry_run")
    assert not err
    assert "12 rows read, 12 kept" in out
    assert "3 steps" in out
    assert "[[" in out
    assert re.search(r"memory: about 0\.\d+ GB needed", out)
    told = json.loads(llm("finetune_full", "--data", "my.json", "--train.max_steps", 3, "--dry_run", "--json")[0])
    assert told["steps"] == 3
    assert told["report"]["kept"] == 12
    assert told["memory"]["gradients"] > 10**7
    assert told["fits"]
    assert not Path("o").exists()
    assert not Path("out").exists()


@pytest.mark.filterwarnings("ignore:.*so losses may differ")  # of other numbers of threads, in a process of its own
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_saved_and_tells_how_to_go_on(llm: Any, tmp_path: Path, number: signal.Signals) -> None:
    """In a process of its own, which gets the signal after its first step."""
    options = ["--data", "my.json", "--out_dir", "o", "--train.epochs", "9999", "--train.lr_warmup_steps", "0"]
    line = [sys.executable, "-m", "llm_cli", "finetune", *options]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stderr is not None
    while "step 1/" not in (text := process.stderr.readline()):
        assert text
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    told = err.splitlines()[-1]
    assert told == "interrupted and saved; to go on: llm finetune --config o/settings.yaml --resume auto"
    (checkpoint,) = Path("o").glob("step-*")
    step = int(checkpoint.name.removeprefix("step-"))
    out, err = llm(*told.partition(": llm ")[2].split(), "--train.max_steps", step + 2)
    assert out == "o/final\n"
    assert f"step {step + 1:,}/" in err
    assert f"step {step:,}/" not in err


@pytest.mark.slow
@pytest.mark.parametrize("command", ["finetune", "finetune_full"])
def test_two_processes_give_what_one_gives(llm: Any, command: str) -> None:
    """By gloo on the processor: the losses but for rounding, one line on stdout, and each thing told once."""
    options = ["--data", "my.json", *FEW, "--train.global_batch_size", "4", "--precision", "32-true"]
    llm(command, *options, "--out_dir", "one")
    line = [sys.executable, "-m", "llm_cli", command, *options, "--devices", "2", "--out_dir", "two"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "two/final\n"), done.stderr
    assert done.stderr.count("step 3/") == 1
    losses = [_losses(Path(folder)) for folder in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert read_settings("two/settings.yaml").devices == 2


def _losses(folder: Path) -> list[float]:
    return [float(line.split(",")[2]) for line in (folder / "metrics.csv").read_text().splitlines()[1:]]

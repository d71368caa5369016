"""Files of settings: those of the older form as they stand, what is written comes back, and hostile ones do nothing."""

import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_finetune import (
    DataSettings,
    Eval,
    Job,
    Log,
    Lora,
    OptimizerSettings,
    Settings,
    Train,
    read_settings,
    write_settings,
)
from llm_finetune.config_file import MOST_BYTES, _fetched, effective, settings_text

SEED = """\
# The path to the base model's checkpoint directory to load for finetuning. (type: <class 'Path'>)
checkpoint_dir: checkpoints/meta-llama/Llama-2-7b-hf

out_dir: out/finetune/qlora-llama2-7b

precision: bf16-true

# If set, quantize the model with this algorithm.
quantize: bnb.nf4

devices: 1

lora_r: 32
lora_alpha: 16
lora_dropout: 0.05
lora_query: true
lora_key: false
lora_value: true
lora_projection: false
lora_mlp: false
lora_head: false

data:
  class_path: litgpt.data.Alpaca2k
  init_args:
    mask_prompt: false
    val_split_fraction: 0.05
    prompt_style: alpaca
    ignore_index: -100
    seed: 42
    num_workers: 4
    download_dir: data/alpaca2k

train:

  # Number of optimizer steps between saving checkpoints (type: Optional[int], default: 1000)
  save_interval: 200
  log_interval: 1
  global_batch_size: 8
  micro_batch_size: 2
  lr_warmup_steps: 10
  epochs: 4
  max_tokens:
  max_steps:
  max_seq_length: 512
  tie_embeddings:
  learning_rate: 0.0002
  weight_decay: 0.0
  beta1: 0.9
  beta2: 0.95
  max_norm:
  min_lr: 6.0e-05

eval:
  interval: 100
  max_new_tokens: 100
  max_iters: 100

logger_name: csv

seed: 1337
"""


def written(folder: Path, text: str) -> Path:
    (folder / "settings.yaml").write_text(text)
    return folder / "settings.yaml"


def test_a_file_of_the_older_form_has_its_values(tmp_path: Path) -> None:
    job = read_settings(written(tmp_path, SEED))
    assert (job.model, job.out_dir) == ("checkpoints/meta-llama/Llama-2-7b-hf", "out/finetune/qlora-llama2-7b")
    assert (job.settings.precision, job.quantize, job.devices, job.method) == ("bf16-true", "bnb.nf4", 1, "lora")
    assert job.lora == Lora(r=32, alpha=16, dropout=0.05)
    data = job.data
    assert (data.name, data.mask_prompt, data.val_split_fraction) == ("Alpaca2k", False, 0.05)
    assert (data.prompt_style, data.ignore_index, data.seed) == ("alpaca", -100, 42)
    train = job.settings.train
    assert (train.save_interval, train.global_batch_size, train.micro_batch_size, train.epochs) == (200, 8, 2, 4)
    assert (train.learning_rate, train.weight_decay, train.min_lr, train.max_norm) == (2e-4, 0.0, 6e-5, None)
    assert (train.lr_warmup_steps, train.max_seq_length) == (10, 512)
    assert job.settings.eval == Eval(interval=100, max_new_tokens=100, max_iters=100)
    assert job.settings.seed == 1337


def test_options_count_before_those_of_the_file(tmp_path: Path) -> None:
    job = read_settings(written(tmp_path, SEED), lora_r=4)
    assert job.lora.r == 4
    assert job == read_settings(written(tmp_path, SEED.replace("lora_r: 32", "lora_r: 4")))


@pytest.mark.parametrize(
    "text",
    [
        "optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.001, betas: [0.5, 0.6]}}",
        "optimizer: {name: AdamW, lr: 1e-3, betas: [0.5, 0.6]}",
        "optimizer:\n  class_path: AdamW\n  init_args:\n    lr: 0.001\n    betas:\n    - 0.5\n    - 0.6\n",
    ],
)
def test_optimizers_as_a_class_or_by_name(tmp_path: Path, text: str) -> None:
    job = read_settings(written(tmp_path, text))
    assert job.settings.optimizer == OptimizerSettings(lr=1e-3, betas=(0.5, 0.6))


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("lora_rr: 4", r"settings\.yaml: there is no setting lora_rr; did you mean lora_r\?"),
        ("train: {epoch: 4}", r"there is no setting train\.epoch; did you mean train\.epochs\?"),
        ("data: {class_path: a.Alpaca, init_args: {packin: 1}}", r"did you mean data\.packing\?"),
        ("data: {class_path: a.Alpaca, other: 1}", "beside which there is only init_args, not other"),
        ("train: 4", r"train has settings below it, such as 'save_interval: \.\.\.', and can't be 4"),
        ("access_token: hf_secret", "an access token doesn't belong in a file of settings"),
        ("- a\n- b", "has no settings: it must be lines such as"),
        ("", "has no settings"),
        ("1: 2", "has no settings"),
        ("a: [", r"settings\.yaml is no YAML"),
        ("a: &a [x]\nlora_targets: *a", "there are no aliases"),
        ("lora_r: " + "[" * 10**5, "its groups are too deep"),
        ("lora_r: 9" + "9" * 5000, r"settings\.yaml: Exceeds the limit"),
        ("log: {run: 2026-99-99}", r"settings\.yaml: month must be in"),
        ("lora_r: [a, b]", r"lora_r can't be \['a', 'b'\]"),
        ("data: {class_path: [a]}", r"data\.class_path is a name"),
        ("data: {class_path: Alpaca, init_args: [a]}", r"data\.init_args has settings below it"),
        (
            "optimizer: {class_path: torch.optim.Adagrad}",
            r"optimizer\.name can't be 'Adagrad': input should be 'AdamW'",
        ),
        ("train: {tie_embeddings: true}", r"train\.tie_embeddings"),
    ],
)
def test_what_is_no_file_of_settings_is_refused(tmp_path: Path, text: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rule) as error:
        read_settings(written(tmp_path, text))
    assert "hf_secret" not in str(error.value)


def test_neither_a_class_nor_a_tag_imports_anything(tmp_path: Path) -> None:
    imported: list[str] = []
    watching = True

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and (
            event in ("os.system", "subprocess.Popen") or (event == "import" and "antigravity" in arguments)
        ):
            imported.append(event)

    sys.addaudithook(watch)
    for text in (
        "data: {class_path: antigravity.Alpaca}",
        "optimizer: {class_path: antigravity.AdamW}",
        "data: {class_path: os.system, init_args: {}}",
        "lora_r: !!python/object/apply:os.system ['true']",
        "lora_r: !!python/module:antigravity",
    ):
        try:
            read_settings(written(tmp_path, text))
        except ValueError:
            continue
    watching = False
    assert imported == []
    assert "antigravity" not in sys.modules


def test_names_of_no_file_and_no_recipe_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no recipe of that name; did you mean llama-3\.2-1b/lora\?"):
        read_settings("llama-3.2-1b/lor")
    (tmp_path / "large.yaml").write_bytes(b"#" * (MOST_BYTES + 1))
    with pytest.raises(ValueError, match=r"larger than 1,000,000 bytes"):
        read_settings(tmp_path / "large.yaml")


ranges = st.sampled_from([None, "0-8", "0-8 24-32"])
text = st.text(st.characters(codec="utf-8"), max_size=20)
rates = st.floats(1e-4, 1, allow_nan=False)
whole = st.integers(1, 10**6)
loras = st.builds(
    Lora, r=whole, alpha=rates, dropout=st.floats(0, 0.99), dora=st.booleans(), targets=st.lists(text).map(tuple)
)
jobs = st.builds(
    Job,
    model=st.none() | text,
    out_dir=st.none() | text,
    devices=whole | st.just("auto"),
    lora=loras,
    lora_plus_ratio=st.none() | rates,
    data=st.builds(
        DataSettings,
        name=st.none() | text,
        json_path=st.none() | text,
        prompt_style=st.none() | text,
        mask_prompt=st.none() | st.booleans(),
        val_split_fraction=st.none() | st.floats(0, 0.99),
    ),
    settings=st.builds(
        Settings,
        train=st.builds(
            Train, epochs=whole, max_tokens=st.none() | whole, max_norm=st.none() | rates, min_lr=st.just(0)
        ),
        eval=st.builds(Eval, evaluate_example=st.sampled_from(["first", "random"]) | whole),
        log=st.builds(Log, project=st.none() | text, run=st.none() | text),
        optimizer=st.builds(OptimizerSettings, betas=st.none() | st.tuples(st.floats(0, 0.9), st.floats(0, 0.9))),
        precision=st.sampled_from([None, "32-true", "bf16-mixed"]),
        seed=st.integers(0, 2**40),
    ),
    resume=st.booleans() | st.sampled_from(["auto", "out/step-000005"]),
)


@given(job=jobs)
def test_what_is_written_comes_back(tmp_path_factory: pytest.TempPathFactory, job: Job) -> None:
    path = tmp_path_factory.getbasetemp() / "written.yaml"
    path.write_text(settings_text(job), encoding="utf-8", newline="")
    assert read_settings(path) == job


@pytest.mark.parametrize(
    "job", [Job(method="full", freeze_layers="0-2"), Job(method="adapter", adapter_start_layer=1), Job(merge=False)]
)
def test_each_method_comes_back(tmp_path: Path, job: Job) -> None:
    assert read_settings(write_settings(job, tmp_path / "a.yaml")) == job
    assert ("lora_r" in settings_text(job)) == (job.method == "lora")


def test_the_effective_settings_have_their_folder_and_no_order_to_resume(tmp_path: Path) -> None:
    path = write_settings(effective(Job(resume="auto")), tmp_path / "a.yaml")
    assert read_settings(path) == Job(out_dir="out/finetune/lora")
    assert write_settings(Job(out_dir="b"), path) == path
    assert read_settings(path).out_dir == "b"


PAGES = {"/good": b"lora_r: 4\n", "/large": b"#" * (MOST_BYTES + 1)}


class Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        target = {"/here": "/good", "/away": "ftp://127.0.0.1/good"}.get(self.path)
        if target is not None:
            self.send_response(302)
            self.send_header("Location", target)
            self.end_headers()
            return
        body = PAGES.get(self.path)
        self.send_response(200 if body is not None else 404)
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_addresses_are_read_within_their_scheme_alone(server: str) -> None:
    """By http here, for the test's server has no certificate; the way is the same."""
    assert _fetched(f"{server}/good", "http") == PAGES["/good"]
    assert _fetched(f"{server}/here", "http") == PAGES["/good"]
    with pytest.raises(ValueError, match="leads away from http, to ftp"):
        _fetched(f"{server}/away", "http")
    with pytest.raises(ValueError, match="larger than"):
        _fetched(f"{server}/large", "http")
    with pytest.raises(ValueError, match="can't be read: Not Found; save it as a file"):
        _fetched(f"{server}/none", "http")
    for address in (f"{server}/good", "file:///etc/passwd"):
        with pytest.raises(ValueError, match="from files and from https addresses alone"):
            read_settings(address)

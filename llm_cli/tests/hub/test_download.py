"""A download ends in a whole folder, or in one sentence and nothing that looks like a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llm_cli.app import run
from llm_cli.hub import MARKER, download
from llm_cli.hub_files import DownloadError

REPO = "org/tiny"
WEIGHTS = "model.safetensors"


def fetch(root: Path, **options: Any) -> Path:
    return download(REPO, root, **options)


def fails(root: Path, **options: Any) -> str:
    """The sentence of a download that must fail; checks that it left nothing that looks complete."""
    with pytest.raises(DownloadError) as caught:
        fetch(root, **options)
    assert not (root / REPO).exists()
    assert not [path for path in root.rglob("*") if path.name in ("config.json", WEIGHTS)]
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def test_a_folder_with_small_files_and_safetensors(hub: Any, tmp_path: Path) -> None:
    folder = fetch(tmp_path)
    assert folder == tmp_path / "org" / "tiny"
    assert {path.name for path in folder.iterdir()} == {"config.json", "tokenizer.json", WEIGHTS, MARKER}
    assert (folder / WEIGHTS).read_bytes() == hub.files[WEIGHTS]
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


def test_bin_only_when_there_is_no_safetensors(hub: Any, tmp_path: Path) -> None:
    del hub.files[WEIGHTS]
    assert (fetch(tmp_path) / "pytorch_model.bin").read_bytes() == hub.files["pytorch_model.bin"]


def test_shards_that_the_index_names_and_no_others(hub: Any, tmp_path: Path) -> None:
    """Some repositories hold the same weights twice, as consolidated.safetensors beside the shards."""
    del hub.files[WEIGHTS]
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = {"weight_map": {"a": shards[0], "b": shards[1]}}
    hub.files |= {"model.safetensors.index.json": json.dumps(index).encode(), "consolidated.safetensors": b"twice"}
    hub.files |= {shard: shard.encode() for shard in shards}
    names = {path.name for path in fetch(tmp_path).iterdir()}
    assert names == {"config.json", "tokenizer.json", "model.safetensors.index.json", MARKER, *shards}


def test_the_tokenizer_alone_and_the_weights_later(hub: Any, tmp_path: Path) -> None:
    folder = fetch(tmp_path, tokenizer_only=True)
    assert not (folder / WEIGHTS).exists()
    assert fetch(tmp_path) == folder
    assert (folder / WEIGHTS).read_bytes() == hub.files[WEIGHTS]
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


def test_a_complete_folder_is_not_fetched_again(hub: Any, tmp_path: Path) -> None:
    fetch(tmp_path)
    hub.requests.clear()
    fetch(tmp_path)
    assert hub.requests == []


def test_a_folder_that_lost_a_file_is_not_taken_for_complete(hub: Any, tmp_path: Path) -> None:
    (fetch(tmp_path) / WEIGHTS).write_bytes(b"cut")
    with pytest.raises(DownloadError, match="damaged; remove the folder"):
        fetch(tmp_path)


def test_another_revision_is_not_mixed_in(hub: Any, tmp_path: Path) -> None:
    fetch(tmp_path)
    with pytest.raises(DownloadError, match="holds the revision main"):
        fetch(tmp_path, revision="v2")


@pytest.mark.parametrize(
    ("cuts", "resumed_at"),
    [([1], []), ([100_000, 300_000, 7], [100_000, 400_000, 400_000]), ([0, 0, 70_000, 0], [50_000])],
)
def test_a_cut_connection_is_resumed(hub: Any, tmp_path: Path, cuts: list[int], resumed_at: list[int]) -> None:
    hub.fault(WEIGHTS).cuts = list(cuts)
    assert (fetch(tmp_path) / WEIGHTS).read_bytes() == hub.files[WEIGHTS]
    ranges = [headers["range"] for headers in hub.gets(WEIGHTS) if "range" in headers]
    assert ranges[: len(resumed_at)] == [f"bytes={start}-" for start in resumed_at]


def test_a_reset_connection_is_resumed(hub: Any, tmp_path: Path) -> None:
    """huggingface_hub retries a connection that ends early, but not one that is reset."""
    hub.fault(WEIGHTS).resets = [400_000, 0, 100_000]
    assert (fetch(tmp_path) / WEIGHTS).read_bytes() == hub.files[WEIGHTS]
    assert len(hub.gets(WEIGHTS)) == 4


def test_a_connection_that_is_reset_for_ever(hub: Any, tmp_path: Path) -> None:
    hub.fault(WEIGHTS).resets = [0] * 20
    assert "the connection was cut" in fails(tmp_path)


def test_a_stalled_transfer_is_resumed(hub: Any, tmp_path: Path) -> None:
    hub.fault(WEIGHTS).stalls = [200_000]
    assert (fetch(tmp_path) / WEIGHTS).read_bytes() == hub.files[WEIGHTS]


def test_a_transfer_that_stalls_for_ever(hub: Any, tmp_path: Path) -> None:
    hub.fault(WEIGHTS).stalls = [0] * 20
    assert "the transfer stalled" in fails(tmp_path)


def test_a_later_run_goes_on_where_an_earlier_one_died(hub: Any, tmp_path: Path) -> None:
    """huggingface_hub itself deletes the part and begins at zero."""
    hub.fault(WEIGHTS).cuts = [500_000] + [0] * 60
    assert "goes on where it stopped" in fails(tmp_path)
    hub.fault(WEIGHTS).cuts = []
    hub.requests.clear()
    assert (fetch(tmp_path) / WEIGHTS).read_bytes() == hub.files[WEIGHTS]
    assert [headers["range"] for headers in hub.gets(WEIGHTS)] == ["bytes=500000-"]
    assert hub.gets("config.json") == []


def test_a_server_that_ignores_range(hub: Any, tmp_path: Path) -> None:
    hub.fault(WEIGHTS).ignore_range = True
    hub.fault(WEIGHTS).cuts = [300_000]
    assert (fetch(tmp_path) / WEIGHTS).read_bytes() == hub.files[WEIGHTS]


def test_a_server_that_claims_more_than_it_sends(hub: Any, tmp_path: Path) -> None:
    hub.fault(WEIGHTS).length = len(hub.files[WEIGHTS]) + 10
    assert "connection to the hub failed" in fails(tmp_path) or "bytes" in fails(tmp_path)


def test_a_server_that_sends_less_than_listed(hub: Any, tmp_path: Path) -> None:
    hub.fault(WEIGHTS).content = hub.files[WEIGHTS][:-5]
    assert "bytes where the hub announced" in fails(tmp_path)


def test_a_server_that_sends_more_than_listed_is_stopped(hub: Any, tmp_path: Path) -> None:
    hub.fault(WEIGHTS).content = hub.files[WEIGHTS] + b"more" * 100_000
    assert "more than the announced" in fails(tmp_path)


def test_wrong_bytes_of_the_right_length(hub: Any, tmp_path: Path) -> None:
    hub.fault(WEIGHTS).content = b"\0" * len(hub.files[WEIGHTS])
    assert "sha256 digest" in fails(tmp_path)


def test_wrong_bytes_of_a_small_file(hub: Any, tmp_path: Path) -> None:
    hub.fault("config.json").content = b'{"model_type": "trojan!"}'[:23]
    assert "git digest" in fails(tmp_path)


def test_a_part_left_by_other_content_is_not_kept(hub: Any, tmp_path: Path) -> None:
    """The part of a wrong answer has the right length, so resuming it alone would never end well."""
    hub.fault(WEIGHTS).content = b"\0" * len(hub.files[WEIGHTS])
    fails(tmp_path)
    hub.fault(WEIGHTS).content = None
    assert (fetch(tmp_path) / WEIGHTS).read_bytes() == hub.files[WEIGHTS]


def test_the_listing_decides_when_the_etag_is_wrong(hub: Any, tmp_path: Path) -> None:
    hub.fault(WEIGHTS).etag = "0" * 64
    assert (fetch(tmp_path) / WEIGHTS).read_bytes() == hub.files[WEIGHTS]


def test_a_mirror_without_digests_is_checked_by_its_etag(hub: Any, tmp_path: Path) -> None:
    hub.with_digests = False
    assert (fetch(tmp_path / "good") / WEIGHTS).read_bytes() == hub.files[WEIGHTS]
    hub.fault(WEIGHTS).etag = "0" * 64
    assert "sha256 digest" in fails(tmp_path / "bad")


def test_a_busy_server_is_asked_again(hub: Any, tmp_path: Path) -> None:
    hub.fault(WEIGHTS).statuses = [503, 500]
    assert (fetch(tmp_path) / WEIGHTS).read_bytes() == hub.files[WEIGHTS]


def test_a_repository_without_readable_weights(hub: Any, tmp_path: Path) -> None:
    del hub.files[WEIGHTS], hub.files["pytorch_model.bin"]
    hub.files["model.gguf"] = b"GGUF"
    assert "holds no weights that can be read" in fails(tmp_path)


def test_a_model_that_could_not_run_is_refused_before_its_weights(hub: Any, tmp_path: Path) -> None:
    """Gigabytes came first, and the architecture that isn't installed was told after them."""
    hub.files["config.json"] = b'{"model_type": "llamma"}'
    sentence = fails(tmp_path, to_run=True)
    assert "'llamma', which is not installed; the nearest is llama (there are " in sentence
    assert "entry point group llm_blocks.architectures (the page 'Adding a model family'" in sentence
    assert hub.gets(WEIGHTS) == []
    assert (fetch(tmp_path) / WEIGHTS).exists()


def test_a_full_disk_is_told_before_the_weights(hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    assert "free some space" in fails(tmp_path)
    assert hub.gets(WEIGHTS) == []


def test_no_connection(hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "check the network" in fails(tmp_path)


def test_offline_is_obeyed(hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE forbids" in fails(tmp_path)
    assert hub.requests == []


@pytest.mark.parametrize("name", ["tiny", "a/b/c", "../tiny", "org/..", "org/", "https://x/y"])
def test_what_is_no_hub_id(hub: Any, tmp_path: Path, name: str) -> None:
    with pytest.raises(DownloadError, match="no hub id"):
        download(name, tmp_path)


def test_the_command_prints_the_folder_alone(hub: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["download", "org/tiny", "--tokenizer_only", "True", "--checkpoint-dir", "models"]) == 0
    assert capsys.readouterr().out == "models/org/tiny\n"
    assert not (tmp_path / "models" / "org" / "tiny" / WEIGHTS).exists()
    assert run(["download", "org/tiny", "--checkpoint_dir", "models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == "models/org/tiny"


def test_a_misspelt_repository_names_the_nearest(hub: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", "TinyLlama/TinyLama-1.1B-Chat-v1.0", "--prompt", "x"]) == 1
    said = capsys.readouterr()
    assert "did you mean TinyLlama/TinyLlama-1.1B-Chat-v1.0?" in said.err
    assert (said.out, said.err.count("\n")) == ("", 1)


def test_an_interrupted_download_is_kept(
    hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("llm_cli.hub._check_space", interrupt)
    assert run(["download", "org/tiny"]) == 130
    assert "to go on" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    hub.requests.clear()
    assert run(["download", "org/tiny"]) == 0
    assert hub.gets("config.json") == []


def test_two_processes_do_not_fetch_the_same_model(hub: Any, tmp_path: Path) -> None:
    from huggingface_hub.utils import WeakFileLock

    staging = tmp_path / "org" / ".tiny.partial"
    staging.mkdir(parents=True)
    with WeakFileLock(staging / "lock"), pytest.raises(DownloadError, match="another process"):
        fetch(tmp_path)

"""Where a model's name leads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llm_cli import models
from llm_cli.checkpoints import open_checkpoint
from llm_cli.models import ModelNotFoundError, local_names, resolve
from llm_sepweight import WeightsError


@pytest.fixture(autouse=True)
def downloads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, Path, dict[str, Any]]]:
    """Calls of the downloader, which fetches nothing here."""
    calls: list[tuple[str, Path, dict[str, Any]]] = []

    def fetch(name: str, root: Path, **options: Any) -> Path:
        calls.append((name, root, options))
        return root / name

    monkeypatch.setattr("llm_cli.hub.download", fetch)
    monkeypatch.delenv("LLM_CHECKPOINT_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    return calls


def checkpoint(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    return path


def test_none_is_the_model_inside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(models, "DEMO", checkpoint(tmp_path / "demo"))
    assert resolve(None) == tmp_path / "demo"
    monkeypatch.setattr(models, "DEMO", tmp_path / "absent")
    with pytest.raises(ModelNotFoundError, match="name a model, or reinstall"):
        resolve(None)


def test_a_path_a_name_and_another_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "out" / "final")
    named = checkpoint(tmp_path / "checkpoints" / "org" / "tiny")
    elsewhere = checkpoint(tmp_path / "big" / "tiny")
    assert resolve(folder) == folder
    assert resolve("out/final").resolve() == folder
    assert resolve("org/tiny").resolve() == named
    monkeypatch.setenv("LLM_CHECKPOINT_DIR", str(tmp_path / "big"))
    assert resolve("tiny") == elsewhere


def test_a_path_wins_over_a_name_under_checkpoints(tmp_path: Path) -> None:
    checkpoint(tmp_path / "checkpoints" / "tiny")
    assert resolve("tiny") == Path("checkpoints/tiny")
    checkpoint(tmp_path / "tiny")
    assert resolve("tiny") == Path("tiny")


def test_a_file_only_where_one_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "stories.bin").write_bytes(b"x")
    assert resolve("stories.bin", allow_file=True) == Path("stories.bin")
    with pytest.raises(ModelNotFoundError, match=r"`llm convert stories\.bin FOLDER`"):
        resolve("stories.bin")
    checkpoint(tmp_path / "tiny")
    with pytest.raises(ModelNotFoundError, match="is a file, not a checkpoint folder; give its folder 'tiny'"):
        resolve("tiny/config.json")


def test_a_hub_id_is_fetched(downloads: Any) -> None:
    assert resolve("org/tiny", access_token="secret") == Path("checkpoints/org/tiny")
    assert downloads == [
        ("org/tiny", Path("checkpoints"), {"access_token": "secret", "tokenizer_only": False, "to_run": True}),
    ]


def test_a_folder_with_the_tokenizer_alone_is_completed(downloads: Any, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "checkpoints" / "org" / "tiny")
    (folder / ".llm_download.json").write_text('{"tokenizer_only": true, "files": {}}')
    resolve("org/tiny", tokenizer_only=True)
    assert downloads == []
    resolve("org/tiny")
    assert [name for name, _, _ in downloads] == ["org/tiny"]


@pytest.mark.parametrize("name", ["org/tiny", "out/final"])
def test_no_download_where_it_is_not_allowed_or_a_path_is_meant(downloads: Any, tmp_path: Path, name: str) -> None:
    """`out/final` has the form of a hub id, but out/ is here: asking the hub for it would confuse."""
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelNotFoundError, match=f"`llm download {name}`"):
        resolve(name, download=name.startswith("out"))
    assert downloads == []


@pytest.mark.parametrize(
    ("name", "found"), [("tiny-lama", "tiny-llama"), ("org/tiny-lama", "org/tiny-llama"), ("out/finel", "out/final")]
)
def test_the_nearest_local_name(tmp_path: Path, name: str, found: str) -> None:
    checkpoint(tmp_path / "checkpoints" / "org" / "tiny-llama")
    (tmp_path / "out" / "final").mkdir(parents=True)
    with pytest.raises(ModelNotFoundError, match=rf"did you mean {found}\?"):
        resolve(name, download=False)


def test_a_folder_that_is_no_checkpoint_names_the_one_inside(tmp_path: Path) -> None:
    checkpoint(tmp_path / "out" / "final")
    with pytest.raises(ModelNotFoundError, match="'out/final' is one"):
        resolve("out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelNotFoundError, match="holds no config"):
        resolve("empty")


def test_an_empty_name() -> None:
    with pytest.raises(ModelNotFoundError, match="name is empty"):
        resolve("")


def test_local_names_leave_out_unfinished_folders(tmp_path: Path) -> None:
    for name in ("org/tiny", "alone", ".tiny.tmp-1", "org/.tiny.old"):
        checkpoint(tmp_path / "checkpoints" / name)
    assert local_names() == ["alone", "org/tiny"]


def test_demo_is_the_model_that_ships_unless_a_folder_has_that_name(tmp_path: Path) -> None:
    assert resolve("demo") == resolve(None) == models.demo_folder()
    checkpoint(tmp_path / "demo")
    assert resolve("demo") == Path("demo")


def test_a_folder_of_meta_is_a_checkpoint_when_its_params_are_there(tmp_path: Path) -> None:
    """Without them it passed as one, and then its config.json "can't be read"."""
    folder = tmp_path / "checkpoints" / "meta"
    folder.mkdir(parents=True)
    (folder / "consolidated.00.pth").touch()
    with pytest.raises(ModelNotFoundError, match=r"without their params\.json; copy that file there too"):
        resolve("meta")
    (folder / "params.json").touch()
    assert resolve("meta") == Path("checkpoints/meta")
    assert local_names() == ["meta"]


def test_a_name_that_begins_with_the_home_of_nobody() -> None:
    """pathlib raises RuntimeError for it, which was reported as a fault of ours."""
    with pytest.raises(ModelNotFoundError, match="no model '~no-such-user/tiny'"):
        resolve("~no-such-user/tiny")


def test_a_text_in_the_place_of_a_model_names_the_option() -> None:
    with pytest.raises(ModelNotFoundError, match="goes behind --prompt"):
        resolve("Tell me a story")


@pytest.mark.parametrize(
    "name",
    [
        "org/tiny/",
        "https://huggingface.co/org/tiny",
        "https://huggingface.co/org/tiny/tree/main/",
        "hf.co/org/tiny?x=1",
    ],
)
def test_the_address_of_a_page_is_the_repository(downloads: Any, name: str) -> None:
    resolve(name)
    assert [called for called, _, _ in downloads] == ["org/tiny"]


def test_the_address_of_another_revision_is_not_taken_for_main(downloads: Any) -> None:
    with pytest.raises(ModelNotFoundError, match=r"`llm download https://huggingface\.co/org/tiny/tree/dev`"):
        resolve("https://huggingface.co/org/tiny/tree/dev")
    assert downloads == []
    assert models.hub_repository("https://huggingface.co/org/tiny/tree/dev") == ("org/tiny", "dev")
    quoted = "https://huggingface.co/org/tiny/tree/refs%2Fpr%2F1"  # the hub was asked for that, quoted
    assert models.hub_repository(quoted) == ("org/tiny", "refs/pr/1")
    assert models.hub_repository("https://huggingface.co/datasets/org/tiny")[0].startswith("https:")


@pytest.mark.parametrize("beside", ["tiny.gguf", "adapter_config.json", "model-00001-of-00002.safetensors"])
def test_weights_that_are_read_only_lack_config_json(tmp_path: Path, beside: str) -> None:
    """What lay beside them was told instead, or that their index was missing."""
    for name in ("model.safetensors.index.json", beside):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ModelNotFoundError, match=r"holds no config\.json"):
        resolve(tmp_path)
    with pytest.raises(WeightsError, match=r"holds neither config\.json nor"):
        open_checkpoint(tmp_path)


def test_weights_of_another_kind_say_what_they_are(tmp_path: Path):
    """They were told to use `llm convert`, which can't read them either."""
    file, adapter = tmp_path / "tiny.gguf", tmp_path / "adapter"
    file.write_bytes(b"GGUF")
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    for path, told in ((file, "GGUF files aren't read"), (adapter, "give its base model 'org/base'")):
        with pytest.raises(ModelNotFoundError, match=told):
            resolve(path)

"""File names in an index are somebody else's input: none may lead out of the folder, on any operating system."""

import json
import os
import sys

import pytest
import torch
from safetensors.torch import save_file

import llm_sepweight
from llm_sepweight import WeightsError
from llm_sepweight.safe import check_file_name

TRAVERSAL = [
    "../x.safetensors",
    "../../etc/x.safetensors",
    "a/../../x.safetensors",
    "sub/x.safetensors",
    "./x.safetensors",
    "/etc/x.safetensors",
    "//host/share/x.safetensors",
    "\\x.safetensors",
    "..\\x.safetensors",
    "a\\..\\..\\x.safetensors",
    "C:x.safetensors",
    "C:\\x.safetensors",
    "C:/x.safetensors",
    "\\\\host\\share\\x.safetensors",
    "\\\\?\\C:\\x.safetensors",
    "\\\\.\\pipe\\x.safetensors",
    "file:///x.safetensors",
    "http://host/x.safetensors",
    "x.safetensors:stream.safetensors",
    "~/x.safetensors",
]
ODD = [
    "",
    ".",
    "..",
    ".safetensors/",
    "x\0.safetensors",
    "x\n.safetensors",
    "x\u202e.safetensors",
    "x\ud800.safetensors",
    "x.safetensors.",
    "x.safetensors ",
    " x.safetensors",
    "CON.safetensors",
    "con.safetensors",
    "NUL.a.safetensors",
    "AUX .safetensors",
    "COM1.safetensors",
    "LPT9.safetensors",
    "COM¹.safetensors",
    "CONIN$.safetensors",
    "x" * 255 + ".safetensors",
    "é" * 130 + ".safetensors",
    "x*.safetensors",
    "x?.safetensors",
    "x|y.safetensors",
]
WRONG_KIND = ["model.bin", "model.pth", "model.pkl", "model", "x.safetensors.bin", "x.SAFETENSORS", "evil.py"]
WRONG_TYPE = [None, 3, ["x.safetensors"], {"a": 1}, True]


@pytest.fixture
def opened(monkeypatch):
    """Paths that were opened or looked at, as the audit hooks of the interpreter see them."""
    seen: list[str] = []
    active = [True]

    def hook(event, arguments):
        if active[0] and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            seen.append(os.fspath(arguments[0]))

    sys.addaudithook(hook)
    yield seen
    active[0] = False


@pytest.mark.parametrize("name", TRAVERSAL + ODD + WRONG_KIND + WRONG_TYPE, ids=repr)
def test_a_hostile_name_in_an_index_is_refused_before_anything_is_opened(tmp_path, index, opened, name):
    save_file_of_ones(tmp_path / "x.safetensors")
    folder = tmp_path / "folder"
    folder.mkdir()
    index(folder, {"w": name})
    with pytest.raises(WeightsError, match=r"model\.safetensors\.index\.json: .*(file name|must be a string)"):
        llm_sepweight.open(folder)
    assert {path for path in map(os.fsdecode, opened) if str(tmp_path) in path} == {
        str(folder / "model.safetensors.index.json")
    }


@pytest.mark.parametrize("name", [name.replace(".safetensors", ".bin") for name in TRAVERSAL + ODD[4:]], ids=repr)
def test_the_same_holds_for_an_index_of_bin_files(tmp_path, index, name):
    index(tmp_path, {"w": name}, "pytorch_model.bin.index.json")
    with pytest.raises(WeightsError, match="is refused"):
        llm_sepweight.open(tmp_path)


@pytest.mark.parametrize("name", TRAVERSAL + ODD + WRONG_KIND + ["other.safetensors", "mid.1.safetensors"], ids=repr)
def test_the_same_holds_for_sepweight_json(tmp_path, sectioned, name):
    llm_sepweight.write(tmp_path / "w", sectioned)
    marker = json.loads((tmp_path / "w" / "sepweight.json").read_text())
    marker["files"][name] = marker["files"]["end.safetensors"]
    (tmp_path / "w" / "sepweight.json").write_text(json.dumps(marker))
    for check in (llm_sepweight.open, llm_sepweight.verify):
        with pytest.raises(WeightsError, match=r"sepweight\.json: .*refused"):
            check(tmp_path / "w")


@pytest.mark.parametrize("name", ["model.safetensors", "model-00001-of-00002.safetensors", "a b.safetensors", "é.bin"])
def test_ordinary_names_pass(tmp_path, name):
    assert check_file_name(name, (".safetensors", ".bin"), tmp_path) == name


def save_file_of_ones(path, name="w"):
    save_file({name: torch.ones(2)}, path)


def test_a_link_out_of_the_folder_is_refused(tmp_path, index):
    folder = tmp_path / "folder"
    folder.mkdir()
    save_file_of_ones(tmp_path / "secret.safetensors")
    (folder / "x.safetensors").symlink_to(tmp_path / "secret.safetensors")
    index(folder, {"w": "x.safetensors"})
    with pytest.raises(WeightsError, match=r"'x\.safetensors' is a link that leaves the folder"):
        llm_sepweight.open(folder)


def test_a_link_out_of_a_sepweight_folder_is_refused(tmp_path, sectioned):
    llm_sepweight.write(tmp_path / "w", sectioned)
    (tmp_path / "w" / "end.safetensors").rename(tmp_path / "end.safetensors")
    (tmp_path / "w" / "end.safetensors").symlink_to(tmp_path / "end.safetensors")
    with pytest.raises(WeightsError, match="leaves the folder"):
        llm_sepweight.open(tmp_path / "w")


@pytest.mark.parametrize("layout", ["wrong blobs", "not a snapshot"])
def test_a_false_cache_folder_gives_no_way_out(tmp_path, index, layout):
    repository = tmp_path / ("models--a--b" if layout == "wrong blobs" else "folder")
    snapshot = repository / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    elsewhere = (tmp_path if layout == "wrong blobs" else repository) / "blobs"
    elsewhere.mkdir()
    save_file_of_ones(elsewhere / "digest")
    (snapshot / "x.safetensors").symlink_to(elsewhere / "digest")
    index(snapshot, {"w": "x.safetensors"})
    with pytest.raises(WeightsError, match="leaves the folder"):
        llm_sepweight.open(snapshot)


def test_the_users_own_link_to_a_model_is_followed(tmp_path):
    """A fixed name that we look for ourselves may be a link: no file of the checkpoint has chosen where it leads."""
    save_file_of_ones(tmp_path / "big-disk.safetensors")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "model.safetensors").symlink_to(tmp_path / "big-disk.safetensors")
    with llm_sepweight.open(tmp_path / "folder") as weights:
        assert weights.names == ("w",)


@pytest.mark.parametrize(("one", "other"), [("a.safetensors", "A.safetensors"), ("ß.safetensors", "ss.safetensors")])
def test_names_that_differ_only_in_case_are_refused(tmp_path, index, one, other):
    for name in (one, other):
        save_file_of_ones(tmp_path / name)
    index(tmp_path, {"v": one, "w": other})
    with pytest.raises(WeightsError, match="differ only in case"):
        llm_sepweight.open(tmp_path)


@pytest.mark.parametrize("kind", ["symbolic", "hard"])
def test_two_names_of_one_file_are_refused(tmp_path, index, kind):
    save_file_of_ones(tmp_path / "a.safetensors")
    if kind == "symbolic":
        (tmp_path / "b.safetensors").symlink_to("a.safetensors")
    else:
        os.link(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    index(tmp_path, {"w": "a.safetensors", "v": "b.safetensors"})
    with pytest.raises(WeightsError, match="one and the same file"):
        llm_sepweight.open(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="no FIFO on Windows")
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "consolidated.00.pth", "begin.pth"])
def test_a_fifo_does_not_block(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(WeightsError, match="not a regular file"):
        llm_sepweight.open(tmp_path)


def test_a_folder_in_place_of_a_file_is_refused(tmp_path, index):
    (tmp_path / "x.safetensors").mkdir()
    index(tmp_path, {"w": "x.safetensors"})
    with pytest.raises(WeightsError, match="not a regular file"):
        llm_sepweight.open(tmp_path)


def test_a_missing_shard_is_named(sharded):
    (sharded / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"model-00002-of-00002\.safetensors: missing, though model"):
        llm_sepweight.open(sharded)


def test_a_tensor_that_its_shard_lacks_is_named(tmp_path, index):
    save_file_of_ones(tmp_path / "x.safetensors")
    index(tmp_path, {"w": "x.safetensors", "ghost": "x.safetensors"})
    with pytest.raises(WeightsError, match=r"x\.safetensors: lacks tensor 'ghost'"):
        llm_sepweight.open(tmp_path)


def test_a_name_of_any_length_is_told_in_a_sentence(tmp_path, index):
    """Messages held all of it: megabytes, where the file had them."""
    long = "x" * 300_000
    save_file_of_ones(tmp_path / "a.safetensors")
    index(tmp_path, {"w": "a.safetensors", long: "a.safetensors"})
    save_file_of_ones(tmp_path / "cut.safetensors", long)
    os.truncate(tmp_path / "cut.safetensors", (tmp_path / "cut.safetensors").stat().st_size - 1)
    header = f'{{"{long}": 1, "{long}": 2}}'.encode()
    (tmp_path / "twice.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    for path, rule in (("", "lacks tensor"), ("cut.safetensors", "cut off is"), ("twice.safetensors", "duplicate key")):
        with pytest.raises(WeightsError, match=rf"{rule} 'x{{200}}'") as caught:
            llm_sepweight.open(tmp_path / path)
        assert len(str(caught.value)) < 600

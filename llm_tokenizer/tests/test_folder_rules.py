"""What a folder's own files say: special tokens, BOS, ends of turns, and files that break the rules."""

import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_tokenizer import Tokenizer, TokenizerError

BOS, EOS, END = 256, 257, 258
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [BOS], "tokens": ["<s>"]}},
}


def test_a_folder_that_says_nothing_has_no_bos_and_no_end(folder: Any) -> None:
    tokenizer = Tokenizer.load(folder.tokenizer().path)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.end_ids) == (None, None, None, ())
    assert len(tokenizer.encode("a")) == 1
    with pytest.raises(TokenizerError, match="no BOS"):
        tokenizer.encode("a", bos=True)


def test_bos_by_the_post_processor_unless_the_config_says_otherwise(folder: Any) -> None:
    names = {"bos_token": "<s>", "eos_token": {"content": "</s>"}}
    folder.tokenizer(post_processor=TEMPLATE).json("tokenizer_config.json", names)
    assert Tokenizer.load(folder.path).encode("a")[:-1] == [BOS]
    assert len(Tokenizer.load(folder.path).encode("a", bos=False)) == 1
    folder.json("tokenizer_config.json", {**names, "add_bos_token": False, "add_eos_token": True})
    tokenizer = Tokenizer.load(folder.path)
    assert len(tokenizer.encode("a")) == 1
    assert tokenizer.encode("a", eos=None)[1:] == [EOS]
    assert tokenizer.encode("", bos=True, eos=True) == [BOS, EOS]


def test_the_name_of_the_folder_says_nothing(folder: Any, tmp_path: Path) -> None:
    other = tmp_path / "Meta-Llama-3-8B-Instruct"
    other.mkdir()
    folder.tokenizer(post_processor=TEMPLATE)
    (folder.path / "tokenizer.json").rename(other / "tokenizer.json")
    assert Tokenizer.load(other).encode("a")[:-1] == [BOS]


def test_ends_of_turns(folder: Any) -> None:
    """config.json counts only where it names a special token: 2, its class's default, is an ordinary byte here."""
    folder.tokenizer().json("tokenizer_config.json", {"eos_token": "</s>"}).json("config.json", {"eos_token_id": 2})
    assert Tokenizer.load(folder.path).end_ids == (EOS,)
    folder.json("config.json", {"text_config": {"eos_token_id": [END]}})
    assert Tokenizer.load(folder.path).end_ids == (EOS, END)
    folder.json("generation_config.json", {"eos_token_id": [END, 7, EOS]})
    assert Tokenizer.load(folder.path).end_ids == (EOS, END, 7)
    folder.json("tokenizer_config.json", {})
    assert (Tokenizer.load(folder.path).eos_id, Tokenizer.load(folder.path).end_ids) == (END, (END, 7, EOS))
    folder.json("generation_config.json", {"eos_token_id": EOS})
    assert Tokenizer.load(folder.path).end_ids == (EOS, END)


@pytest.mark.parametrize("value", ["2", True, -1, 1.5, [None], 2**40])
def test_end_ids_are_ids(folder: Any, value: object) -> None:
    folder.tokenizer().json("generation_config.json", {"eos_token_id": value})
    with pytest.raises(TokenizerError, match=r"generation_config\.json"):
        Tokenizer.load(folder.path)


def test_special_tokens_map_names_what_the_config_leaves_out(folder: Any) -> None:
    folder.tokenizer().json(
        "special_tokens_map.json", {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<|end|>"}
    )
    folder.json("tokenizer_config.json", {"eos_token": "<|end|>", "bos_token": None})
    tokenizer = Tokenizer.load(folder.path)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (None, END, END)


def test_added_tokens_of_other_files(folder: Any) -> None:
    decoder = {"259": {"content": "<tool>", "special": False}, "260": {"content": "<x>", "special": True}}
    folder.tokenizer().json("tokenizer_config.json", {"added_tokens_decoder": decoder, "eos_token": "z"})
    tokenizer = Tokenizer.load(folder.path)
    assert tokenizer.encode("<tool><x>") == [259, 260]
    assert tokenizer.decode([259, 260]) == "<tool>"
    assert tokenizer.encode("<tool><x>", parse_special=False)[0] == 259
    assert len(tokenizer.encode("<x>", parse_special=False)) == 3
    assert tokenizer.vocab_size == 261
    folder.json("tokenizer_config.json", {"added_tokens_decoder": {"300": {"content": "<far>", "special": True}}})
    with pytest.raises(TokenizerError, match=r"without gaps.*300"):
        Tokenizer.load(folder.path)


def test_added_tokens_take_white_space_along(data: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes((data / "tokenizers/mistral-v1/tokenizer.model").read_bytes())
    token = {"content": "[CUT]", "special": True, "lstrip": True, "rstrip": True}
    config: dict[str, Any] = {"added_tokens_decoder": {"32000": token}, "legacy": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.encode("a  [CUT]\n b") == [*tokenizer.encode("a"), 32000, *tokenizer.encode("b", bos=False)]
    assert (tokenizer.vocab_size, tokenizer.id_to_token(32000), tokenizer.token_to_id("[CUT]")) == (
        32001,
        "[CUT]",
        32000,
    )
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"legacy": False}))
    assert Tokenizer.load(tmp_path).encode("a[CUT]b")[-1] == tokenizer.token_to_id("b")


def test_bos_of_a_bare_sentencepiece_or_llama2c_file(data: Path) -> None:
    for name in ("tok512.model", "tok512.bin"):
        tokenizer = Tokenizer.load(data / "models/stories260K" / name)
        assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.end_ids) == (1, 2, (2,))
        assert tokenizer.encode("hi")[0] == 1
        assert tokenizer.files == (data / "models/stories260K" / name,)
        assert tokenizer.chat_template is None


def test_vocab_and_merges_need_a_known_way_of_cutting(folder: Any) -> None:
    folder.json("vocab.json", {"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}).text("merges.txt", "#version: 0.2\na b\n")
    tokenizer = Tokenizer.load(folder.path)
    assert tokenizer.encode("abb<|endoftext|>", bos=False) == [2, 1, 3]
    assert tokenizer.end_ids == (3,)
    folder.json("tokenizer_config.json", {"tokenizer_class": "OddTokenizer"})
    with pytest.raises(TokenizerError, match=r"OddTokenizer.*tokenizer\.json"):
        Tokenizer.load(folder.path)


def test_text_must_be_unicode(folder: Any) -> None:
    tokenizer = Tokenizer.load(folder.tokenizer().path)
    with pytest.raises(TokenizerError, match=r"U\+D800"):
        tokenizer.encode("a\ud800")


BROKEN = {
    "tokenizer.json": [
        "",
        "{",
        "[]",
        "{}",
        '{"model": {}}',
        '{"model": {"type": "BPE", "vocab": {}, "merges": [["a", "b"]]}}',
    ],
    "tokenizer.model": ["", "junk", "IQ== 0\nIg== 1\n", "\n\x04"],
    "tokenizer.bin": ["", "abc", "\x07\0\0\0", "\x07\0\0\0\0\0\0\0\xff\xff\xff\x7f"],
    "vocab.json": ["", "[]", '{"a": "x"}', '{"a": 0, "b": 0}', '{"a": -1}', "{}"],
    "merges.txt": ["a b c", "a", "x y"],
    "tokenizer_config.json": ["", "[1]", "{", 200000 * "[", '{"bos_token": 5}', '{"added_tokens_decoder": [1]}'],
    "added_tokens.json": ['{"<a>": "x"}', '{"<a>": -3}'],
    "chat_template.json": ['{"chat_template": 5}', '{"chat_template": [5]}'],
    "chat_template.jinja": ["\udcff"],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in BROKEN.items() for text in texts])
def test_a_malformed_file_is_named(folder: Any, name: str, text: str) -> None:
    if name in ("vocab.json", "merges.txt"):
        folder.json("vocab.json", {"a": 0}).text("merges.txt", "#version\n")
    elif name not in ("tokenizer.model", "tokenizer.bin"):
        folder.tokenizer()
    (folder.path / name).write_bytes(
        text.encode("latin-1" if max(text, default="a") < "\u0100" else "utf-8", "surrogateescape")
    )
    with pytest.raises(TokenizerError, match=name) as caught:
        Tokenizer.load(folder.path)
    assert len(str(caught.value)) < 700


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)
    with pytest.raises(TokenizerError, match="no such"):
        Tokenizer.load(tmp_path / "missing")
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(TokenizerError, match="ends in"):
        Tokenizer.load(tmp_path / "x.txt")


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 6226), at=st.integers(0, 6220), value=st.sampled_from([0, 2**31 - 1, -1, -(2**31), 300]))
def test_a_damaged_llama2c_file_is_refused_or_still_reads(
    data: Path, tmp_path_factory: pytest.TempPathFactory, cut: int, at: int, value: int
) -> None:
    whole = (data / "models/stories260K/tok512.bin").read_bytes()
    path = tmp_path_factory.getbasetemp() / "tokenizer.bin"
    for damaged in (whole[:cut], whole[:at] + struct.pack("<i", value) + whole[at + 4 :]):
        path.write_bytes(damaged)
        with contextlib.suppress(TokenizerError):
            tokenizer = Tokenizer.load(path)
            assert tokenizer.decode(tokenizer.encode("Once upon")) == "Once upon"


def test_a_key_that_only_ends_like_a_tokens_name_is_left_alone(folder: Any) -> None:
    """Any number or list under a key ending in _token made the folder unreadable."""
    names = {"bos_token": "<s>", "num_image_token": 256, "skipped_token": ["<s>"], "image_token": {"content": "</s>"}}
    folder.tokenizer().json("tokenizer_config.json", names)
    assert Tokenizer.load(folder.path).bos_id == BOS
    folder.json("tokenizer_config.json", {"bos_token": 256})
    with pytest.raises(TokenizerError, match="bos_token must be a string"):
        Tokenizer.load(folder.path)


def test_a_vocabulary_with_holes_still_names_its_last_token(folder: Any) -> None:
    """Ids past the number of tokens had no token, though encoding gave them."""
    tokenizer = json.loads((folder.tokenizer().path / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["zz"] = 500
    folder.json("tokenizer.json", tokenizer)
    assert Tokenizer.load(folder.path).id_to_token(500) == "zz"


def test_a_llama2c_file_without_a_space_adds_none(tmp_path: Path) -> None:
    """The added space became a byte, which decoding takes for the text's own."""
    pieces = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(f"<0x{byte:02X}>".encode() for byte in range(256)), b"a", b"b"]
    entries = b"".join(struct.pack("<fi", 0.0, len(piece)) + piece for piece in pieces)
    (tmp_path / "tokenizer.bin").write_bytes(struct.pack("<i", 6) + entries)
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.encode("ab", bos=False) == [259, 260]
    assert tokenizer.decode(tokenizer.encode("b a")) == "b a"


@pytest.mark.parametrize(
    "config",
    [
        {"eos_token": "<|im_end|>"},
        {"extra_special_tokens": {"turn_token": "<|im_end|>"}},
        {"added_tokens_decoder": {"259": {"content": "<|im_end|>", "special": True}}},
    ],
)
def test_an_added_token_that_the_folder_names_is_special(folder: Any, config: dict[str, Any]) -> None:
    """Finetunes end turns with a token that tokenizer.json adds as an ordinary one; it stood in every answer."""
    entry = dict.fromkeys(("single_word", "lstrip", "normalized", "special"), False)
    tokenizer = json.loads((folder.tokenizer().path / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append({"id": 259, "content": "<|im_end|>", "rstrip": True, **entry})
    folder.json("tokenizer.json", tokenizer).json("tokenizer_config.json", config)
    loaded = Tokenizer.load(folder.path)
    ids = loaded.encode("a<|im_end|>  b")
    assert (len(ids), ids[1]) == (3, 259)
    assert loaded.decode(ids) == "ab"
    assert loaded.decode(ids, skip_special=False) == "a<|im_end|>b"
    assert len(loaded.encode("<|im_end|>", parse_special=False)) == 10


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model", "tokenizer.bin", "vocab.json"])
def test_what_git_leaves_without_lfs_is_named_as_that(tmp_path: Path, name: str) -> None:
    """It was called a file that the tokenizers library can't read, expected value at line 1."""
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1234\n")
    with pytest.raises(TokenizerError, match=rf"{name}: a Git LFS pointer .*'git lfs pull'"):
        Tokenizer.load(tmp_path)

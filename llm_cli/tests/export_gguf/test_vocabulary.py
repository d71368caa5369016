"""Tokenizers as GGUF has them: the rules that are told apart, every token with its kind, and llama.cpp's own ids."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
from tokenizers import Regex, models, normalizers, pre_tokenizers

from llm_cli import models as folders
from llm_cli.gguf.byte_level import byte_level_rules
from llm_cli.gguf.pieces import json_rules, sentencepiece_rules
from llm_cli.gguf.rules import Kind
from llm_cli.gguf.vocabulary import Vocabulary, read_vocabulary
from llm_tokenizer import Tokenizer

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
ENDS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + ENDS
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
WORD = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|" + ENDS
TEKKEN = rf"{WORD}*{LOWER}+|{WORD}+{LOWER}*|\p{{N}}|{REST}"
GPT4O = rf"{WORD}*{LOWER}+{CONTRACTIONS}?|{WORD}+{LOWER}*{CONTRACTIONS}?|\p{{N}}{{1,3}}|{REST}"
DEEPSEEK3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^"""
    "\r\n"
    r"""\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+["""
    "\r\n"
    r"""]*|\s*["""
    "\r\n"
    r"""]+|\s+(?!\S)|\s+"""
)


def split(*patterns: str, invert: bool = False) -> list[dict[str, Any]]:
    behavior = "Removed" if invert else "Isolated"
    return [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert} for pattern in patterns
    ]


def byte_level(*, regex: bool = False, **more: Any) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "use_regex": regex} | more


def described(steps: list[dict[str, Any]], **model: Any) -> dict[str, Any]:
    """A tokenizer.json that cuts text in these steps."""
    return {
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]], **model},
    }


@pytest.mark.parametrize(
    ("name", "steps", "ignore_merges"),
    [
        ("gpt-2", [byte_level(regex=True)], False),
        ("gpt-2", [{"type": "ByteLevel", "add_prefix_space": False}], False),  # as files before 2022 have it
        ("smollm", [{"type": "Digits", "individual_digits": True}, byte_level(regex=True)], False),
        ("llama-bpe", [*split(LLAMA3), byte_level()], True),
        ("dbrx", [*split(LLAMA3, invert=True), byte_level()], False),
        ("qwen2", [*split(QWEN2), byte_level()], False),
        ("tekken", [*split(TEKKEN), byte_level()], True),
        ("gpt-4o", [*split(GPT4O), byte_level()], False),
        ("deepseek-v3", [*split(r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3), byte_level()], False),
    ],
)
def test_the_way_to_cut_text_is_recognised_by_its_rules(
    name: str, steps: list[dict[str, Any]], ignore_merges: bool
) -> None:
    rules = byte_level_rules(described(steps, ignore_merges=ignore_merges), None)
    assert (rules.model, rules.pre, rules.merges) == ("gpt2", name, ("a b",))


@pytest.mark.parametrize(
    "steps",
    [
        [byte_level()],
        [byte_level(regex=True, add_prefix_space=True)],
        [*split(r"\p{L}+"), byte_level()],
        [*split(LLAMA3), byte_level(regex=True)],
        [{"type": "Whitespace"}, byte_level()],
    ],
)
def test_an_unknown_way_to_cut_text_is_refused_unless_it_is_named(steps: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match=r"no known name of llama\.cpp's .* with --pre"):
        byte_level_rules(described(steps), None)
    assert byte_level_rules(described(steps), "viking").pre == "viking"


def test_merging_words_that_are_tokens_makes_another_rule() -> None:
    with pytest.raises(ValueError, match="--pre"):
        byte_level_rules(described([byte_level(regex=True)], ignore_merges=True), None)


def test_a_form_of_unicode_that_llama_cpp_does_not_make_is_told() -> None:
    data = described([byte_level(regex=True)]) | {"normalizer": {"type": "NFC"}}
    assert "normalises text (NFC), llama.cpp does not" in byte_level_rules(data, None).notes[0]


def vocabulary(path: Path, *, more: int = 0, **options: Any) -> Vocabulary:
    tokenizer = Tokenizer.load(path)
    config = options.pop("config", {})
    folder = path if path.is_dir() else None
    return read_vocabulary(tokenizer, config, rows=tokenizer.vocab_size + more, folder=folder, **options)


def test_the_model_that_ships_has_its_tokens_kinds_and_ids() -> None:
    found = vocabulary(folders.demo_folder(), more=3)
    assert (found.rules.model, found.rules.pre, found.scores) == ("gpt2", "smollm", None)
    assert found.tokens[:2] == ("<|bos|>", "<|eos|>")
    assert found.tokens[2048:] == ("[PAD2048]", "[PAD2049]", "[PAD2050]")
    assert found.kinds[:7] == (Kind.CONTROL,) * 6 + (Kind.NORMAL,)
    assert found.kinds[2048:] == (Kind.UNUSED,) * 3
    assert found.ids == {"bos": 0, "eos": 1, "eot": 5, "padding": 1}
    assert (found.begins, found.ends) == (True, False)


def test_more_tokens_than_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="2,048 tokens and the model 2,047"):
        vocabulary(folders.demo_folder(), more=-1)


def save(tokenizer: tokenizers.Tokenizer, folder: Path, **config: Any) -> Path:
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def bytes_bpe(*tokens: str) -> tokenizers.Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(models.BPE({token: i for i, token in enumerate([*alphabet, *tokens])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def test_added_tokens_are_control_or_the_users_own(tmp_path: Path) -> None:
    tokenizer = bytes_bpe("<end>")
    tokenizer.add_tokens(["   ", "<tool>"])
    tokenizer.add_special_tokens(["<pad>"])
    found = vocabulary(save(tokenizer, tmp_path / "own", eos_token="<end>", pad_token="<pad>"))
    kinds = dict(zip(found.tokens, found.kinds, strict=True))
    assert kinds["<end>"] == kinds["<pad>"] == Kind.CONTROL
    assert kinds["   "] == kinds["<tool>"] == Kind.USER_DEFINED
    assert kinds["a"] == Kind.NORMAL


def test_what_the_tokenizer_does_not_say_config_json_may(tmp_path: Path) -> None:
    """Regression: without these keys llama.cpp takes token 11 for BOS and EOS, and stops at an ordinary word."""
    folder = save(bytes_bpe("<end>"), tmp_path / "bare")
    with pytest.raises(ValueError, match="some word for it; name eos_token"):
        vocabulary(folder)
    found = vocabulary(folder, config={"eos_token_id": [256, 10**9], "bos_token_id": None})
    assert found.ids == {"bos": 256, "eos": 256}


def test_two_tokens_before_a_text_are_refused(tmp_path: Path) -> None:
    tokenizer = bytes_bpe("<a>", "<b>")
    pair = [("<a>", 256), ("<b>", 257)]
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="<a> <b> $A", special_tokens=pair)
    with pytest.raises(ValueError, match="one token at most around a text, this tokenizer 2 and 0"):
        vocabulary(save(tokenizer, tmp_path / "two", eos_token="<b>"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Trains a sentencepiece model on a few sentences."""
    sentences = ["the cat sat on the mat and the other cat sat there", "a rat ran past the hat", "this and that"] * 30

    def train(name: str, **options: Any) -> Path:
        folder = tmp_path_factory.mktemp("pieces") / name
        folder.mkdir()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_prefix=str(folder / "tokenizer"),
            hard_vocab_limit=False,
            minloglevel=2,
            **options,
        )
        return folder

    return train


BPE: dict[str, Any] = {"model_type": "bpe", "vocab_size": 330, "byte_fallback": True}
PLAIN: dict[str, Any] = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}


def test_pieces_keep_their_scores_and_kinds(trained: Callable[..., Path]) -> None:
    folder = trained("own", user_defined_symbols=["▁▁", "<sep>"], **BPE, **PLAIN)
    found = vocabulary(folder, more=2)
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    size = model.vocab_size()
    assert found.rules.model == "llama"
    assert found.rules.notes[1:] == ()
    assert found.tokens[:3] == ("<unk>", "<s>", "</s>")
    assert found.kinds[:3] == (2, 3, 3)
    assert found.tokens[3:5] == ("  ", "<sep>")
    assert found.kinds[3:5] == (4, 4)
    assert found.kinds[5:261] == (Kind.BYTE,) * 256
    assert found.scores is not None
    assert found.scores[:size] == [struct.unpack("f", struct.pack("f", model.get_score(i)))[0] for i in range(size)]
    assert found.rules.settings == {"add_space_prefix": True}
    assert found.ids == {"bos": 1, "eos": 2, "unknown": 0}
    assert (found.begins, found.ends) == (True, False)


def test_what_sentencepiece_does_to_text_and_llama_cpp_does_not_is_told(trained: Callable[..., Path]) -> None:
    notes = " ".join(vocabulary(trained("other", **BPE)).rules.notes)
    assert "one space of several" in notes
    assert "by its own table" in notes


def test_pieces_without_bytes_are_refused(trained: Callable[..., Path]) -> None:
    """Regression: llama.cpp ends the whole process at the first letter that such a vocabulary lacks."""
    with pytest.raises(ValueError, match="wants a BPE of pieces to have tokens of single bytes"):
        vocabulary(trained("bare", model_type="bpe", vocab_size=60))
    with pytest.raises(ValueError, match="no Unigram models that fall back to bytes"):
        vocabulary(trained("unibyte", model_type="unigram", vocab_size=300, byte_fallback=True))
    with pytest.raises(ValueError, match="Unigram and BPE alone, this model is of its kind 4"):
        vocabulary(trained("chars", model_type="char", vocab_size=60))


def test_a_unigram_model_comes_with_what_it_does_to_text(trained: Callable[..., Path]) -> None:
    found = vocabulary(trained("uni", model_type="unigram", vocab_size=60))
    assert found.rules.model == "t5"
    assert found.rules.notes[1:] == ()
    assert found.rules.settings["remove_extra_whitespaces"] is True
    assert len(bytes(found.rules.settings["precompiled_charsmap"])) > 100_000


def test_a_unigram_tokenizer_json_is_one_too() -> None:
    tokenizer = tokenizers.Tokenizer(models.Unigram([("<unk>", 0.0), ("▁a", -1.0), ("b", -2.5)], unk_id=0))
    tokenizer.normalizer = normalizers.Replace(Regex(" {2,}"), " ")
    rules = json_rules(json.loads(tokenizer.to_str()))
    assert (rules.model, rules.scores) == ("t5", {0: 0.0, 1: -1.0, 2: -2.5})
    assert rules.kinds == {0: Kind.UNKNOWN}
    assert rules.settings == {"remove_extra_whitespaces": True}


def pieces_json(vocab: list[str], merges: list[tuple[str, str]], **more: Any) -> dict[str, Any]:
    tokens = ["<unk>", *(f"<0x{i:02X}>" for i in range(256)), *vocab]
    model = {"type": "BPE", "vocab": {token: i for i, token in enumerate(tokens)}, "merges": merges}
    return {"model": {**model, "unk_token": "<unk>", "byte_fallback": True, **more}}


def test_scores_follow_the_order_of_merges() -> None:
    rules = json_rules(pieces_json(["a", "b", "c", "ab", "abc"], [("a", "b"), ("ab", "c")]))
    assert rules.scores is not None
    assert [rules.scores[i] for i in range(257, 262)] == [0, 0, 0, 0, -1]
    assert rules.kinds[0] == Kind.UNKNOWN
    assert rules.kinds[1] == Kind.BYTE


@pytest.mark.parametrize(
    ("vocab", "merges"),
    [
        # "a" + "bc" makes a token as well, which llama.cpp would join
        (["a", "b", "c", "ab", "bc", "abc"], [("a", "b"), ("b", "c"), ("ab", "c")]),
        # the two ways to "abc" have other merges between them
        (["a", "b", "c", "ab", "bc", "abc"], [("a", "b"), ("ab", "c"), ("b", "c"), ("a", "bc")]),
    ],
)
def test_merges_that_go_by_more_than_their_result_are_refused(vocab: list[str], merges: list[tuple[str, str]]) -> None:
    with pytest.raises(ValueError, match=r"put the tokenizer\.model beside it"):
        json_rules(pieces_json(vocab, merges))


def test_other_algorithms_are_refused() -> None:
    with pytest.raises(ValueError, match="BPE and Unigram tokenizers, this one is a WordPiece"):
        json_rules({"model": {"type": "WordPiece", "vocab": {}}})


def test_a_name_of_a_cut_means_nothing_to_pieces(trained: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="isn't byte-level, so --pre qwen2 has no meaning"):
        vocabulary(trained("pre", **BPE), pre="qwen2")


def test_the_scores_beside_a_tokenizer_json_are_sentencepieces_own(test_data: Path, tmp_path: Path) -> None:
    """Where both are there, the tokenizer.json is what tokenizes and the tokenizer.model knows the scores."""
    source = test_data / "tokenizers" / "mistral-v1" / "tokenizer.model"
    pieces, rules = sentencepiece_rules(source.read_bytes())
    data = pieces_json([], [])
    data["model"]["vocab"] = {piece: i for i, piece in enumerate(pieces)}
    folder = tmp_path / "both"
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(source.read_bytes())
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], **data}))
    found = vocabulary(folder, config={"eos_token_id": 2})
    assert found.rules.scores == rules.scores
    assert found.rules.scores != json_rules(data).scores


def cases(test_data: Path) -> Iterator[str]:
    yield from (
        (test_data / "tokenizer_cases" / "ggml-vocab-phi-3.gguf.inp").read_text().split("\n__ggml_vocab_test__\n")[:-1]
    )
    yield from (
        "Zürich ñandú 東京 मानक हिन्दी العربية",
        "  def f(x):\n\treturn x**2\n\n\n",
        "1,234,567 3.14",
        "I'm you'RE",
    )


REAL = {
    "falcon": ("falcon", {"eos_token": "<|endoftext|>"}),
    "gpt2": ("gpt-2", {}),
    "mistral-v1": ("default", {}),
    "neox": ("gpt-2", {"eos_token": "<|endoftext|>"}),
    "phi2": ("gpt-2", {}),
    "phi3": ("default", {}),
    "qwen2": ("qwen2", {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_llama_cpp_tokenizes_alike(
    name: str, test_data: Path, make: Any, export: Any, llama_cpp: Any, tmp_path: Path
) -> None:
    """Text in many scripts, runs of spaces and digits, and special tokens in it."""
    pre, names = REAL[name]
    folder = tmp_path / name
    folder.mkdir()
    for file in (test_data / "tokenizers" / name).iterdir():
        if not names or file.name != "tokenizer_config.json":
            (folder / file.name).symlink_to(file)
    if names:
        (folder / "tokenizer_config.json").write_text(json.dumps(names))
    ours = Tokenizer.load(folder)
    file, _ = export(make(shape(-(-ours.vocab_size // 32) * 32), tmp_path / "model"), "f16", tokenizer=folder)
    theirs = llama_cpp.Llama(str(file), vocab_only=True, verbose=False)
    assert theirs.metadata["tokenizer.ggml.pre"] == pre
    special = [ours.id_to_token(i) for i in range(ours.vocab_size) if ours.decode([i]) == ""]
    ends = [f"{token}Hello there{token}\n" for token in special[:4] if name != "mistral-v1"]  # see the next test
    for text in [*cases(test_data), *ends]:
        wanted = ours.encode(text, bos=None, eos=None)
        assert theirs.tokenize(text.encode(), add_bos=True, special=True) == wanted, text
    assert (theirs.token_bos(), theirs.token_eos()) == (ours.bos_id or ours.eos_id, ours.eos_id)
    theirs.close()


def shape(rows: int) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "vocab_size": rows,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    }


@pytest.mark.slow
def test_llama_cpp_puts_a_space_behind_special_tokens(
    test_data: Path, make: Any, export: Any, llama_cpp: Any, tmp_path: Path
) -> None:
    """So it does for every tokenizer that puts one before a text; where ours doesn't, as transformers, it is told."""
    path = test_data / "tokenizers" / "mistral-v1" / "tokenizer.model"
    file, plan = export(make(shape(32_000), tmp_path / "model"), "f16", tokenizer=path)
    assert "a space before text that follows a special token" in plan.notes[0]
    theirs = llama_cpp.Llama(str(file), vocab_only=True, verbose=False)
    ours = Tokenizer.load(path)
    assert theirs.tokenize(b"</s>Hello", special=True)[1:] == ours.encode("</s> Hello", bos=False)
    assert ours.encode("</s>Hello", bos=False) != ours.encode("</s> Hello", bos=False)
    theirs.close()


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"user_defined_symbols": ["<sep>"], **PLAIN}])
def test_llama_cpp_tokenizes_alike_with_a_unigram_model(
    options: dict[str, Any], trained: Callable[..., Path], make: Any, export: Any, llama_cpp: Any, tmp_path: Path
) -> None:
    folder = trained("uni", model_type="unigram", vocab_size=60, **options)
    ours = Tokenizer.load(folder)
    file, _ = export(make(shape(96), tmp_path / "model"), "f32", tokenizer=folder)
    theirs = llama_cpp.Llama(str(file), vocab_only=True, verbose=False)
    for text in ("the cat sat  on a hat", " and that", "xylophone?", "the<sep>"):
        assert theirs.tokenize(text.encode(), add_bos=True, special=True) == ours.encode(text, bos=True), text
    theirs.close()

"""Real tokenizers: the expected ids of 46 hard strings each, and the libraries that the models were trained with."""

import json
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_tokenizer import Tokenizer

CASES = {"falcon": "falcon", "gpt-2": "gpt2", "mpt": "neox", "phi-3": "phi3", "qwen2": "qwen2"}
_loaded: dict[Path, Tokenizer] = {}


def load(path: Path) -> Tokenizer:
    """The tokenizer, loaded once for all tests of this file."""
    if path not in _loaded:
        _loaded[path] = Tokenizer.load(path)
    return _loaded[path]


def cases(data: Path, name: str) -> list[tuple[str, list[int]]]:
    """Input strings and the ids that the reference gives."""
    stem = data / "tokenizer_cases" / f"ggml-vocab-{name}.gguf"
    texts = stem.with_suffix(".gguf.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")[:-1]
    lines = stem.with_suffix(".gguf.out").read_text().split("\n")
    return [(text, [int(i) for i in line.split()]) for text, line in zip(texts, lines, strict=False)]


@pytest.mark.parametrize("name", CASES)
def test_all_46_cases_give_the_reference_ids_and_come_back(data: Path, name: str) -> None:
    tokenizer = load(data / "tokenizers" / CASES[name])
    found = cases(data, name)
    assert len(found) == 46
    for text, ids in found:
        assert tokenizer.encode(text, bos=False) == ids, text
        assert tokenizer.decode(ids) == text
        stream = tokenizer.stream()
        assert "".join(map(stream.push, ids)) + stream.finish() == text


def test_phi2_joins_runs_of_spaces_that_gpt2_does_not(data: Path) -> None:
    gpt2, phi2 = load(data / "tokenizers/gpt2"), load(data / "tokenizers/phi2")
    text = "a" + 8 * " " + "b"
    assert len(phi2.encode(text)) < len(gpt2.encode(text, bos=False))
    assert phi2.decode(phi2.encode(text)) == text
    assert phi2.encode("no runs here") == gpt2.encode("no runs here", bos=False)


TEXT = st.text(
    st.one_of(
        st.characters(codec="utf-8"),
        st.sampled_from(" \n\t\u00a0\u3000e\u0301é😀👩‍👩‍👧漢字▁<s></s>\u200dกำ"),
        st.sampled_from("the and\n  "),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(text=TEXT)
def test_mistral_equals_sentencepiece(data: Path, text: str) -> None:
    path = data / "tokenizers/mistral-v1/tokenizer.model"
    reference = sentencepiece.SentencePieceProcessor(model_file=str(path))
    tokenizer = load(path)
    assert tokenizer.encode(text, bos=False, parse_special=False) == reference.encode(text)
    assert tokenizer.encode(text, bos=True, eos=True, parse_special=False) == [1, *reference.encode(text), 2]


@settings(max_examples=150, deadline=None)
@given(ids=st.lists(st.one_of(st.integers(3, 31999), st.integers(3, 258), st.sampled_from([259, 28705])), max_size=30))
def test_sentencepiece_decoding_of_any_ids(data: Path, ids: list[int]) -> None:
    for name in ("tokenizers/mistral-v1/tokenizer.model", "models/stories260K/tok512.model"):
        path = data / name
        reference = sentencepiece.SentencePieceProcessor(model_file=str(path))
        known = [1, *(i for i in ids if i < reference.vocab_size()), 2]
        assert load(path).decode(known) == reference.decode(known)


@settings(max_examples=300, deadline=None)
@given(text=TEXT)
def test_llama2c_file_gives_the_ids_of_its_sentencepiece_model(data: Path, text: str) -> None:
    model, binary = (load(data / "models/stories260K" / name) for name in ("tok512.model", "tok512.bin"))
    for special in (True, False):
        ids = model.encode(text, parse_special=special)
        assert binary.encode(text, parse_special=special) == ids
        assert binary.decode(ids) == model.decode(ids)
    assert binary.vocab_size == model.vocab_size == 512


def test_llama2c_file_on_a_long_text(data: Path) -> None:
    text = (data / "text" / "tinyshakespeare.txt").read_text()[:30000]
    model, binary = (load(data / "models/stories260K" / name) for name in ("tok512.model", "tok512.bin"))
    assert binary.encode(text) == model.encode(text)


def test_stories_continue_as_recorded(data: Path) -> None:
    ids = json.loads((data / "models/stories260K/greedy.json").read_text())["greedy_ids"]
    text = load(data / "models/stories260K/tok512.bin").decode([1, *ids])
    assert text.startswith("Once upon a time, there was")
    assert text == load(data / "models/stories260K/tok512.model").decode([1, *ids])


def test_end_ids_come_from_generation_config_and_eos_token(data: Path) -> None:
    qwen2 = load(data / "tokenizers/qwen2")
    assert (qwen2.end_ids, qwen2.eos_id, qwen2.bos_id, qwen2.pad_id) == ((151645, 151643), 151645, None, 151643)
    assert qwen2.encode("<|im_start|>hi")[0] == 151644
    assert 151644 not in qwen2.encode("<|im_start|>hi", parse_special=False)
    phi3 = load(data / "tokenizers/phi3")
    assert phi3.encode("hi")[0] == phi3.bos_id == 1
    assert phi3.end_ids == (32000,)


@pytest.mark.parametrize("name", ["falcon", "neox", "phi2", "phi3", "qwen2"])
@settings(max_examples=60, deadline=None)
@given(text=TEXT)
def test_equals_transformers(data: Path, name: str, text: str) -> None:
    transformers = pytest.importorskip("transformers")
    folder = data / "tokenizers" / name
    key = Path(name)
    if key not in _reference:
        _reference[key] = (
            transformers.AutoTokenizer.from_pretrained(folder)
            if name == "qwen2"
            else transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
        )
    reference, tokenizer = _reference[key], load(folder)
    ids = reference.encode(text, add_special_tokens=False)
    assert tokenizer.encode(text, bos=False) == ids
    assert tokenizer.decode(ids, skip_special=False) == reference.decode(ids, clean_up_tokenization_spaces=False)
    assert tokenizer.decode(ids) == reference.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


_reference: dict = {}


@settings(max_examples=100, deadline=None)
@given(text=TEXT)
def test_mistral_with_specials_equals_transformers(data: Path, text: str) -> None:
    """But for a leading space, which sentencepiece (and so the model's training) keeps and transformers 5 swallows."""
    text = text.lstrip(" ▁")
    transformers = pytest.importorskip("transformers")
    from transformers.tokenization_utils_sentencepiece import SentencePieceExtractor

    path = data / "tokenizers/mistral-v1/tokenizer.model"
    if path not in _reference:
        vocab, _, merges = SentencePieceExtractor(str(path)).extract()
        _reference[path] = transformers.LlamaTokenizer(vocab=vocab, merges=merges)
    reference = _reference[path]
    ids = reference.encode(text, add_special_tokens=False)
    assert load(path).encode(text, bos=False) == ids
    for skip in (True, False):
        assert load(path).decode(ids, skip_special=skip) == reference.decode(ids, skip_special_tokens=skip)


def test_a_leading_space_is_kept_as_sentencepiece_keeps_it(data: Path) -> None:
    tokenizer = load(data / "tokenizers/mistral-v1/tokenizer.model")
    assert tokenizer.encode(" Hey", bos=False) == [28705, *tokenizer.encode("Hey", bos=False)]
    assert tokenizer.decode(tokenizer.encode(" Hey")) == " Hey"

"""Perplexity and divergence through `LLM`: those of transformers' logits, and of the definition."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from llm_cli import LLM, demo_folder, perplexity
from llm_cli.belonging import TokenizerWarning
from llm_cli.evaluation import describe_weights, weight_bytes
from llm_cli.measured_text import prepare

TEXT = (demo_folder() / "CARD.md").read_text()  # stories and tables: some easy, some hard
FP32: dict[str, Any] = {"accelerator": "cpu", "precision": "32-true"}


@pytest.fixture(scope="module")
def demo() -> LLM:
    llm = LLM.load(distribute=None)
    llm.distribute(**FP32)
    return llm


@pytest.fixture(scope="module")
def int4() -> LLM:
    llm = LLM.load(distribute=None)
    llm.distribute(**FP32, quantize="int4")
    return llm


def losses_by_hand(model: Any, ids: list[int], window: int, stride: int, bos: list[int]) -> torch.Tensor:
    """Windows as docs/evaluation.md has them, through any model that gives logits of whole rows; float64."""
    found, done = [], 0 if bos else 1
    for begin in range(done, len(ids), stride):
        end = min(begin + window, len(ids))
        row = bos + ids[begin : end - 1] if bos else ids[begin - 1 : end - 1]
        with torch.no_grad():
            logits = model(torch.tensor([row]))[0].double()
        losses = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[begin:end]), reduction="none")
        found.append(losses[done - begin :])
        done = end
        if end == len(ids):
            break
    return torch.cat(found)


@pytest.mark.parametrize(("window", "stride", "bos"), [(None, None, None), (300, 100, True), (256, 256, False)])
def test_perplexity_is_that_of_transformers(demo: LLM, window: int | None, stride: int | None, bos: bool | None):
    theirs = AutoModelForCausalLM.from_pretrained(demo_folder(), dtype=torch.float32)
    ids = demo.tokenizer.encode(TEXT, bos=False)
    assert len(ids) > 1024  # several windows
    row = [] if bos is False else [demo.tokenizer.bos_id]
    losses = losses_by_hand(lambda x: theirs(x).logits, ids, window or 1024, stride or window or 1024, row)
    found = perplexity(demo, TEXT, window=window, stride=stride, bos=bos)
    assert found.perplexity.tokens == len(losses) == len(ids) - (bos is False)
    assert found.perplexity.perplexity == pytest.approx(losses.mean().exp().item(), rel=1e-5)
    assert found.perplexity.standard_error == pytest.approx(losses.std().item() / len(losses) ** 0.5, rel=1e-5)
    if row:
        bits = losses.sum() / math.log(2) / len(TEXT.encode())
        assert found.perplexity.bits_per_byte == pytest.approx(bits.item(), rel=1e-5)


def test_divergence_of_a_quantized_model_by_definition(demo: LLM, int4: LLM):
    found = perplexity(int4, TEXT, against=demo, max_tokens=500).divergence
    assert found is not None
    ids = demo.encode(TEXT, raw=True)[:501]  # BOS before 500 tokens
    with torch.no_grad():
        p, q = (llm.forward(torch.tensor([ids[:-1]]))[0].double().log_softmax(-1) for llm in (demo, int4))
    kl = (p.exp() * (p - q)).sum(-1)
    assert found.mean == pytest.approx(kl.mean().item(), rel=1e-4)
    assert found.max == pytest.approx(kl.max().item(), rel=1e-4)
    assert found.same_top == pytest.approx((p.argmax(-1) == q.argmax(-1)).double().mean().item())
    assert found.nll_change == pytest.approx(found.model.nll - found.base.nll, abs=1e-6)


def test_a_model_does_not_diverge_from_itself_and_fewer_bits_diverge_more(demo: LLM, int4: LLM):
    itself = perplexity(demo, TEXT, against=demo, max_tokens=300)
    assert itself.divergence is not None
    assert (itself.divergence.mean, itself.divergence.max, itself.divergence.same_top) == (0, 0, 1)
    int8 = LLM.load(distribute=None)
    int8.distribute(**FP32, quantize="int8")
    few, many = (perplexity(llm, TEXT, against=demo) for llm in (int4, int8))
    assert few.divergence is not None
    assert many.divergence is not None
    assert few.divergence.mean > 20 * many.divergence.mean > 0
    assert few.weight_bytes < many.weight_bytes < weight_bytes(demo.model)
    assert (few.weights, many.weights, itself.weights) == ("int4 g64", "int8", "fp32")
    assert few.base is not None
    assert few.base.weights == "fp32"
    assert few.base.perplexity == few.divergence.base == perplexity(demo, TEXT).perplexity


def test_weights_are_counted_once(demo: LLM):
    """The demo's head is its embedding."""
    stored = (demo_folder() / "model.safetensors").stat().st_size
    assert weight_bytes(demo.model) == pytest.approx(2 * stored, rel=0.01)
    assert describe_weights(demo.model, "other") == "other"


def test_batches_change_nothing(demo: LLM):
    one = perplexity(demo, TEXT, window=128, stride=64)
    several = perplexity(demo, TEXT, window=128, stride=64, batch_size=5)
    assert several.perplexity.nll == pytest.approx(one.perplexity.nll, rel=1e-6)


def test_a_trained_model_foretells_a_story_better_than_shakespeare(stories: Path, test_data: Path):
    """stories260K's tokenizer is of sentencepiece; a story counts fewer bits a byte than a play."""
    llm = LLM.load(stories, distribute=None)
    llm.distribute(**FP32)
    plays = (test_data / "text" / "tinyshakespeare.txt").read_text()
    story = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park with her dog. "
    simple, hard = (perplexity(llm, text, max_tokens=400).perplexity for text in (story, plays))
    assert simple.bits_per_byte is not None
    assert hard.bits_per_byte is not None
    assert simple.bits_per_byte < 1 < hard.bits_per_byte


def test_a_text_that_begins_with_bos_has_one(demo: LLM):
    ids = demo.tokenizer.encode("Once upon a time", bos=False)
    bos = [demo.tokenizer.bos_id]
    assert prepare(demo, "<|bos|>Once upon a time").ids == ids
    assert prepare(demo, bos + ids) == prepare(demo, ids)
    assert prepare(demo, bos + ids, bos=False).ids == bos + ids


def test_bytes_of_a_part_of_a_text_are_those_of_its_tokens(demo: LLM):
    text = "Ünder thé bridge, many times. " * 9
    ids = demo.tokenizer.encode(text, bos=False)
    whole, part = prepare(demo, text), prepare(demo, text, max_tokens=len(ids) // 3)
    assert whole.num_bytes == len(text.encode()) == prepare(demo, ids).num_bytes
    assert part.num_bytes == len(demo.tokenizer.decode(ids[: len(ids) // 3]).encode())
    first = len(demo.tokenizer.decode(ids[:1]).encode())
    assert prepare(demo, "A cat. " * 5, bos=False).num_bytes == 35 - 1
    assert first == 3  # half of a letter decodes to the character for broken ones


def test_ids_alone_need_no_tokenizer(make_checkpoint):
    llm = LLM.load(make_checkpoint(tokenizer=False))
    found = perplexity(llm, [1, 2, 3, 4], window=2)
    assert found.perplexity.tokens == 3
    assert found.perplexity.bits_per_byte is None
    with pytest.raises(ValueError, match="no tokenizer that names the id of BOS"):
        perplexity(llm, [1, 2, 3], bos=True)
    with pytest.raises(ValueError, match="no tokenizer"):
        perplexity(llm, "text")


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "a text of 0 tokens has none that another one stands before"),
        ([5], {"bos": False}, "a text of 1 tokens has none that another"),
        ("Hello there", {"window": 4096}, "window=4096 is more than the context of 1024 tokens"),
        ("Hello there", {"window": 0}, "window must be 1 or more"),
        ("Hello there", {"stride": 2000}, "stride=2000 is more than window=1024"),
        ("Hello there", {"window": 8, "stride": 9}, "stride=9 is more than window=8"),
        ("Hello there", {"max_tokens": -1}, "max_tokens must be 1 or more"),
        ("Hello there", {"batch_size": 0}, "batch_size must be 1 or more"),
        ([3, 2048], {}, r"ids hold one that this model doesn't know \(2048; it knows 0 to 2047\)"),
    ],
)
def test_what_cannot_be_measured(demo: LLM, text: Any, options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        perplexity(demo, text, **options)


def test_models_of_other_tokenizers_are_not_compared(demo: LLM, llm: LLM, make_checkpoint):
    with pytest.raises(ValueError, match="knows 2,048 ids and the one to compare with 264"):
        perplexity(demo, TEXT, against=llm)
    with pytest.warns(TokenizerWarning):
        other = LLM.load(make_checkpoint(vocab_size=2048), distribute=None)
    with pytest.raises(ValueError, match="makes other ids of this text"):
        perplexity(demo, TEXT, against=other)

"""What was trained is what the finished folder serves: the template of the style and the token that ends a turn."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers
from transformers import AutoTokenizer

from llm_finetune import JSON, Lora, Train, finetune, load_data, with_lora
from llm_tokenizer import Tokenizer

OWN = "{% for message in messages %}{{ '<' ~ message['role'] ~ '>' ~ message['content'] }}{% endfor %}"
ASKED = [{"role": "user", "content": "Count to two."}]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A tokenizer of bytes whose folder has a template of its own; <s> 256, </s> 257, <|im_end|> 258."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<s>", "</s>", "<|im_end|>"])
    made.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(OWN)
    (folder / "generation_config.json").write_text('{"eos_token_id": 257, "temperature": 0.6}')
    (folder / "data.jsonl").write_text('{"instruction": "Count to two.", "output": "1 2"}\n' * 4)
    return folder


def finetuned(checkpoint: Path, make_model: Any, *, style: str | None, **more: Any) -> tuple[Any, Path]:
    data = load_data(
        JSON(str(checkpoint / "data.jsonl"), prompt_style=style), Tokenizer.load(checkpoint), vocab_size=259
    )
    train = Train(max_steps=1, global_batch_size=1)
    run = finetune(
        make_model(vocab_size=259, max_positions=512), data, out_dir=checkpoint.parent / "out", train=train, **more
    )
    assert run.final is not None
    return data, run.final


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("style", ["alpaca", "chatml"])
def test_the_result_is_served_as_it_was_trained(checkpoint: Path, make_model: Any, style: str, method: str) -> None:
    more = {"method": with_lora(Lora(r=2))} if method == "lora" else {}
    data, final = finetuned(checkpoint, make_model, style=style, **more)
    trained = data.train[0]
    prompt = trained.ids[: trained.weights.index(1.0)]
    ours = Tokenizer.load(final)
    theirs: Any = AutoTokenizer.from_pretrained(final)
    assert ours.encode_chat(ASKED) == prompt
    assert theirs.apply_chat_template(ASKED, add_generation_prompt=True, return_dict=False) == prompt
    answered = [*ASKED, {"role": "assistant", "content": "1 2"}]
    assert theirs.apply_chat_template(answered, return_dict=False) == list(trained.ids)
    assert data.renderer.end_id == (257 if style == "alpaca" else 258)
    assert data.renderer.end_id in ours.end_ids
    generation = json.loads((final / "generation_config.json").read_text())
    config = json.loads((final / "config.json").read_text())
    ends = 257 if style == "alpaca" else [258, 257]
    assert (generation["eos_token_id"], config["eos_token_id"], generation["temperature"]) == (ends, ends, 0.6)


def test_the_checkpoints_own_template_stays_as_it_is(checkpoint: Path, make_model: Any) -> None:
    _, final = finetuned(checkpoint, make_model, style=None)
    for name in ("chat_template.jinja", "generation_config.json", "tokenizer.json"):
        assert (final / name).read_bytes() == (checkpoint / name).read_bytes()

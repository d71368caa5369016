"""Where the real artefacts lie, and small folders made for one test."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real tokenizers and templates."""
    if "LLM_TEST_DATA" not in os.environ:
        pytest.skip("LLM_TEST_DATA is not set: the folder of real tokenizers")
    return Path(os.environ["LLM_TEST_DATA"])


class Folder:
    """Writes a small checkpoint folder: a byte-level vocabulary of 256 bytes, <s> 256, </s> 257, <|end|> 258."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def text(self, name: str, text: str) -> "Folder":
        (self.path / name).parent.mkdir(exist_ok=True)
        (self.path / name).write_text(text, encoding="utf-8")
        return self

    def json(self, name: str, value: Any) -> "Folder":
        (self.path / name).write_text(json.dumps(value), encoding="utf-8")
        return self

    def tokenizer(self, **changes: Any) -> "Folder":
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        tokenizer = tokenizers.Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens(["<s>", "</s>", "<|end|>"])
        return self.json("tokenizer.json", {**json.loads(tokenizer.to_str()), **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A checkpoint folder with nothing in it yet."""
    return Folder(tmp_path)


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """The same for a whole test file, with the byte-level tokenizer in it."""
    return Folder(tmp_path_factory.mktemp("shared")).tokenizer()

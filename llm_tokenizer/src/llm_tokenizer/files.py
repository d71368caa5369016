"""Reading the small files of a checkpoint folder: sizes are checked before anything is parsed."""

import json
from pathlib import Path
from typing import Any

from llm_tokenizer.errors import TokenizerError

MAX_TOKENIZER_BYTES = 256 * 2**20  # the largest tokenizer.json known is about 35 MB
MAX_CONFIG_BYTES = 16 * 2**20
MAX_TEMPLATE_BYTES = 512 * 2**10
LFS_POINTER = b"version https://git-lfs."  # how what git leaves without LFS begins

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer.bin",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
)
TEMPLATE_FOLDERS = ("additional_chat_templates", "chat_templates")


def read_bytes(path: Path, max_bytes: int = MAX_TOKENIZER_BYTES) -> bytes:
    """The file's bytes. Raises TokenizerError for a missing, unreadable or empty file and one over max_bytes."""
    try:
        size = path.stat().st_size
        if not 0 < size <= max_bytes:
            raise TokenizerError(f"{path}: a file of this kind has 1 to {max_bytes:,} bytes, this one has {size:,}.")
        data = path.read_bytes()
    except OSError as error:
        raise TokenizerError(f"{path}: the file can't be read ({error.strerror or error}).") from error
    if data.startswith(LFS_POINTER):
        raise TokenizerError(
            f"{path}: a Git LFS pointer stands in the place of the file; run 'git lfs pull' or download it again."
        )
    return data


def read_text(path: Path, max_bytes: int) -> str:
    """The file as UTF-8 text with its line ends made \\n. Raises TokenizerError."""
    try:
        text = read_bytes(path, max_bytes).decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path}: the file must be UTF-8, byte {error.start} is not.") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path, max_bytes: int = MAX_CONFIG_BYTES) -> dict[str, Any]:
    """The JSON object in the file. Raises TokenizerError."""
    try:
        value = json.loads(read_bytes(path, max_bytes))
    except (ValueError, RecursionError) as error:
        if isinstance(error, TokenizerError):
            raise
        raise TokenizerError(f"{path}: the file must be JSON ({error}).") from error
    if not isinstance(value, dict):
        raise TokenizerError(f"{path}: the file must hold a JSON object, it holds a {type(value).__name__}.")
    return value


def read_json_if_any(path: Path) -> dict[str, Any]:
    """The JSON object in the file, or an empty one where there is no such file. Raises TokenizerError."""
    return read_json(path) if path.is_file() else {}


def tokenizer_files(folder: Path, main: Path) -> tuple[Path, ...]:
    """The files of the folder that make up its tokenizer, the main one first."""
    named = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    templates = [path for name in TEMPLATE_FOLDERS for path in sorted((folder / name).glob("*.jinja"))]
    return (main, *(path for path in [*named, *templates] if path != main))

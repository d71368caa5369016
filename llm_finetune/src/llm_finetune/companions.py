"""The files of a checkpoint that are neither weights nor config.json: its tokenizer, settings and licence."""

import re
import shutil
from pathlib import Path

_NAMES = re.compile(
    r"tokenizer.*\.(json|model|bin)|(special_tokens_map|added_tokens|vocab|generation_config|chat_template)\.json"
    r"|(merges|vocab)\.txt|[a-z0-9_]*\.jinja|[a-z0-9_.]*\.tiktoken|spiece\.model|(LICENSE|LICENCE|NOTICE|USE_POLICY).*"
)
_TEMPLATES = "additional_chat_templates"
_MOST_BYTES = 2**28


def companions(folder: Path) -> dict[str, Path]:
    """Those of a folder, by their paths in it; none of a checkpoint that is a single file."""
    if not folder.is_dir():
        return {}
    found = {path.name: path for path in sorted(folder.iterdir()) if _NAMES.fullmatch(path.name)}
    found |= {f"{_TEMPLATES}/{path.name}": path for path in sorted((folder / _TEMPLATES).glob("*.jinja"))}
    return {name: path for name, path in found.items() if path.is_file() and path.stat().st_size <= _MOST_BYTES}


def copy_companions(files: dict[str, Path], folder: Path) -> None:
    """Copy them into a folder that is being filled."""
    for name, path in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(path, folder / name)

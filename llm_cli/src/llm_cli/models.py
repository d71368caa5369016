"""Where a model lies: a path, a name under the checkpoints folder, or a hub id that is fetched when absent."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote

from llm_cli.errors import suggestion

DEMO = Path(__file__).parent / "demo"
MARKS = ("config.json", "consolidated.00.pth")  # what a checkpoint folder has, and one of Meta's
HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*")
HUB_PAGE = re.compile(
    rf"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/({HUB_ID.pattern})"
    r"(?:/(?:tree|blob|resolve)/([^/?#]+)[^?#]*)?/?(?:[?#].*)?"
)


class ModelNotFoundError(ValueError):
    """No checkpoint answers to the name that was given."""


def checkpoint_root() -> Path:
    """The folder of downloaded models: LLM_CHECKPOINT_DIR, else `checkpoints` in the current directory."""
    return Path(os.environ.get("LLM_CHECKPOINT_DIR") or "checkpoints")


def hub_repository(name: str) -> tuple[str, str | None]:
    """The hub id in the address of a repository's page, or in an id with a slash behind it; other names as they are.

    Beside it the branch, tag or commit that the address shows, None where it shows none or main.
    """
    page = HUB_PAGE.fullmatch(name)
    if page is not None:
        revision = unquote(page[2] or "main")  # refs/pr/1 is written refs%2Fpr%2F1 there
        return page[1], None if revision == "main" else revision
    bare = name.rstrip("/")
    return (bare if HUB_ID.fullmatch(bare) else name), None


def resolve(
    model: str | Path | None,
    *,
    download: bool = True,
    access_token: str | None = None,
    tokenizer_only: bool = False,
    allow_file: bool = False,
) -> Path:
    """The folder of `model`. None is the model that ships with this package, and so is "demo" if nothing else is.

    Looked up in this order: a path; a name under `checkpoint_root()`; a hub id `org/name` or the address of its page,
    which is fetched there when `download` allows it. With `tokenizer_only` a folder without weights will do, a file
    too, and no weights are fetched. `allow_file` is for whoever reads formats that are one file.
    Raises ModelNotFoundError with the nearest known name.
    """
    if model is None:
        return demo_folder()
    name, revision = hub_repository(os.fspath(model))
    if revision is not None:
        raise ModelNotFoundError(
            f"'{model}' is a revision other than main; fetch it with `llm download {model}`, then name it '{name}'"
        )
    if not name:
        raise ModelNotFoundError("the model's name is empty; give a folder, a name under checkpoints/, or a hub id")
    for path in dict.fromkeys((Path(os.path.expanduser(name)), checkpoint_root() / name)):
        if path.exists() and not (download and _lacks_weights(path, name, tokenizer_only)):
            return _checked(path, tokenizer_only, allow_file)
    if name == DEMO.name:
        return demo_folder()
    # What begins with a folder that is here is a misspelt path, not a repository of that owner.
    if download and HUB_ID.fullmatch(name) and not Path(name).parent.is_dir():
        from llm_cli.hub import download as fetch

        return fetch(name, checkpoint_root(), access_token=access_token, tokenizer_only=tokenizer_only, to_run=True)
    raise ModelNotFoundError(_not_found(name))


def local_names() -> list[str]:
    """Names that `resolve` finds under `checkpoint_root()`: folders `name` and `org/name` that hold a checkpoint."""
    root = checkpoint_root()
    files = [path for depth in ("*", "*/*") for name in MARKS for path in root.glob(f"{depth}/{name}")]
    found = {path.parent.relative_to(root) for path in files}
    return sorted(name.as_posix() for name in found if not any(part.startswith(".") for part in name.parts))


def demo_folder() -> Path:
    """The model that ships with this package: a Hugging Face folder, for whoever needs a real one at hand."""
    if not (DEMO / "config.json").exists():
        raise ModelNotFoundError(
            f"the model that ships with llm_cli is missing from '{DEMO}'; name a model, or reinstall llm_cli"
        )
    return DEMO


def _lacks_weights(path: Path, name: str, tokenizer_only: bool) -> bool:
    """Whether an earlier download fetched the tokenizer alone, so that the rest is still to come."""
    if tokenizer_only or path != checkpoint_root() / name:
        return False
    from llm_cli.hub import read_marker

    return bool((read_marker(path) or {}).get("tokenizer_only"))


def _checked(path: Path, tokenizer_only: bool, allow_file: bool) -> Path:
    """The path itself, when it can hold what is asked for."""
    if tokenizer_only or (path / "config.json").exists() or (path.is_file() and allow_file) or _is_foreign(path):
        return path
    _refuse_others(path)
    if path.is_file():
        folder = f"give its folder '{path.parent}'" if (path.parent / "config.json").exists() else ""
        way_out = folder or f"make a folder of it with `llm convert {path} FOLDER`, if it is a llama2.c model"
        raise ModelNotFoundError(f"'{path}' is a file, not a checkpoint folder; {way_out}")
    if any(path.glob("consolidated*.pth")):
        raise ModelNotFoundError(
            f"the folder '{path}' holds Meta's consolidated.*.pth without their params.json; copy that file there too"
        )
    raise ModelNotFoundError(
        f"the folder '{path}' holds no config.json, so it is no checkpoint{_inside(path)}; "
        "give the folder that has config.json and the weights"
    )


def _refuse_others(path: Path) -> None:
    """Raise for what holds weights of a kind that isn't loaded, such as an adapter."""
    from llm_sepweight.unread import why_unread

    problem = why_unread(path)
    if problem is not None and (path / "adapter_config.json").is_file():
        problem += f". `llm merge_lora {path}` makes one; `llm generate {path}` uses the two as they are"
    if problem is not None:
        raise ModelNotFoundError(problem)


def _is_foreign(path: Path) -> bool:
    """Whether an installed package reads the folder, though it has no config.json."""
    if path.is_file():
        return False  # a foreign file has to be made a folder first
    from llm_blocks.architectures import claimed_by

    return claimed_by(path) is not None


def _inside(path: Path) -> str:
    """A clause that names a checkpoint one or two levels below, where there is one."""
    below = next(iter(sorted([*path.glob("*/config.json"), *path.glob("*/*/config.json")])), None)
    return f" (but '{below.parent}' is one)" if below is not None else ""


def _not_found(name: str) -> str:
    known = local_names()
    beside = Path(os.path.expanduser(name)).parent
    siblings = [str(beside / path.name) for path in beside.iterdir() if path.is_dir()] if beside.is_dir() else []
    hint = suggestion(name, [*known, *(other.rpartition("/")[2] for other in known), *siblings])
    listed = f" (there are {', '.join(known[:8])})" if known and not hint else ""
    fetched = f"`llm download {name}` fetches it if it is a hub id" if HUB_ID.fullmatch(name) else ""
    if " " in name:
        return f"there is no model '{name}'; a text to continue goes behind --prompt"
    way_out = (
        hint if hint and not fetched else f"{hint or ';'} {fetched or 'give a folder, or a hub id such as org/name'}"
    )
    return f"there is no model '{name}', neither as a path nor under '{checkpoint_root()}'{listed}{way_out}"

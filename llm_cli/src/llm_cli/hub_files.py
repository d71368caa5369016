"""Which files of a hub repository make a checkpoint, and which names are refused. No network here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PureWindowsPath

PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]*")
SMALL = re.compile(
    r"config\.json|generation_config\.json|tokenizer[\w.\-]*\.(json|model|jinja)|tokenizer\.bin|special_tokens_map\.json"
    r"|added_tokens\.json|vocab\.(json|txt)|merges\.txt|chat_template\.(jinja|json)|params\.json"
    r"|(LICENSE|LICENCE|NOTICE|USE_POLICY)[\w.\-]*",
)
# Most wanted first: a safetensors file can hold nothing but tensors, a .bin or .pth file can hold any program.
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
LAYOUTS = (
    re.compile(r"model\.safetensors"),
    re.compile(r"model-\d+-of-\d+\.safetensors"),
    re.compile(r"(begin|mid\.\d+|end)\.safetensors|sepweight\.json"),
    re.compile(r"pytorch_model\.bin"),
    re.compile(r"pytorch_model-\d+-of-\d+\.bin"),
    re.compile(r"consolidated\.\d+\.pth"),
)


class DownloadError(ValueError):
    """A model could not be fetched whole; nothing that looks complete was left behind."""


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """One file of a repository at one commit. `digest` is `sha256:<hex>` or `git:<hex>`, as the hub tells it."""

    name: str
    size: int | None
    digest: str | None


def check_names(repo_id: str, names: Iterable[str]) -> None:
    """Refuse a repository that lists a name which could leave the folder, here or on Windows."""
    for name in names:
        windows = PureWindowsPath(name)
        unsafe = (
            not name or "\\" in name or "\0" in name or name.startswith("/") or windows.drive or windows.root
        ) or any(part in ("", ".", "..") or part != part.strip(" ") for part in name.split("/"))
        if unsafe:
            raise DownloadError(
                f"the repository '{repo_id}' lists a file called {name!r}, which could be written outside its folder, "
                "so it was refused whole; report it to the hub"
            )


def small_files(names: Iterable[str]) -> list[str]:
    """The configuration and tokenizer files among the names."""
    return sorted(name for name in names if SMALL.fullmatch(name))


def weight_index(names: Sequence[str]) -> str | None:
    """The name of the shard index to read, or None when the weights need none."""
    if any(LAYOUTS[0].fullmatch(name) for name in names):
        return None
    return next((index for index in INDEXES if index in names), None)


def weight_files(repo_id: str, names: Sequence[str], weight_map: Mapping[str, object] | None) -> list[str]:
    """The weight files to fetch: those that the index names, else those of the first layout present.

    Raises DownloadError when the index names a file that is not listed, or no known layout is there.
    """
    if weight_map is not None:
        wanted = {str(shard) for shard in weight_map.values()}
        for shard in sorted(wanted):
            if shard not in names or not PLAIN.fullmatch(shard):
                raise DownloadError(
                    f"the index of '{repo_id}' names a weight file {shard!r} that is not in the repository; "
                    "try another --revision"
                )
        return sorted(wanted)
    for layout in LAYOUTS:
        found = sorted(name for name in names if layout.fullmatch(name))
        if found:
            return found
    raise DownloadError(
        f"the repository '{repo_id}' holds no weights that can be read (safetensors, .bin or consolidated .pth); "
        "fetch its tokenizer alone with --tokenizer_only, or choose another repository"
    )

"""What `--data X` may be: a known data set, a file or folder, or a hub id. Without torch."""

import difflib
import re
import reprlib
from pathlib import Path
from typing import Any

FILES = ("JSON", "Text", "TextFiles")  # the rows are where data.json_path says
SETS = ("Alpaca", "Alpaca2k", "AlpacaGPT4", "LIMA", "Deita", "FLAN", "LongForm", "Dolly")
_ENDINGS = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".txt")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*")


def data_set(text: object) -> dict[str, Any]:
    """The settings of the data that a word stands for, by their dotted names; none for those of files (JSON).

    ValueError for a word that stands for nothing, with the nearest.
    """
    if not isinstance(text, str) or not text:
        raise ValueError(f"data is the name of a data set, a file or a folder, not {reprlib.repr(text)}")
    known = {name.lower(): name for name in (*FILES, *SETS)}
    name = known.get(text.lower())
    if name is not None:
        return {} if name in FILES else {"data.name": name}
    if Path(text).exists() or text.lower().endswith(_ENDINGS):
        return {"data.json_path": text}
    if _HUB_ID.fullmatch(text) and not Path(text).parent.is_dir():
        return {"data.name": text}
    near = difflib.get_close_matches(text.lower(), known, 1)
    hint = f"did you mean {known[near[0]]}?" if near else f"the known data sets are {', '.join(SETS)}"
    raise ValueError(f"there is no file or folder {text!r}, and no data set of that name; {hint}")

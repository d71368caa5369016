"""Data sets by name: where their files are, under which licence, and how their rows become rows of ours.

Addresses, fractions and prompt styles are those of LitGPT 0.5.13. The licences of Alpaca, AlpacaGPT4, LongForm, Deita
and Dolly are what their repositories say (read on 2026-12-01; those of the first three have the files there too), those
of Alpaca2k, LIMA and FLAN are from memory. No set was downloaded: read its own page before you rely on its licence.
"""

import difflib
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm_finetune import hub_data
from llm_finetune.data_settings import DataSettings
from llm_finetune.downloads import download
from llm_finetune.files import READERS, data_files
from llm_finetune.rows import DataError

Change = Callable[[Mapping[str, Any], bool], Iterable[Mapping[str, Any]]]
"""Rows of ours from a row of the set; the second argument is include_multiturn_conversations."""
Files = tuple[list[Path], list[Path]]
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB = "https://huggingface.co/datasets"
_RAW = "https://raw.githubusercontent.com"


def _same(row: Mapping[str, Any], multiturn: bool) -> Iterable[Mapping[str, Any]]:
    return [row]


def _longform(row: Mapping[str, Any], multiturn: bool) -> Iterable[Mapping[str, Any]]:
    return [{"instruction": row.get("input"), "output": row.get("output")}]


def _flan(row: Mapping[str, Any], multiturn: bool) -> Iterable[Mapping[str, Any]]:
    return [{"instruction": row.get("inputs"), "output": row.get("targets")}]


def _dolly(row: Mapping[str, Any], multiturn: bool) -> Iterable[Mapping[str, Any]]:
    return [{"instruction": row.get("instruction"), "input": row.get("context"), "output": row.get("response")}]


def _lima(row: Mapping[str, Any], multiturn: bool) -> Iterable[Mapping[str, Any]]:
    """Contents alone, of the user and the assistant in turn; some rows of the set have a question without an answer."""
    contents = row.get("conversations")
    if not isinstance(contents, list) or any(not isinstance(each, str) for each in contents):
        return [row]
    roles = ("user", "assistant")
    return _turns([{"role": roles[i % 2], "content": text} for i, text in enumerate(contents)], multiturn)


def _deita(row: Mapping[str, Any], multiturn: bool) -> Iterable[Mapping[str, Any]]:
    messages = row.get("messages")
    return _turns(messages, multiturn) if isinstance(messages, list) else [row]


def _turns(messages: list[Any], multiturn: bool) -> Iterable[Mapping[str, Any]]:
    """The conversation up to the first answer, or the whole of it."""
    roles = [each.get("role") if isinstance(each, Mapping) else None for each in messages]
    if not multiturn and "assistant" in roles:
        messages = messages[: roles.index("assistant") + 1]
    return [{"messages": messages}]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A set by name. Its files are at `url` with each of `train` and `val` after it, or on the hub as `repo_id`.

    {subset} in `train` and `val` stands for each of `subsets`. splits: beginnings of names on the hub, of the files to
    train and to validate on. val_split_fraction: of the rows that are held back where there are none to validate on.
    style: the prompt style for a checkpoint without a chat template.
    """

    name: str
    licence: str
    url: str | None = None
    train: str = ""
    val: str | None = None
    repo_id: str | None = None
    splits: tuple[str, str] | None = None
    subsets: tuple[str, ...] = ()
    val_split_fraction: float | None = None
    style: str = "alpaca"
    change: Change = field(default=_same, repr=False)


_TASKS = (
    "aeslc ag_news_subset anli_r1 anli_r2 anli_r3 arc_challenge arc_easy bool_q cb cnn_dailymail cola common_gen copa "
    "coqa cosmos_qa dart definite_pronoun_resolution drop e2e_nlg fix_punct gigaword glue_mrpc glue_qqp hellaswag "
    "imdb_reviews math_dataset mnli_matched mnli_mismatched multi_news multirc natural_questions openbookqa "
    "opinion_abstracts_idebate opinion_abstracts_rotten_tomatoes para_crawl_enes paws_wiki piqa qnli quac record rte "
    "samsum sentiment140 snli squad_v1 squad_v2 sst2 story_cloze stsb trec trivia_qa true_case web_nlg_en wic "
    "wiki_lingua_english_en wmt14_enfr wmt16_translate_csen wmt16_translate_deen wmt16_translate_fien "
    "wmt16_translate_roen wmt16_translate_ruen wmt16_translate_tren wnli word_segment wsc yelp_polarity_reviews"
)
_TABLE = (
    Source(
        name="Alpaca",
        licence="CC BY-NC 4.0",
        url=f"{_RAW}/tloen/alpaca-lora/main/",
        train="alpaca_data_cleaned_archive.json",
        val_split_fraction=0.03865,
    ),
    Source(name="Alpaca2k", licence="CC BY-NC 4.0", repo_id="mhenrichsen/alpaca_2k_test", val_split_fraction=0.05),
    Source(
        name="AlpacaGPT4",
        licence="CC BY-NC 4.0",
        url=f"{_RAW}/Instruction-Tuning-with-GPT-4/GPT-4-LLM/main/data/",
        train="alpaca_gpt4_data.json",
        val_split_fraction=0.03847,
    ),
    Source(name="LIMA", licence="CC BY-NC-SA", repo_id="GAIR/lima", val_split_fraction=0.1, change=_lima),
    Source(
        name="Deita",
        licence="MIT",
        repo_id="HuggingFaceH4/deita-10k-v0-sft",
        splits=("train_sft", "test_sft"),
        change=_deita,
    ),
    Source(
        name="FLAN",
        licence="Apache-2.0 (the tasks have licences of their own)",
        url=f"{_HUB}/Muennighoff/flan/resolve/main/",
        train="train/{subset}_train.jsonl",
        val="test/{subset}_test.jsonl",
        subsets=tuple(f"{task}_10templates" for task in _TASKS.split()),
        style="flan",
        change=_flan,
    ),
    Source(
        name="LongForm",
        licence="MIT, with the restrictions of OpenAI for instructions",
        url=f"{_RAW}/akoksal/LongForm/main/dataset/",
        train="train.json",
        val="val.json",
        style="longform",
        change=_longform,
    ),
    Source(
        name="Dolly",
        licence="CC BY-SA 3.0",
        repo_id="databricks/databricks-dolly-15k",
        val_split_fraction=0.05,
        change=_dolly,
    ),
)
SOURCES: Mapping[str, Source] = {source.name: source for source in _TABLE}
_FILES = ("json", "text", "textfiles")  # names of the classes whose rows are where json_path says


def find_source(name: str) -> Source | Path:
    """What the `name` of data stands for: a set of `SOURCES` (in any case), a path, or a set of the hub.

    DataError for what is none of them.
    """
    known = {each.lower(): source for each, source in SOURCES.items()}
    if name.lower() in known:
        return known[name.lower()]
    if Path(name).exists() or Path(name).suffix.lower() in READERS:
        return Path(name)
    of_hub = {source.repo_id: source for source in _TABLE if source.repo_id is not None}
    if name in of_hub:
        return of_hub[name]
    if _HUB_ID.fullmatch(name):
        return Source(name=name, licence="see its page on the hub", repo_id=name)
    near = difflib.get_close_matches(name.lower(), known, 1)
    hint = f"did you mean {known[near[0]].name}?" if near else f"the known sets are {', '.join(SOURCES)}"
    raise DataError(f"there is no file, folder or data set {name!r}; {hint}")


def locate(data: DataSettings) -> tuple[Files, Source | None]:
    """The files to train and to validate on, fetched where they aren't there yet, and the set that they are of.

    DataError where the settings name nothing, or what can't be had.
    """
    named = data.json_path is None and data.name is not None and data.name.lower() not in _FILES
    if not named:
        if data.json_path is None:
            raise DataError("there is no data: give a file or folder as data.json_path")
        return data_files(data.json_path), None
    found = find_source(data.name or "")
    return (data_files(found), None) if isinstance(found, Path) else (_fetched(found, data), found)


def _fetched(source: Source, data: DataSettings) -> Files:
    _refuse_unused(source, data)
    repo_id = data.repo_id or source.repo_id
    if repo_id is not None:
        folder = Path(data.download_dir or "data", "--".join([*repo_id.split("/"), *_plain(data.subsets)]))
        return _parted(
            hub_data.fetch(repo_id, folder, data.access_token, subsets=data.subsets, splits=source.splits or ()), source
        )
    folder = Path(data.download_dir or Path("data", source.name.lower()))
    if data.url is not None:  # what was kept of the usual address isn't taken for it
        folder /= f"{zlib.crc32(data.url.encode()):08x}"
    url = (data.url or source.url or "").rstrip("/") + "/"
    subsets = _subsets(source, data.subsets)
    train, val = ([_file(url, name, each, folder) for each in subsets if name] for name in (source.train, source.val))
    return train, val


def _refuse_unused(source: Source, data: DataSettings) -> None:
    """DataError for settings that mean nothing for this set."""
    if data.url is not None and source.url is None:
        raise DataError(f"{source.name} is a set of the hub: data.repo_id says where, not data.url")
    if data.repo_id is not None and source.repo_id is None:
        raise DataError(f"{source.name} is not on the hub: data.url says where, not data.repo_id")
    if data.subsets is not None and source.url is not None and not source.subsets:
        raise DataError(f"{source.name} has no subsets; leave data.subsets out")


def _subsets(source: Source, wanted: str | None) -> tuple[str, ...]:
    """Those of the setting, or all; ("",) for a set without."""
    if wanted is None:
        return source.subsets or ("",)
    names = tuple(part.strip() for part in wanted.split(",") if part.strip())
    unknown = [name for name in names if name not in source.subsets]
    if unknown or not names:
        near = difflib.get_close_matches(unknown[0] if unknown else "", source.subsets, 1) or source.subsets[:1]
        raise DataError(f"{source.name} has no subset {unknown[0] if unknown else wanted!r}; did you mean {near[0]}?")
    return names


def _file(url: str, name: str | None, subset: str, folder: Path) -> Path:
    place = (name or "").format(subset=subset)
    return download(url + place, folder / Path(place).name)


def _parted(folder: Path, source: Source) -> Files:
    """The files of a folder by the set's own splits, or by what their names say."""
    if source.splits is None:
        return data_files(folder)
    files = [
        path for path in sorted(folder.rglob("*")) if path.suffix.lower() in READERS and ".cache" not in path.parts
    ]
    train, val = ([path for path in files if path.name.startswith(split)] for split in source.splits)
    if not train:
        raise DataError(f"{folder}: there is no file called {source.splits[0]}; remove the folder to download it again")
    return train, val


def _plain(text: str | None) -> list[str]:
    return [] if text is None else [re.sub(r"[^\w.-]+", "_", text)]

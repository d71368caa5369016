"""What can be set of the data, without torch: the command's help reads it."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pydantic import ConfigDict


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Where the rows are and what becomes of them. ValueError for values that no data set could have.

    name: a set of `llm_finetune.sources`, such as Alpaca, a set of the Hugging Face Hub as org/name, or a path.
    json_path: a file (JSON, JSON lines, CSV, Parquet, text) or a folder of them. val_path: one more, to validate on.
    val_split_fraction: how much of the rows is held back where nothing is there to validate on; None is 0.05.
    loss: whose turns count: assistant, all, last. None is "all" with mask_prompt False, else "assistant".
    prompt_style: None is the checkpoint's chat template; see `llm_finetune.styles.pick`.
    ignore_index: how labels of pre-tokenised rows mark what isn't trained; labels below 0 all do.
    seed: of the split. on_bad_row: "stop" raises at a row that can't be used, "skip" counts it.
    download_dir: where what a name stands for is kept; None is data/ and its name. access_token: for the hub; it is
    shown and written nowhere. repo_id, url: where a named set is, if elsewhere (url: the folder that its files are in).
    subsets: names between commas, of FLAN's tasks or of folders of a set of the hub. num_workers changes nothing: rows
    are ready in memory before the first step. include_multiturn_conversations: whole conversations of LIMA and Deita;
    without it each ends with its first answer. In named sets the loss is on all tokens unless loss or mask_prompt says
    otherwise, and rows that can't be used are always skipped and counted.
    packing: several samples make a row of the batch, up to max_seq_length. group_by_length: a step's rows are alike.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str | None = None
    json_path: str | None = None
    val_path: str | None = None
    val_split_fraction: float | None = None
    mask_prompt: bool | None = None
    loss: Literal["assistant", "all", "last"] | None = None
    prompt_style: str | None = None
    ignore_index: int = -100
    seed: int = 42
    on_bad_row: Literal["stop", "skip"] = "stop"
    packing: bool = False
    group_by_length: bool = False
    download_dir: str | None = None
    access_token: str | None = field(default=None, repr=False)
    repo_id: str | None = None
    url: str | None = None
    subsets: str | None = None
    include_multiturn_conversations: bool = False
    num_workers: int = 4

    def __post_init__(self) -> None:
        if self.val_split_fraction is not None and not 0 <= self.val_split_fraction < 1:
            raise ValueError(f"data.val_split_fraction is at least 0 and below 1, not {self.val_split_fraction}")
        if self.num_workers < 0:
            raise ValueError(f"data.num_workers is at least 0, not {self.num_workers}")
        if self.on_bad_row not in ("stop", "skip"):
            raise ValueError(f"data.on_bad_row is stop or skip, not {self.on_bad_row!r}")
        if self.ignore_index >= 0:
            raise ValueError(f"data.ignore_index is below 0, as it must be no token, not {self.ignore_index}")
        if self.loss is not None and self.mask_prompt is not None and (self.loss == "all") == self.mask_prompt:
            raise ValueError(
                f"data.loss {self.loss} and data.mask_prompt {self.mask_prompt} disagree; give one of them"
            )

    @property
    def trained(self) -> Literal["assistant", "all", "last"]:
        """`loss`, or what mask_prompt stands for."""
        return self.loss or ("all" if self.mask_prompt is False else "assistant")


def JSON(json_path: str, **options: object) -> DataSettings:
    """The settings of a file or folder; options are fields of `DataSettings`."""
    return DataSettings(json_path=str(json_path), **options)  # pyright: ignore[reportArgumentType]


def TextFiles(train_data_path: str, val_data_path: str | None = None, **options: object) -> DataSettings:
    """The settings of a text file or a folder of them, and of others to validate on; see `DataSettings`."""
    val = None if val_data_path is None else str(val_data_path)
    return DataSettings(json_path=str(train_data_path), val_path=val, **options)  # pyright: ignore[reportArgumentType]

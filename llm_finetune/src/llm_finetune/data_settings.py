"""What can be set of the data, without torch: the command's help reads it."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import ConfigDict


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Where the rows are and what becomes of them. ValueError for values that no data set could have.

    json_path: a file (JSON, JSON lines, CSV, Parquet, text) or a folder of them. val_path: one more, to validate on.
    val_split_fraction: how much of the rows is held back where nothing is there to validate on; None is 0.05.
    loss: whose turns count: assistant, all, last. None is "all" with mask_prompt False, else "assistant".
    prompt_style: None is the checkpoint's chat template; see `llm_finetune.styles.pick`.
    ignore_index: how labels of pre-tokenised rows mark what isn't trained; labels below 0 all do.
    seed: of the split. on_bad_row: "stop" raises at a row that can't be used, "skip" counts it.
    packing: several samples make a row of the batch, up to max_seq_length. group_by_length: a step's rows are alike.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str | None = None  # a known data set, as in "Alpaca", or a hub id; None for files
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

    def __post_init__(self) -> None:
        if self.val_split_fraction is not None and not 0 <= self.val_split_fraction < 1:
            raise ValueError(f"data.val_split_fraction is at least 0 and below 1, not {self.val_split_fraction}")
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

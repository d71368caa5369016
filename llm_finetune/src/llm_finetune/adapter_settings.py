"""Settings of LLaMA-Adapter."""

from dataclasses import dataclass

MOST_POSITIONS = 2**12


@dataclass(frozen=True, kw_only=True)
class AdapterSettings:
    """How many positions each prompt has, and the first layer that has one.

    ValueError for a length outside 1 to 4096 and for a layer below 0.
    """

    prompt_length: int = 10
    start_layer: int = 2

    def __post_init__(self) -> None:
        if type(self.prompt_length) is not int or not 1 <= self.prompt_length <= MOST_POSITIONS:
            raise ValueError(
                f"prompt_length is from 1 to {MOST_POSITIONS}, not {str(self.prompt_length)[:40]}; 10 is usual"
            )
        if type(self.start_layer) is not int or self.start_layer < 0:
            raise ValueError(f"start_layer is the number of a layer, from 0 on, not {str(self.start_layer)[:40]}")

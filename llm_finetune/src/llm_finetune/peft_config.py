"""The adapter_config.json of PEFT: what of it changes what an adapter computes is honoured, or refused by name."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_finetune.lora_settings import Lora
from llm_sepweight import WeightsError, read_json

CONFIG = "adapter_config.json"
PEFT_VERSION = "0.21.2"  # whose form this is
_MOST_BYTES = 2**24
_MOST_RANK = 2**16

# Keys that say how an adapter was trained, found or made, which its tensors already tell.
_INERT = frozenset({"task_type", "revision", "inference_mode", "peft_version", "auto_mapping", "fan_in_fan_out"})
_INERT |= {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "runtime_config"}
_INERT |= {"megatron_config", "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config"}
_INERT |= {"qalora_group_size"}
_READ = frozenset({"peft_type", "base_model_name_or_path", "r", "lora_alpha", "lora_dropout", "bias"})
_READ |= {"use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "init_lora_weights"}
# Others, such as pissa, change the weights of the base model too.
_INITS = (None, True, False, "gaussian", "eva", "orthogonal")
_LITERAL = re.compile(r"(?:[A-Za-z0-9_.-]|\\\.)+")


@dataclass(frozen=True, kw_only=True)
class PeftConfig:
    """What an adapter_config.json says: the base model's name or path, and the settings of layers by their paths."""

    base: str | None
    lora: Lora
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]

    def settings(self, path: str) -> Lora:
        """Those of the layer that Hugging Face calls `path`."""
        lora = self.lora
        return _lora(
            r=_matching(self.ranks, path, lora.r),
            alpha=_matching(self.alphas, path, lora.alpha),
            dropout=lora.dropout,
            rslora=lora.rslora,
            dora=lora.dora,
        )


def read_config(folder: Path) -> PeftConfig:
    """The config of an adapter's folder; WeightsError for a file that is missing, malformed or can't be honoured."""
    file = folder / CONFIG
    raw = read_json(file, max_bytes=_MOST_BYTES)
    try:
        return _parsed(raw)
    except ValueError as error:
        raise WeightsError(f"{file}: {error}") from None


def config_to_peft(
    lora: Lora, base: str, paths: list[str], ranks: Mapping[str, int], alphas: Mapping[str, float], *, transposed: bool
) -> dict[str, Any]:
    """An adapter_config.json for the layers at Hugging Face's `paths`; ranks and alphas of those that have others."""
    return {
        "alpha_pattern": dict(sorted(alphas.items())),
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": whole(lora.alpha),
        "lora_dropout": lora.dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "peft_version": PEFT_VERSION,
        "r": lora.r,
        "rank_pattern": dict(sorted(ranks.items())),
        "target_modules": sorted(paths),
        "task_type": "CAUSAL_LM",
        "use_dora": lora.dora,
        "use_rslora": lora.rslora,
    }


def whole(number: float) -> float:
    """A number without decimals as an int, as other programs write alpha."""
    return int(number) if number == int(number) else number


def _parsed(raw: Mapping[str, Any]) -> PeftConfig:
    kind = raw.get("peft_type")
    if kind != "LORA":
        raise ValueError(f"peft_type is {str(kind)[:40]!r}, and of PEFT's adapters LORA alone is read")
    for key, value in raw.items():
        if key not in _INERT | _READ and value not in (None, False, [], {}):
            raise ValueError(f"{key[:80]} is set, which changes what the adapter computes and isn't supported")
    if raw.get("bias", "none") != "none":
        raise ValueError(f"bias is {str(raw['bias'])[:40]!r}: adapters with trained biases aren't supported")
    init = raw.get("init_lora_weights")
    if not (init is None or isinstance(init, bool) or init in _INITS):
        raise ValueError(
            f"init_lora_weights is {str(init)[:40]!r}, which changes the base model too; save the adapter with PEFT's "
            "path_initial_model_for_weight_conversion, which makes it one that doesn't"
        )
    base = raw.get("base_model_name_or_path")
    if not (base is None or isinstance(base, str)):
        raise ValueError("base_model_name_or_path must be a string")
    return PeftConfig(
        base=base or None,
        lora=_lora(
            r=_rank("r", raw.get("r", 8)),
            alpha=_number("lora_alpha", raw.get("lora_alpha", 8)),
            dropout=_number("lora_dropout", raw.get("lora_dropout", 0.0)),
            rslora=_flag(raw, "use_rslora"),
            dora=_flag(raw, "use_dora"),
        ),
        ranks={key: _rank("rank_pattern", value) for key, value in _pattern(raw, "rank_pattern").items()},
        alphas={key: _number("alpha_pattern", value) for key, value in _pattern(raw, "alpha_pattern").items()},
    )


def _lora(**settings: Any) -> Lora:
    """Settings without switches: the tensors say which layers there are."""
    return Lora(query=False, value=False, **settings)


def _rank(key: str, value: object) -> int:
    if type(value) is not int or not 1 <= value <= _MOST_RANK:
        raise ValueError(f"{key} must be a whole number from 1 to {_MOST_RANK}, not {str(value)[:40]}")
    return value


def _number(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{key} must be a number, not {str(value)[:40]}")
    return value


def _flag(raw: Mapping[str, Any], key: str) -> bool:
    value = raw.get(key, False)
    if not isinstance(value, bool):
        raise ValueError(f"{key} must be true or false, not {str(value)[:40]}")
    return value


def _pattern(raw: Mapping[str, Any], key: str) -> dict[str, object]:
    """The entries of a pattern by plain names; regular expressions of strangers aren't run."""
    value = raw.get(key) or {}
    if not isinstance(value, dict):
        raise ValueError(f"{key} must be an object")
    found: dict[str, object] = {}
    for name, each in value.items():
        bare = name.removeprefix("^").removesuffix("$")
        if not _LITERAL.fullmatch(bare):
            raise ValueError(f"{key} has the regular expression {name[:80]!r}; names of layers alone are read")
        found[bare.replace("\\.", ".")] = each
    return found


def _matching(table: Mapping[str, Any], path: str, otherwise: Any) -> Any:
    """The first entry that names the layer by its path, or by the end of it."""
    return next((value for name, value in table.items() if f".{path}".endswith(f".{name}")), otherwise)

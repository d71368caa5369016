"""One weight file per layer, and one reader over every checkpoint layout."""

from importlib.metadata import version as _version

from . import atomic
from .checks import Verified, verify
from .deciders import Decider, default_decider
from .dumping import dump
from .errors import WeightsError
from .formats.base import TensorInfo
from .layout import join_name, split_name
from .loading import lazy_load, load
from .memory import is_cpu_memory_less_than_gpu
from .opening import open
from .part import Part
from .part_files import get_filenames
from .part_state_dict import PartStateDict
from .pth_conversion import convert_pth_files
from .safe import read_json
from .safetensors_conversion import convert_safetensors_files
from .spec import PartSpec
from .stored import write_safetensors
from .weights import Weights
from .writer import write

__all__ = [
    "Decider",
    "Part",
    "PartSpec",
    "PartStateDict",
    "TensorInfo",
    "Verified",
    "Weights",
    "WeightsError",
    "atomic",
    "convert_pth_files",
    "convert_safetensors_files",
    "default_decider",
    "dump",
    "get_filenames",
    "is_cpu_memory_less_than_gpu",
    "join_name",
    "lazy_load",
    "load",
    "open",
    "read_json",
    "split_name",
    "verify",
    "write",
    "write_safetensors",
]
__version__ = _version("llm_sepweight")

"""Facts about the machine and the installation, each by asking the system once; nothing is changed or sent."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any

from llm_cli.clash import other_command
from llm_cli.families import model_types
from llm_cli.models import DEMO, checkpoint_root, local_names
from llm_cli.output import human_bytes

LIBRARIES = (
    "torch",
    "safetensors",
    "tokenizers",
    "sentencepiece",
    "jinja2",
    "huggingface_hub",
    "cyclopts",
    "bitsandbytes",
)
CPU_FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8")
ARM_FLAGS = ("asimd", "asimddp", "bf16", "i8mm", "sve", "sve2")


def diagnose() -> dict[str, dict[str, Any]]:
    """Versions, devices, cpu, compiler, paths and space, by section; without what torch knows where it doesn't load."""
    torch_error = _torch_error()
    return {
        "versions": {**_versions(), "torch error": torch_error},
        "devices": {} if torch_error else _devices(),
        "cpu": _cpu(with_torch=torch_error is None),
        "compiler": _compiler(),
        "paths": _paths(),
        "space": _space(),
    }


def problems(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What would keep a command from working, each with its way out."""
    wrong = []
    if found["paths"]["other llm"] is not None:
        wrong.append(f"{found['paths']['other llm']}; `python -m llm_cli` always runs this one")
    if not found["versions"]["architectures"]:
        wrong.append("no architecture is installed; run `python -m pip install llm_model_llama`")
    if found["versions"]["torch"] is None:
        wrong.append("torch is not installed; run `python -m pip install torch`")
    elif found["versions"]["torch error"] is not None:
        why = found["versions"]["torch error"]
        wrong.append(f"torch does not load ({why}); run `python -m pip install --force-reinstall torch`")
    if found["paths"]["demo model"] is None:
        wrong.append("the model that ships inside is missing; name a model in each command, or reinstall llm_cli")
    return wrong


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _versions() -> dict[str, Any]:
    names = {found.metadata["Name"] or "" for found in distributions()}
    family = sorted(name for name in names if name.startswith("llm_"))
    return {
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        **{name: version(name) for name in family},
        **{name: _version(name) for name in LIBRARIES},
        "architectures": model_types(),
    }


def _torch_error() -> str | None:
    """Why torch can't be imported, in one line: it is absent, or a library that it needs is."""
    try:
        import torch  # noqa: F401  whether it loads is the question
    except (ImportError, OSError) as error:
        return " ".join(str(error).split())
    return None


def _devices() -> dict[str, Any]:
    import torch

    present = torch.cuda.is_available()
    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if present else []
    return {"cuda": cuda, "cuda version": torch.version.cuda, "mps": torch.backends.mps.is_available()}


def _cpu(*, with_torch: bool) -> dict[str, Any]:
    found = {"model": _cpu_model(), "cores": os.cpu_count(), "instruction sets": _instruction_sets()}
    if not with_torch:
        return found
    import torch

    import llm_quant

    return found | {
        "torch threads": torch.get_num_threads(),
        "torch capability": torch.backends.cpu.get_cpu_capability(),
        "onednn": torch.backends.mkldnn.is_available(),
        "kernels": llm_quant.level() or f"none: {llm_quant.reason()}",
    }


def _cpu_lines() -> list[str]:
    """The description of the first core, where the system has /proc."""
    path = Path("/proc/cpuinfo")
    return path.read_text(errors="replace").split("\n\n")[0].splitlines() if path.exists() else []


def _cpu_model() -> str:
    named = [line.partition(":")[2].strip() for line in _cpu_lines() if line.startswith("model name")]
    return named[0] if named else (platform.processor() or platform.machine())


def _instruction_sets() -> list[str]:
    for line in _cpu_lines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            flags = set(value.split())
            return [flag for flag in (*CPU_FLAGS, *ARM_FLAGS) if flag in flags]
    return []


def _compiler() -> dict[str, Any]:
    """The C compiler that optional kernels would be built with: CC, else the first of cc, gcc, clang, cl."""
    named = os.environ.get("CC", "").split()[:1]
    path = next((found for name in (*named, "cc", "gcc", "clang", "cl") if (found := shutil.which(name))), None)
    return {"path": path, "version": _first_line(path) if path else None}


def _first_line(compiler: str) -> str | None:
    try:
        answer = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return next(iter((answer.stdout or answer.stderr).splitlines()), None)


def _paths() -> dict[str, Any]:
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return {
        "llm": shutil.which("llm"),
        "other llm": other_command(),
        "checkpoints": str(checkpoint_root().resolve()),
        "models there": local_names(),
        "demo model": str(DEMO) if (DEMO / "config.json").exists() else None,
        "hub cache": os.path.expanduser(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")),
        "hub": os.environ.get("HF_ENDPOINT") or "https://huggingface.co",
        "hub token": "set" if os.environ.get("HF_TOKEN") else "not set",
    }


def _space() -> dict[str, Any]:
    free = shutil.disk_usage(Path.cwd()).free
    return {"memory": _memory("MemTotal"), "memory free": _memory("MemAvailable"), "disk free": human_bytes(free)}


def _memory(field: str) -> str | None:
    """A line of /proc/meminfo, which counts in KiB; elsewhere the whole memory where the system tells it."""
    path = Path("/proc/meminfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith(field + ":"):
                return human_bytes(int(line.split()[1]) * 1024)
    if field == "MemTotal" and "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        return human_bytes(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return None

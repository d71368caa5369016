"""Test the CPU kernels of 64-bit Arm on any machine: make arm.

The library and llm_quant/tests/levels.c are compiled for Arm, as they are and with what watches memory and undefined
behaviour, and run in an emulator of processors with more and with fewer instructions. Speed can't be seen there.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from sanitize import FLAGS
from workspace import ROOT

COMPILER = "aarch64-linux-gnu-gcc"
EMULATORS = ("qemu-aarch64-static", "qemu-aarch64")
LIBRARIES = "/usr/aarch64-linux-gnu"  # where Debian has those of Arm
LEVELS = ("neon_bf16", "neon_dot", "neon", "portable")
PROCESSORS = {"cortex-a57": LEVELS[2:], "cortex-a76": LEVELS[1:], "max": LEVELS}


def main() -> None:
    emulator = next(filter(None, map(shutil.which, EMULATORS)), None)
    if emulator is None or shutil.which(COMPILER) is None:
        raise SystemExit(
            f"{COMPILER} and {EMULATORS[0]} are needed: "
            "apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static"
        )
    with tempfile.TemporaryDirectory() as folder:
        plain, watched = build(Path(folder, "plain")), build(Path(folder, "watched"), *FLAGS)
        for processor, levels in PROCESSORS.items():
            run(emulator, processor, plain, levels)
        run(emulator, "max", watched, LEVELS)


def build(folder: Path, *flags: str) -> Path:
    """The test, linked with a library in the same folder."""
    folder.mkdir()
    library, test, package = folder / "_kernels.so", folder / "levels", ROOT / "llm_quant"
    build = [sys.executable, package / "hatch_build.py", library, *flags]
    subprocess.run(build, check=True, env={**os.environ, "CC": COMPILER})
    warnings = ["-Wall", "-Wextra", "-Werror"]
    headers, source = f"-I{package / 'src' / 'llm_quant' / 'kernels'}", package / "tests" / "levels.c"
    command = [COMPILER, "-O1", "-std=c11", *warnings, *flags, "-fopenmp", headers, source, library, "-lm"]
    subprocess.run([*command, f"-Wl,-rpath,{folder}", "-o", test], check=True)
    return test


def run(emulator: str, processor: str, test: Path, levels: tuple[str, ...]) -> None:
    print(f"{processor}, {test.parent.name}: ", end="", flush=True)
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}  # which an emulated process can't look for
    done = subprocess.run([emulator, "-L", LIBRARIES, "-cpu", processor, test, *levels], env=environment)
    if done.returncode != 0:
        raise SystemExit(f"failed with status {done.returncode}")


if __name__ == "__main__":
    main()

"""Compile the kernels when a wheel is built or the package is installed in place; without a compiler, go on without."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = Path(__file__).parent / "src" / "llm_quant"
SOURCES, LIBRARY = PACKAGE / "kernels", PACKAGE / "_kernels.so"
COMMON = ["-O3", "-std=c11", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-ffp-contract=off"]
AVX512 = [f"-mavx512{part}" for part in ("f", "bw", "vl", "dq", "vnni", "bf16")]
THREADED = ("entry", "run", "bit4")  # what shares work out between threads
# Each level of instructions has a file of its own, so that no other code can use what a processor may lack.
WIDE = [*AVX512, "-mprefer-vector-width=512"]
X86 = {"avx2": ["-mavx2", "-mfma", "-mf16c"], **dict.fromkeys(("avx512", "avx512_products", "avx512_bit4"), WIDE)}
ARM = {"neon_dot": ["-march=armv8.2-a+dotprod"], "neon_bf16": ["-march=armv8.2-a+dotprod+bf16"]}
Flags: TypeAlias = Mapping[str, Sequence[str]]
FLAGS: Mapping[str, Flags] = {"x86_64": X86, "amd64": X86, "aarch64": ARM, "arm64": ARM}


class CustomBuildHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        problem = compile_kernels(LIBRARY)
        if problem is not None:
            LIBRARY.unlink(missing_ok=True)
            sys.stderr.write(f"llm_quant: no kernels, so torch's own operators serve: {problem}\n")
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{_platform_tag()}"


def compile_kernels(library: Path, extra: Sequence[str] = ()) -> str | None:
    """Build the shared library `library` with extra flags; what was in the way, or None."""
    compiler = os.environ.get("CC") or next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        return "there is no C compiler (cc, gcc or clang) on the path"
    if os.name == "nt":
        return "they are not built on Windows"
    with tempfile.TemporaryDirectory(dir=library.parent) as built:
        try:
            target = _run([*compiler.split(), "-dumpmachine"])  # not always this machine
            flags = FLAGS.get(target.partition("-")[0].lower(), {})
            objects = [_compile(compiler, source, Path(built), flags, extra) for source in sorted(SOURCES.glob("*.c"))]
            # The OpenMP library stays open: at run time it is the one that torch has, so that both share their threads.
            shared = ["-dynamiclib", "-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-shared"]
            _run([*compiler.split(), *shared, *extra, "-o", f"{built}/out", *objects])
        except subprocess.CalledProcessError as error:
            lines = (error.stderr or "").splitlines()
            return f"{compiler} failed: {next((line for line in lines if 'error' in line), error)}"
        Path(built, "out").replace(library)
    return None


def _compile(compiler: str, source: Path, folder: Path, flags: Flags, extra: Sequence[str]) -> str:
    """The object file of one source, in `folder`."""
    target = str(folder / f"{source.stem}.o")
    openmp = ["-fopenmp"] if source.stem in THREADED else []
    _run([*compiler.split(), *COMMON, *extra, *flags.get(source.stem, []), *openmp, "-c", str(source), "-o", target])
    return target


def _run(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _platform_tag() -> str:
    from packaging.tags import sys_tags

    return next(sys_tags()).platform


if __name__ == "__main__":  # LIBRARY FLAGS...: for the tools of this repository
    sys.exit(compile_kernels(Path(sys.argv[1]), sys.argv[2:]))

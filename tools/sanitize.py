"""Test the CPU kernels with what watches memory and undefined behaviour: make sanitize.

The library is compiled once more, with AddressSanitizer and UndefinedBehaviorSanitizer, and the kernels' own tests run
with it in a process of their own. A finding ends that process.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from workspace import ROOT

TESTED = ("kernels", "steps", "attend", "recording", "bit4")
FLAGS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g"]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "_kernels.so"
        subprocess.run([sys.executable, ROOT / "llm_quant" / "hatch_build.py", library, *FLAGS], check=True)
        found = (
            subprocess.check_output(["gcc", f"-print-file-name=lib{name}.so"], text=True) for name in ("asan", "ubsan")
        )
        environment = {
            **os.environ,
            "LD_PRELOAD": " ".join(path.strip() for path in found),
            "LLM_KERNELS_LIBRARY": str(library),
            "ASAN_OPTIONS": "detect_leaks=0:verify_asan_link_order=0",  # Python keeps what it has until it ends
            "OMP_NUM_THREADS": "2",
        }
        tests = [ROOT / "llm_quant" / "tests" / f"test_{name}.py" for name in TESTED]
        raise SystemExit(
            subprocess.run([sys.executable, "-m", "pytest", "-q", *tests], env=environment, cwd=ROOT).returncode
        )


if __name__ == "__main__":
    main()

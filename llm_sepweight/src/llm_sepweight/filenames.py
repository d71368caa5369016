"""`python -m llm_sepweight.filenames "b 0-16"` prints the names of the files that a part needs, one a line."""

import argparse
import sys
from collections.abc import Sequence

from .part_files import get_filenames

__all__ = ["get_filenames", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints file names to stdout; returns the exit code, 2 for a spec that can't be understood."""
    parser = argparse.ArgumentParser(prog="python -m llm_sepweight.filenames", description=__doc__)
    parser.add_argument("spec", help="part spec: f; 'b 0-12'; '12-24'; '24-32 e'")
    parser.add_argument("--num-layers", type=int, help="layers of the whole model; 'f' needs this or --path")
    parser.add_argument("--path", help="a checkpoint to count the layers of")
    parser.add_argument("--extension", default=".safetensors", choices=[".safetensors", ".pth"])
    options = parser.parse_args(arguments)
    try:
        names = get_filenames(
            options.spec, num_layers=options.num_layers, path=options.path, extension=options.extension
        )
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.writelines(f"{name}\n" for name in names)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

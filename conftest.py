"""The folders at the root have the names of the packages inside them, and pytest's importlib mode would take an empty
folder for the package of that name: so the real packages, as far as they are installed, are imported first."""

import importlib
from importlib.util import find_spec
from pathlib import Path

for folder in sorted(Path(__file__).parent.glob("llm_*")):
    spec = find_spec(folder.name)
    if spec is not None and spec.origin is not None:  # a namespace package has no origin
        importlib.import_module(folder.name)

"""`llm export`: a checkpoint for other programs. Each format is a module beside this one, imported when asked for."""

from __future__ import annotations

from cyclopts import App

# A format is a line here and a function of its name in `export_<name>.py`.
FORMATS = {
    "hf": "Write the folder that transformers and its kin load.",
    "gguf": "Write the file that llama.cpp and its kin run.",
}

export = App(name="export", help="Write a checkpoint for other programs: `llm export FORMAT MODEL --out ...`.")
for _name, _summary in FORMATS.items():
    export.command(f"llm_cli.commands.export_{_name}:{_name}", name=_name, help=_summary)

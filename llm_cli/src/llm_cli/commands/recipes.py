"""`llm recipes`: files of settings that ship with the package."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from llm_cli.errors import usage
from llm_cli.output import write_json, write_lines, write_text


def recipes(
    name: Annotated[str | None, Parameter(help="A recipe to print, as in llama-3.2-1b/lora.")] = None,
    /,
    *,
    json: Annotated[bool, Parameter(help="One JSON object: all recipes, or the settings of NAME.")] = False,
) -> None:
    """List the recipes of `llm finetune --config NAME`, or print one to start from."""
    from llm_finetune import recipes as shipped
    from llm_finetune.config_file import read_options

    if name is not None:
        with usage():
            path = shipped.recipe_path(name)
        return write_json(read_options(path)) if json else write_text(path.read_text(encoding="utf-8"))
    rows = []
    for recipe in shipped.recipes():
        has = read_options(recipe.path)
        method = "qlora" if has.get("quantize") else has["method"]
        rows.append({"name": recipe.name, "model": has.get("model"), "method": method, "needs": recipe.needs})
    if json:
        return write_json({"recipes": rows})
    table = [("name", "model", "method", "needs"), *(tuple(row[key] or "the demo" for key in row) for row in rows)]
    widths = [max(len(line[i]) for line in table) for i in range(3)]
    return write_lines(*("  ".join((*map(str.ljust, line[:3], widths), line[3])) for line in table))

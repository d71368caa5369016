"""`llm doctor`: what this machine and installation offer, to read and to paste into a report."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from llm_cli.output import write_json, write_lines, write_table


def doctor(*, json: Annotated[bool, Parameter(help="Print one JSON object.")] = False) -> int:
    """Tell versions, devices, instruction sets, compiler, paths and free space; exits with 1 for a problem."""
    from llm_cli.diagnosis import diagnose, problems

    found = diagnose()
    wrong = problems(found)
    if json:
        write_json({**found, "problems": wrong})
        return 1 if wrong else 0
    for section, rows in found.items():
        write_lines(f"[{section}]")
        write_table({name: _plain(value) for name, value in rows.items()})
    write_lines(*(f"problem: {problem}" for problem in wrong) if wrong else ("no problems found",))
    return 1 if wrong else 0


def _plain(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)

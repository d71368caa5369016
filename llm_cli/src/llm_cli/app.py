"""The command line: which commands there are, how options and environment become arguments, how errors are told.

A command module is imported when its command runs, never for `llm --help`.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from cyclopts import App, Parameter, Token, env_var_split

from llm_cli import argv as command_line
from llm_cli import errors
from llm_cli.output import write_notice
from llm_cli.usage import usage_sentence

if TYPE_CHECKING:
    from cyclopts.argument import ArgumentCollection

COMMANDS = {
    "generate": "Continue a prompt.",
    "chat": "Talk with a model.",
    "download": "Fetch a model from the hub, or list what can be fetched.",
    "info": "Tell what a checkpoint holds and the memory it needs.",
    "convert": "Turn a checkpoint into another layout.",
    "quantize": "Make a checkpoint with weights of 8 or 4 bits.",
    "evaluate": "Measure how good a model is, also quantized.",
    "finetune": "Train a model on your own data.",
    "finetune_lora": "The same with LoRA or QLoRA.",
    "finetune_full": "The same with all weights.",
    "finetune_adapter": "The same with LLaMA-Adapter.",
    "finetune_adapter_v2": "The same with LLaMA-Adapter V2.",
    "merge_lora": "Merge a LoRA adapter into its base model.",
    "recipes": "List or print the settings that ship for finetuning.",
    "export": "Write a checkpoint for other programs.",
    "doctor": "Tell what this machine and installation offer.",
}
MODULES = {
    name: "finetune" for name in COMMANDS if name.startswith("finetune_")
}  # those that aren't in one of their own
EPILOGUE = (
    "Each option can also be set by an environment variable: LLM_MAX_NEW_TOKENS=100 for --max_new_tokens 100. "
    "--debug shows the traceback of an error. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."
)


def build_app() -> App:
    """The `llm` command, with every subcommand registered by import path and none imported."""
    app = App(
        name="llm",
        help="Load, run and convert open-weight language models.",
        help_epilogue=EPILOGUE,
        help_format="plaintext",  # markdown would import a parser for it, a quarter of the time that --help takes
        version=describe_version,
        config=from_environment,
        default_parameter=Parameter(name_transform=_option_name, negative=(), allow_repeating=True),
        print_error=False,
        exit_on_error=False,
        suppress_keyboard_interrupt=False,
        result_action="return_value",
    )
    for name, summary in COMMANDS.items():
        app.command(f"llm_cli.commands.{MODULES.get(name, name)}:{name}", name=name, help=summary)
    app.register_install_completion_command(help="Install completion for the shell that runs this.")
    return app


def run(tokens: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; expected errors are told on stderr, not raised."""
    from cyclopts import CycloptsError

    argv, debug = command_line.split_debug(sys.argv[1:] if tokens is None else tokens)
    app = build_app()
    try:
        command, _ = command_line.command_of(app, argv)
        if command.default_command is not None:
            command.help = None  # the summary of the list gives way to the command's own text
        status = app(command_line.normalise(app, argv))
        return status if isinstance(status, int) else errors.DONE
    except BrokenPipeError:
        raise  # whoever reads our output has gone; `main` ends quietly
    except CycloptsError as error:
        return report(error, usage_sentence(app, error, argv), argv, debug, errors.USAGE)
    except errors.UsageError as error:
        return report(error, errors.explain(error), argv, debug, errors.USAGE)
    except errors.EXPECTED as error:
        return report(error, errors.explain(error), argv, debug, errors.FAILED)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return errors.INTERRUPTED


def report(error: BaseException, sentence: str, argv: Sequence[str], debug: bool, code: int) -> int:
    """Tell an error on stderr, with its traceback when asked for and no access token in either; returns `code`."""
    from llm_cli.clash import other_command

    lines = [errors.formatted_traceback(error).rstrip()] if debug else []
    lines.append(f"llm: error: {sentence}")
    clash = other_command()
    if clash is not None:
        lines.append(f"llm: note: {clash}; `python -m llm_cli` always runs this one")
    write_notice(errors.redact("\n".join(lines), errors.secrets(argv)))
    return code


def from_environment(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Give each option that the command line left out the value of LLM_<OPTION>, where that is set and not empty.

    Matched by the exact name: other LLM_ variables mean nothing here. Positional arguments are not read, because
    another program that is called `llm` has an LLM_MODEL of its own, and neither are options that help doesn't show,
    which are there to be refused.
    """
    for argument in arguments:
        variable = "LLM_" + argument.name.lstrip("-").upper().replace("-", "_").replace(".", "_")
        value = os.environ.get(variable)
        if not value or argument.index is not None or argument.has_tokens or not (argument.parse and argument.show):
            continue
        for i, part in enumerate(env_var_split(argument.hint, value)):
            argument.append(Token(keyword=variable, value=part, source="env", index=i))


def describe_version() -> str:
    """One line: this package, torch and Python, read from metadata so that nothing is imported."""
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = "not installed"
    return f"llm_cli {version('llm_cli')} (torch {torch}, Python {platform.python_version()})"


def _option_name(parameter: str) -> str:
    """Options are shown as the parameters are written, with underscores; the parser takes hyphens as well."""
    return parameter.strip("_")

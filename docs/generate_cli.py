"""Writes docs/reference/cli.md from the command line's own parsers. A test compares the two.

Run it as ``python docs/generate_cli.py``.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from prefork.engine.cli.failures import ExitCode
from prefork.engine.cli.main import COMMANDS
from prefork.engine.cli.options import global_parser
from prefork.engine.cli.worker_options import WITHOUT_EFFECT

PAGE = Path(__file__).parent / "reference" / "cli.md"

EXIT_CODES = {
    ExitCode.OK: "done; for `health`, all is well",
    ExitCode.FAILED: "the command failed, or the task whose result was asked for did",
    ExitCode.USAGE: "the command line is wrong, or the application cannot be found",
    ExitCode.BOOT_FAILED: "the worker could not boot",
    ExitCode.UNAVAILABLE: "the broker or the result store cannot be reached",
    ExitCode.NOT_READY: "there is no result yet",
    ExitCode.CONFIG: (
        "the configuration is wrong, or asks for what the broker cannot do; all problems are listed"
    ),
    ExitCode.INTERRUPTED: "interrupted from the keyboard",
}

HEAD = """# The command line

`prefork [global options] COMMAND [options]`, or `python -m prefork.engine`. Global options may stand
before or after the command. This page is made from the program by `docs/generate_cli.py`.

No command prints a traceback for a mistake of its user: one line on standard error, and an exit code.

## Exit codes

| code | meaning |
|---|---|
"""

WORKER_NOTE = """
Options of Celery's that have nothing to act on here are accepted, so that a command line moves over
unchanged, and are listed once when the worker starts: {flags}.

The worker's process is the supervisor: signals for it are in [Deploy a worker](../how-to/deploy.md#signals).
"""


def page() -> str:
    """The page as it should be."""
    lines = [HEAD + "\n".join(f"| {int(code)} | {meaning} |" for code, meaning in EXIT_CODES.items())]
    lines.append("\n## Global options\n")
    lines.extend(_table(global_parser()))
    for name, (module, summary) in COMMANDS.items():
        parser = argparse.ArgumentParser(prog=f"prefork {name}", add_help=False)
        importlib.import_module(f"prefork.engine.cli.{module}").configure(parser)
        lines.append(f"\n## prefork {name}\n\n{summary[0].upper()}{summary[1:]}.\n")
        lines.extend(_table(parser))
        if name == "worker":
            lines.append(WORKER_NOTE.format(flags=", ".join(f"`{flag}`" for flag in WITHOUT_EFFECT)))
    text = "\n".join(lines)
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text.rstrip() + "\n"


def _table(parser: argparse.ArgumentParser) -> list[str]:
    rows = [_row(action) for action in parser._actions if action.help != argparse.SUPPRESS]
    return ["| option | meaning |", "|---|---|", *rows] if rows else ["No options of its own."]


def _row(action: argparse.Action) -> str:
    choices = "|".join(map(str, action.choices or ()))
    metavar = action.metavar or choices or action.dest.upper()
    value = f" {metavar}" if action.nargs != 0 and action.option_strings else ""
    name = ", ".join(f"`{flag}{value}`" for flag in action.option_strings) or f"`{metavar}`"
    meaning = (action.help or "").replace("%%", "%").replace("|", "\\|")
    return f"| {name.replace('|', chr(92) + '|')} | {meaning} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

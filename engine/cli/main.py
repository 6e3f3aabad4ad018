"""Entry point of the `prefork` command.

Only the command that was asked for is imported, so that `prefork health` costs what it needs.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Protocol, cast

from .failures import CommandError, ExitCode
from .options import GlobalOptions, collect, global_parser, split_at_command, with_urls_of
from .output import complain

# name -> (module in this package, one line of help)
COMMANDS: dict[str, tuple[str, str]] = {
    "worker": ("worker", "run a worker"),
    "call": ("call", "send one task by name"),
    "result": ("result", "print a stored result"),
    "unique": ("unique", "show or free what keeps an equal task from being sent"),
    "purge": ("purge", "drop waiting messages"),
    "list": ("listing", "list registered tasks, or queue bindings"),
    "status": ("status", "which workers of a broker are there"),
    "inspect": ("inspect", "ask the workers of a broker what they do"),
    "control": ("control", "revoke tasks, change limits and pools of the workers of a broker"),
    "queues": ("queues", "how many messages are ready, delayed, in work, dead"),
    "release": ("release", "hand what waits back to the queues that Celery's workers read"),
    "dead": ("dead", "list, show, replay or drop dead letters"),
    "config": ("configuration", "the effective configuration and where each value came from"),
    "report": ("report", "versions and settings, for a bug report"),
    "health": ("health", "ask running workers on this host whether they are well"),
    "bench": ("bench", "measure this host against a broker, and recommend settings"),
    "demo": ("demo", "run the engine on real work, with planned misfortunes"),
}


class Command(Protocol):
    """What a module of a command provides."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's own options."""

    def run(self, arguments: argparse.Namespace, options: GlobalOptions) -> int:
        """Do it; returns the exit status."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    :param argv: the arguments without the program's name; None takes the process's own.
    :returns: the exit status (`ExitCode`).
    """
    try:
        return _dispatch(sys.argv[1:] if argv is None else argv)
    except CommandError as error:
        complain(f"error: {error}")
        return error.code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) went away. Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK


def _dispatch(argv: Sequence[str]) -> int:
    before, name, after = split_at_command(argv)
    namespace = _top_parser().parse_args(before)
    if name is None:
        _top_parser().print_help(sys.stderr)
        return ExitCode.USAGE
    if name == "help":
        _top_parser().print_help()
        return ExitCode.OK
    if name not in COMMANDS:
        near = [known for known in COMMANDS if known.startswith(name[:2])]
        hint = f"; did you mean {near[0]!r}?" if near else ""
        known = ", ".join(COMMANDS)
        raise CommandError(f"there is no command {name!r}{hint} (commands: {known})", ExitCode.USAGE)
    module, summary = COMMANDS[name]
    command = cast(Command, importlib.import_module(f".{module}", __package__))
    parser = argparse.ArgumentParser(
        prog=f"prefork {name}",
        description=f"{summary[0].upper()}{summary[1:]}.",
        parents=[global_parser()],
        allow_abbrev=False,
    )
    command.configure(parser)
    arguments = parser.parse_args(after, namespace)
    options = with_urls_of(collect(arguments, os.environ.get("PREFORK_APP")), sys.stdin)
    return command.run(arguments, options)


def _top_parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:<{width}}  {summary}" for name, (_, summary) in COMMANDS.items())
    return argparse.ArgumentParser(
        prog="prefork",
        usage="prefork [global options] COMMAND [options]",
        description=f"A task engine with pre-forked workers.\n\ncommands:\n{listing}",
        epilog="prefork COMMAND --help says what a command takes.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[global_parser()],
        allow_abbrev=False,
    )

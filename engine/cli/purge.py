"""`prefork purge`: drop what waits, after asking."""

from __future__ import annotations

import argparse
import sys

from ..unique_purge import purge, told
from .failures import CommandError, ExitCode
from .options import GlobalOptions
from .output import safe, say
from .queues import chosen_queues
from .session import session, transport_of


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `purge`."""
    parser.add_argument("-f", "--force", action="store_true", help="do not ask")
    parser.add_argument("-Q", "--queues", metavar="A,B", help="these queues (default: the configured ones)")
    parser.add_argument("-X", "--exclude-queues", metavar="A,B", help="but not these")


def run(arguments: argparse.Namespace, options: GlobalOptions) -> int:
    """Drop ready, delayed and limited messages; those in work and the dead letters stay."""
    with session(options) as app:
        names = chosen_queues(app, arguments.queues, arguments.exclude_queues)
        if not names:
            raise CommandError("purge: no queue is left to purge", ExitCode.USAGE)
        if not arguments.force and not _confirmed(names):
            say("nothing was dropped")
            return ExitCode.FAILED
        transport, table = transport_of(app), app.client.table
        dropped = [(safe(name), purge(transport, name, app.tasks, table)) for name in names]
    for line in told(dropped):
        say(line)
    return ExitCode.OK


def _confirmed(names: list[str]) -> bool:
    shown = ", ".join(safe(name) for name in names)
    if not sys.stdin.isatty():
        raise CommandError(
            f"purge: would drop every message that waits in {shown}; say so with -f", ExitCode.USAGE
        )
    answer = input(f"Drop every message that waits in {shown}? There is no way back. (yes/no) ")
    return answer.strip().lower() in {"y", "yes"}

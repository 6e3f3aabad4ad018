"""`prefork list`: registered tasks, or the queues that an application binds."""

from __future__ import annotations

import argparse

from ..routes import queue_specs
from .failures import CommandError, ExitCode
from .options import GlobalOptions
from .output import as_json, say, table
from .session import config_of, session


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `list`."""
    parser.add_argument(
        "what", nargs="?", default="tasks", choices=("tasks", "bindings"), help="default: tasks"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace, options: GlobalOptions) -> int:
    """Print one line per task, or per binding."""
    if options.app is None:
        raise CommandError("list: which application? Give -A MODULE[:ATTRIBUTE]", ExitCode.USAGE)
    with session(options) as app:
        if arguments.what == "tasks":
            app.finalize()
            names = sorted(name for name in app.tasks if not name.startswith("celery."))
            say(as_json(names) if arguments.json else "\n".join(names) if names else "no tasks")
            return ExitCode.OK
        rows = [(q.name, q.exchange, q.routing_key) for q in queue_specs(config_of(app)).values()]
    headings = ("queue", "exchange", "routing_key")
    if arguments.json:
        say(as_json([dict(zip(headings, row, strict=True)) for row in rows]))
    else:
        say(table([heading.replace("_", " ") for heading in headings], rows))
    return ExitCode.OK

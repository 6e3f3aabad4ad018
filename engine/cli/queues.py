"""`prefork queues`: how much is where."""

from __future__ import annotations

import argparse
from collections import Counter

from ..app import App
from ..limits.lanes import is_lane
from ..limits.upkeep import lanes_of_queue
from ..routes import queue_specs
from .failures import ExitCode
from .options import GlobalOptions
from .output import as_json, say, table
from .session import config_of, session, transport_of

_DEAD_COUNTED_MAX = 100_000


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `queues`."""
    parser.add_argument("-Q", "--queues", metavar="A,B", help="these only")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace, options: GlobalOptions) -> int:
    """Print one line per queue that exists or is configured."""
    with session(options) as app:
        transport = transport_of(app)
        dead = Counter(letter.queue for letter in transport.dead_letters(_DEAD_COUNTED_MAX))
        names = known_queues(app, set(dead))
        if arguments.queues:
            chosen = chosen_queues(app, arguments.queues, None)
            names = [one for name in chosen for one in (name, *lanes_of_queue(transport, name, app.tasks))]
        rows = []
        for name in names:
            depth = transport.depth(name)
            counts = (depth.ready, depth.delayed, depth.in_work, dead[name])
            if any(counts) or not is_lane(name):  # a lane comes and goes
                rows.append((name, *counts))
    headings = ("queue", "ready", "delayed", "in_work", "dead")
    if arguments.json:
        say(as_json([dict(zip(headings, row, strict=True)) for row in rows]))
    else:
        say(table([heading.replace("_", " ") for heading in headings], rows))
    return ExitCode.OK


def configured_queues(app: App) -> list[str]:
    """Names of the queues that a worker of this application consumes from."""
    return list(queue_specs(config_of(app)))


def known_queues(app: App, more: set[str]) -> list[str]:
    """Configured queues first, then those that merely exist."""
    configured = configured_queues(app)
    return [*configured, *sorted((more | set(transport_of(app).queues())) - set(configured))]


def chosen_queues(app: App, only: str | None, but: str | None) -> list[str]:
    """The queues that a command is about: the configured ones, unless others are named."""
    named = [name.strip() for name in (only or "").split(",") if name.strip()]
    excluded = {name.strip() for name in (but or "").split(",")}
    return [name for name in named or configured_queues(app) if name not in excluded]

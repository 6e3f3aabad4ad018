"""`prefork control`: tell the workers of a broker to change something."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from . import remote
from .options import GlobalOptions
from .remote import Parameter, RemoteCommand


def _rate(text: str) -> Any:
    """A rate as it was typed; ``none`` lifts the limit, a number is a number."""
    if text.lower() in {"none", "null"}:
        return None
    try:
        return float(text)
    except ValueError:
        return text


def _limit(text: str) -> float | None:
    """Seconds; ``none`` is what the worker says."""
    if text.lower() in {"none", "null"}:
        return None
    try:
        return float(text)
    except ValueError:
        raise ValueError("give seconds, or none") from None


def _count(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("give a whole number")
    return int(text)


COMMANDS: Final[Mapping[str, RemoteCommand]] = MappingProxyType(
    {
        "revoke": RemoteCommand("have tasks not run, by id", variadic="task_id"),
        "terminate": RemoteCommand(
            "have tasks not run, and end those that run", [Parameter("signal", required=True)], "task_id"
        ),
        "revoke_by_stamped_headers": RemoteCommand("have tasks not run, by header=value", variadic="headers"),
        "rate_limit": RemoteCommand(
            "change the rate limit of a task (10/s, 100/m, 5/h; 0 pauses it, none lifts it)",
            [Parameter("task_name", required=True), Parameter("rate_limit", _rate, required=True)],
        ),
        "time_limit": RemoteCommand(
            "change the time limits of a task, in seconds (none: what the worker has)",
            [
                Parameter("task_name", required=True),
                Parameter("soft", _limit, required=True),
                Parameter("hard", _limit),
            ],
        ),
        "pool_grow": RemoteCommand("start so many children more (1)", [Parameter("n", _count)]),
        "pool_shrink": RemoteCommand("let so many children go (1)", [Parameter("n", _count)]),
        "shutdown": RemoteCommand("finish what runs, then leave", answered=False),
    }
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `control`."""
    remote.configure(parser, COMMANDS)


def run(arguments: argparse.Namespace, options: GlobalOptions) -> int:
    """Send the command, and print the answers."""
    return remote.run("control", COMMANDS, arguments, options)

"""`prefork inspect`: ask the workers of a broker what they do."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from . import remote
from .options import GlobalOptions
from .remote import Parameter, RemoteCommand


def _yes(text: str) -> bool:
    if text.lower() in {"1", "true", "yes", "on"}:
        return True
    if text.lower() in {"0", "false", "no", "off"}:
        return False
    raise ValueError("say true or false")


COMMANDS: Final[Mapping[str, RemoteCommand]] = MappingProxyType(
    {
        "active": RemoteCommand("the tasks that run"),
        "active_queues": RemoteCommand("the queues that are consumed"),
        "clock": RemoteCommand("the logical clock"),
        "conf": RemoteCommand("the configuration, secrets masked", [Parameter("with_defaults", _yes)]),
        "ping": RemoteCommand("who is there"),
        "query_task": RemoteCommand("what is known of tasks, by id", variadic="ids"),
        "registered": RemoteCommand("the registered tasks, with attributes", variadic="taskinfoitems"),
        "report": RemoteCommand("versions and settings, for a bug report"),
        "reserved": RemoteCommand("the tasks that children hold and have not started"),
        "revoked": RemoteCommand("the ids of revoked tasks"),
        "scheduled": RemoteCommand("the tasks that wait in workers (those of prefork wait in the broker)"),
        "stats": RemoteCommand("counters and facts"),
    }
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `inspect`."""
    remote.configure(parser, COMMANDS)


def run(arguments: argparse.Namespace, options: GlobalOptions) -> int:
    """Ask, and print the answers."""
    return remote.run("inspect", COMMANDS, arguments, options)

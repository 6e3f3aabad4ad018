"""`prefork report`: what a bug report should say."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from importlib import metadata

from ..config import effective
from ..version import __version__
from .failures import ExitCode
from .options import GlobalOptions
from .output import safe, say
from .session import config_of, session

_PACKAGES = ("billiard", "kombu", "msgpack", "msgspec", "psutil", "setproctitle", "redis", "amqp")


def configure(parser: argparse.ArgumentParser) -> None:
    """`report` has no options of its own."""


def run(arguments: argparse.Namespace, options: GlobalOptions) -> int:
    """Print versions, and with an application what it changed in the configuration (secrets masked)."""
    say(f"prefork {__version__}")
    say(f"python {platform.python_version()} ({platform.python_implementation()}) {sys.executable}")
    say(f"system {platform.platform()}, {len(os.sched_getaffinity(0))} CPUs")
    say(f"packages {', '.join(_versions())}")
    if options.app is None and options.broker is None:
        return ExitCode.OK
    with session(options) as app:
        changed = [row for row in effective(config_of(app)) if row[2] != "default"]
        app.finalize()
        count = sum(not name.startswith("celery.") for name in app.tasks)
    say(f"app {safe(str(app.main))}, {count} tasks")
    for key, value, source in changed:
        say(f"  {key} = {safe(str(value))}  ({source})")
    return ExitCode.OK


def _versions() -> list[str]:
    found = []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"{name} -")
    return found

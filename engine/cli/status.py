"""`prefork status`: which workers of a broker are there."""

from __future__ import annotations

import argparse

from . import remote
from .failures import ExitCode
from .options import GlobalOptions
from .output import as_json, safe, say


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `status`."""
    remote.configure(parser, None)


def run(arguments: argparse.Namespace, options: GlobalOptions) -> int:
    """Ping, and list who answers; exits with 69 when nobody does."""
    replies = remote.ask("ping", {}, arguments, options)
    if arguments.json:
        say(as_json(replies))
        return ExitCode.OK
    for node, answer in sorted(replies.items()):
        say(f"{safe(node)}: {remote.shown(answer)[0]}")
    remote.count_nodes(len(replies))
    return ExitCode.OK

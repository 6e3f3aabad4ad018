"""`prefork unique`: which task keeps an equal one from being sent, and how to send the next one at once."""

from __future__ import annotations

import argparse

from ..exceptions import InvalidTaskError
from .call import add_call, json_of
from .failures import CommandError, ExitCode
from .options import GlobalOptions
from .output import complain, say
from .session import session


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `unique`."""
    parser.add_argument(
        "action", choices=("show", "free"), help="show whose lock it is, or take the lock from it"
    )
    add_call(parser)


def run(arguments: argparse.Namespace, options: GlobalOptions) -> int:
    """Print the id of the task that has the lock: exit 0; 1 when nobody has it."""
    args = json_of("--args", arguments.args, list)
    kwargs = json_of("--kwargs", arguments.kwargs, dict)
    with session(options) as app:
        act = app.client.unique.free if arguments.action == "free" else app.client.unique.holder
        try:
            held = act(arguments.name, args, kwargs)
        except InvalidTaskError as error:
            raise CommandError(f"{arguments.name}: {error}", ExitCode.USAGE) from error
    if held is None:
        complain(f"{arguments.name}: nothing keeps such a call from being sent")
        return ExitCode.FAILED
    say(held)
    return ExitCode.OK

"""`prefork result`: a stored result."""

from __future__ import annotations

import argparse
from typing import Any

from .. import states
from ..exceptions import TimeoutError as ResultTimeout
from ..result import AsyncResult
from .failures import ExitCode
from .options import GlobalOptions
from .output import as_json, complain, safe, safe_lines, say
from .session import session

_DEFAULT_TIMEOUT_S = 60.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `result`."""
    parser.add_argument("id", help="the task's id")
    parser.add_argument("-t", "--task", help=argparse.SUPPRESS)
    add_waiting(parser)


def add_waiting(parser: argparse.ArgumentParser) -> None:
    """Add the options of a command that may wait for a result."""
    parser.add_argument("--wait", action="store_true", help="wait until it is there")
    parser.add_argument(
        "--timeout",
        type=float,
        default=_DEFAULT_TIMEOUT_S,
        metavar="SECONDS",
        help="wait no longer (default 60)",
    )
    parser.add_argument("--traceback", action="store_true", help="print the traceback of a failure")
    parser.add_argument("--json", action="store_true", help="print state, result and traceback as JSON")


def run(arguments: argparse.Namespace, options: GlobalOptions) -> int:
    """Print it: exit 0 for a success, 1 for a failure, 75 when there is none yet."""
    with session(options) as app:
        return show_outcome(AsyncResult(arguments.id, app=app), arguments)


def show_outcome(result: AsyncResult[Any], arguments: argparse.Namespace) -> int:
    """Print the outcome of a task, waiting for it first where that was asked for."""
    if arguments.wait:
        try:
            result.get(timeout=arguments.timeout, propagate=False)
        except ResultTimeout:
            complain(f"{result.id}: no result after {arguments.timeout:g} s")
            return ExitCode.NOT_READY
    state = result.state
    if arguments.json:
        say(
            as_json({"id": result.id, "state": state, "result": result.result, "traceback": result.traceback})
        )
    elif state == states.SUCCESS:
        say(as_json(result.result))
    elif (progress := result.progress) is not None:
        complain(f"{result.id}: {state}: {safe(str(progress))}")
    elif state not in states.READY_STATES:
        complain(f"{result.id}: {state}: no result yet, or no such task")
    elif arguments.traceback and result.traceback:
        say(safe_lines(str(result.traceback)))
    else:
        error = result.result
        complain(f"{result.id}: {state}: {type(error).__name__}: {safe(str(error))}")
    if state == states.SUCCESS:
        return ExitCode.OK
    return ExitCode.FAILED if state in states.READY_STATES else ExitCode.NOT_READY

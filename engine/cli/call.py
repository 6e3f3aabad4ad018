"""`prefork call`: send one task by name, and perhaps wait for it."""

from __future__ import annotations

import argparse
import json
from datetime import datetime
from typing import Any

from ...transports.envelope import PRIORITY_MAX
from ..exceptions import InvalidTaskError
from ..result import AsyncResult
from ..urgency import URGENCY_MAX
from .failures import CommandError, ExitCode
from .options import GlobalOptions
from .output import say
from .result import add_waiting, show_outcome
from .session import session


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `call`."""
    add_call(parser)
    parser.add_argument(
        "--countdown", type=float, metavar="SECONDS", help="not before that many seconds from now"
    )
    parser.add_argument("--eta", metavar="TIME", help="not before then, in ISO 8601")
    parser.add_argument("--expires", metavar="SECONDS|TIME", help="not after then")
    parser.add_argument("--queue", help="send it there")
    parser.add_argument("--exchange", help=argparse.SUPPRESS)
    parser.add_argument("--routing-key", help=argparse.SUPPRESS)
    parser.add_argument(
        "--priority",
        type=int,
        choices=range(PRIORITY_MAX + 1),
        metavar="0-9",
        help="what it means is the broker's business; RabbitMQ takes up to 255",
    )
    parser.add_argument(
        "--urgency",
        type=int,
        choices=range(URGENCY_MAX + 1),
        metavar="0-9",
        help="9 is served first, on every broker",
    )
    parser.add_argument("--serializer", help="json, msgpack or pickle")
    parser.add_argument("--task-id", metavar="ID", help="use this id")
    add_waiting(parser)


def add_call(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which task is meant, and with which arguments."""
    parser.add_argument("name", help="the task, as in shop.tasks.add")
    parser.add_argument(
        "-a", "--args", default="[]", metavar="JSON", help="positional arguments, a JSON list"
    )
    parser.add_argument(
        "-k", "--kwargs", default="{}", metavar="JSON", help="keyword arguments, a JSON object"
    )


def run(arguments: argparse.Namespace, options: GlobalOptions) -> int:
    """Send; print the id, or the result with ``--wait``."""
    args = json_of("--args", arguments.args, list)
    kwargs = json_of("--kwargs", arguments.kwargs, dict)
    sending = _sending(arguments)
    with session(options) as app:
        try:
            result: AsyncResult[Any] = app.send_task(arguments.name, args, kwargs, **sending)
        except (InvalidTaskError, TypeError, ValueError) as error:
            raise CommandError(f"{arguments.name}: {error}", ExitCode.USAGE) from error
        if not arguments.wait:
            say(result.id)
            return ExitCode.OK
        return show_outcome(result, arguments)


def _sending(arguments: argparse.Namespace) -> dict[str, Any]:
    given = {
        "countdown": arguments.countdown,
        "eta": None if arguments.eta is None else _moment("--eta", arguments.eta),
        "expires": None if arguments.expires is None else _expiry(arguments.expires),
        "queue": arguments.queue,
        "exchange": arguments.exchange,
        "routing_key": arguments.routing_key,
        "priority": arguments.priority,
        "urgency": arguments.urgency,
        "serializer": arguments.serializer,
        "task_id": arguments.task_id,
    }
    return {key: value for key, value in given.items() if value is not None}


def json_of(option: str, text: str, kind: type) -> Any:
    """What an option says in JSON.

    :raises CommandError: it is not JSON, or of another kind.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise CommandError(f"{option} {text}: not JSON: {error}", ExitCode.USAGE) from error
    if not isinstance(value, kind):
        wanted = "a list, as in '[1, 2]'" if kind is list else "an object, as in '{\"x\": 1}'"
        raise CommandError(f"{option} {text}: {wanted}", ExitCode.USAGE)
    return value


def _moment(option: str, text: str) -> datetime:
    try:
        # Before 3.11 the parser does not know the Z.
        return datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith(("Z", "z")) else text)
    except ValueError as error:
        raise CommandError(
            f"{option} {text}: a time as in 2030-01-31T12:00:00+00:00", ExitCode.USAGE
        ) from error


def _expiry(text: str) -> float | datetime:
    try:
        return float(text)
    except ValueError:
        return _moment("--expires", text)

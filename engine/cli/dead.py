"""`prefork dead`: messages that nobody will run again unless somebody says so."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from ...serializers.registry import SerializerTable
from ...transports.base import DeadLetter, Transport
from ..message import MalformedMessage, parse
from .failures import CommandError, ExitCode
from .options import GlobalOptions
from .output import as_json, complain, safe, say, table
from .session import session, transport_of

_LIMIT = 100
_ALL = 1_000_000
_RAW_BYTES_SHOWN = 4096


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `dead`."""
    parser.add_argument("action", nargs="?", default="list", choices=("list", "show", "replay", "drop"))
    parser.add_argument(
        "keys", nargs="*", metavar="KEY", help="as `dead list` prints them; the beginning suffices"
    )
    parser.add_argument("--all", action="store_true", help="every dead letter (of the chosen queue)")
    parser.add_argument("-Q", "--queue", help="only those of this queue")
    parser.add_argument("--limit", type=int, default=_LIMIT, metavar="N", help="list at most N (default 100)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace, options: GlobalOptions) -> int:
    """List, show, replay or drop."""
    with session(options) as app:
        transport = transport_of(app)
        if arguments.action == "list":
            return _list(transport, arguments)
        letters = _chosen(transport, arguments)
        if arguments.action == "show":
            return _show(letters, arguments)
        if arguments.action == "replay":
            return _each(letters, transport.dead_replay, "replayed")
        return _each(letters, transport.dead_drop, "dropped")


def _list(transport: Transport, arguments: argparse.Namespace) -> int:
    limit = arguments.limit if arguments.queue is None else _ALL
    letters = [x for x in transport.dead_letters(limit) if arguments.queue in (None, x.queue)][
        : arguments.limit
    ]
    if arguments.json:
        say(as_json([_described(letter) for letter in letters]))
    elif not letters:
        say("no dead letters")
    else:
        rows = [
            (x.key, x.queue, x.reason, *_task(x), x.crashes, _when(x), x.causes[-1] if x.causes else "")
            for x in letters
        ]
        say(table(("key", "queue", "reason", "task", "id", "crashes", "died", "last cause"), rows))
    return ExitCode.OK


def _chosen(transport: Transport, arguments: argparse.Namespace) -> list[DeadLetter]:
    if arguments.all == bool(arguments.keys):
        raise CommandError(f"dead {arguments.action}: give keys, or --all", ExitCode.USAGE)
    letters = [x for x in transport.dead_letters(_ALL) if arguments.queue in (None, x.queue)]
    if arguments.all:
        return letters
    return [_named(letters, key) for key in arguments.keys]


def _named(letters: list[DeadLetter], key: str) -> DeadLetter:
    exact = [letter for letter in letters if letter.key == key]
    found = exact or [letter for letter in letters if letter.key.startswith(key)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise CommandError(f"no dead letter has the key {safe(key)!r}; `prefork dead list` shows them")
    raise CommandError(f"{len(found)} dead letters have keys that begin with {safe(key)!r}; give more of it")


def _each(letters: list[DeadLetter], act: Callable[[str], bool], done: str) -> int:
    gone = [letter.key for letter in letters if not act(letter.key)]
    say(f"{len(letters) - len(gone)} {done}")
    for key in gone:
        complain(f"{key}: somebody else was faster")
    return ExitCode.FAILED if gone else ExitCode.OK


def _show(letters: list[DeadLetter], arguments: argparse.Namespace) -> int:
    if arguments.json:
        say(as_json([_described(letter) for letter in letters]))
        return ExitCode.OK
    for letter in letters:
        say("\n".join(f"{key:>10}: {safe(str(value))}" for key, value in _described(letter).items()))
    return ExitCode.OK


def _described(letter: DeadLetter) -> dict[str, Any]:
    raw = letter.document[:_RAW_BYTES_SHOWN].decode("utf-8", "backslashreplace")
    task, task_id = _task(letter)
    return {
        "key": letter.key,
        "queue": letter.queue,
        "reason": letter.reason,
        "task": task,
        "id": task_id,
        "crashes": letter.crashes,
        "died": _when(letter),
        "causes": list(letter.causes),
        "document": raw + ("..." if len(letter.document) > _RAW_BYTES_SHOWN else ""),
    }


def _task(letter: DeadLetter) -> tuple[str, str]:
    """The task's name and id, where the message still says so."""
    try:
        message = parse(letter.document, SerializerTable())
    except MalformedMessage as error:
        return error.task or "", error.task_id or ""
    return message.task, message.id


def _when(letter: DeadLetter) -> str:
    return datetime.fromtimestamp(letter.died_wall_s, timezone.utc).isoformat(timespec="seconds")

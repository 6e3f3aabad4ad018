"""Word about a task that was ended from outside, where its message can only be settled by the next
one who gets it (AMQP): written by the agent, read by that child.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from .exceptions import TaskRevokedError, TimeLimitExceeded, WorkerLostError

CONSUMER_TIMEOUT: Final = "consumer_timeout"
TERMINATED: Final = "terminated"


class _Note(msgspec.Struct, omit_defaults=True):
    verdict: str
    cause: str = ""
    limit_s: float | None = None


def note_of(report: Mapping[str, Any]) -> bytes:
    """What the supervisor's report of a death says, in the form in which it is left.

    :param report: has ``verdict``, ``cause`` and, for a time limit, ``limit_s``.
    """
    note = _Note(str(report["verdict"]), str(report.get("cause", "")), report.get("limit_s"))
    return msgspec.json.encode(note)


def error_of(report: Mapping[str, Any]) -> Exception:
    """What a task that was ended from outside is said to have raised."""
    if report["verdict"] == "timeout":
        return TimeLimitExceeded(report.get("limit_s"))
    if report["verdict"] == TERMINATED:
        return TaskRevokedError(TERMINATED)
    return WorkerLostError(f"Worker exited prematurely: {report.get('cause', '')}")


class Obituary(NamedTuple):
    """What was left about a task.

    :param dead: its message goes to the dead letters; else it is done with.
    """

    error: Exception
    dead: bool
    cause: str


def read_note(note: bytes) -> Obituary:
    """What was left. Damaged word is word all the same: the process is dead."""
    try:
        read = msgspec.json.decode(note, type=_Note)
    except msgspec.MsgspecError:
        read = _Note("crash", "unknown")
    if read.verdict == CONSUMER_TIMEOUT:
        return Obituary(WorkerLostError(read.cause), True, read.cause)
    return Obituary(error_of(msgspec.structs.asdict(read)), False, read.cause)

"""Commands that keep tasks from running, or end them (interop §11.5)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..revoking_answers import MAY_RUN, WORKER
from .side import WorkerSide

IDS_MAX = 50_000
"""How many ids one command may name: a worker remembers no more."""

TOLD_LENGTH_MAX = 2 * 1024 * 1024

_SHOWN_MAX = 10
_SHOWN_LENGTH_MAX = 300


def revoke(
    side: WorkerSide,
    task_id: Any,
    terminate: bool = False,
    signal: Any = None,
    tell_running: Any = False,
    **_: Any,
) -> Any:
    """Have tasks not run; with `terminate`, end those that run here.

    :param tell_running: answer also who this worker is, and which of the tasks run, or may, all the same.
    """
    ids = _ids(task_id)
    done = side.revoker.revoke(ids, terminate=bool(terminate), signal=signal)
    said: dict[str, Any] = {"ok": f"tasks {_shown(ids)} flagged as revoked"}
    if terminate:
        said = {"ok": f"terminate: {', '.join(done.ended)}" if done.ended else "terminate: tasks unknown"}
    if tell_running:
        running = sorted(side.revoker.may_run(ids))
        if tellable(running) == running:  # what is cut short would say of the rest that it does not run
            said |= {WORKER: side.worker_id, MAY_RUN: running}
    return said


def terminate(side: WorkerSide, signal: Any, task_id: Any, **_: Any) -> Any:
    """Have tasks not run, and end those that run here."""
    return revoke(side, task_id, terminate=True, signal=signal)


def revoke_by_stamped_headers(
    side: WorkerSide, headers: Any, terminate: bool = False, signal: Any = None, **_: Any
) -> Any:
    """Have no task run that is stamped with one of these values."""
    if not isinstance(headers, Mapping) and not isinstance(headers, (list, tuple)):
        raise ValueError(f"headers={headers!r:.100}: give values by header, or texts header=value")
    _check_number(sum(map(_values, headers.values())) if isinstance(headers, Mapping) else len(headers))
    done = side.revoker.revoke_by_stamped_headers(headers, terminate=bool(terminate), signal=signal)
    # The answer is logged, too.
    shown = f"{headers}" if len(done.flagged) <= _SHOWN_MAX else _shown(done.flagged)
    shown = f"headers {shown:.{_SHOWN_LENGTH_MAX}}"
    if not terminate:
        return {"ok": f"{shown} flagged as revoked, but not terminated"}
    return {"ok": f"{shown} revoked" if done.ended else f"{shown} were not terminated"}


def revoked(side: WorkerSide) -> Any:
    """The ids that are revoked."""
    return side.revoker.revoked()


def hello(side: WorkerSide, from_node: str, revoked: Any = None, **_: Any) -> Any:
    """A worker that starts says what it knows and asks what is known here (interop §14.1)."""
    if from_node == side.node:
        return None
    side.revoker.load(revoked_ids(revoked))
    return {"revoked": tellable(side.revoker.revoked()), "clock": side.clock.forward()}


def revoked_ids(value: Any) -> list[str]:
    """The ids that another worker sent: a list, or the keys of a mapping, as older workers send it."""
    if isinstance(value, (Mapping, list, tuple)):
        return [one for one in list(value)[-IDS_MAX:] if isinstance(one, str)]
    return []


def tellable(ids: Sequence[str]) -> list[str]:
    """As many of the latest ids as a message of remote control has room for, oldest first."""
    found: list[str] = []
    room = TOLD_LENGTH_MAX
    for one in reversed(ids):
        room -= len(one) + 4
        if room < 0:
            break
        found.append(one)
    return found[::-1]


def _ids(value: Any) -> Sequence[str]:
    ids = [value] if isinstance(value, str) else value
    if not isinstance(ids, (list, tuple)) or not all(isinstance(one, str) for one in ids):
        raise ValueError(f"task_id={value!r:.100}: give an id, or a list of them")
    _check_number(len(ids))
    return ids


def _check_number(number: int) -> None:
    """Refuse what would keep a worker busy for longer than its lease.

    :raises ValueError: there are too many.
    """
    if number > IDS_MAX:
        raise ValueError(f"{number} to revoke, of at most {IDS_MAX} in one command")


def _values(value: Any) -> int:
    return len(value) if isinstance(value, (list, tuple, set, frozenset)) else 1


def _shown(ids: Iterable[str]) -> str:
    texts = list(ids)
    more = f", and {len(texts) - _SHOWN_MAX} more" if len(texts) > _SHOWN_MAX else ""
    named = ", ".join(f"{one!r:.{_SHOWN_LENGTH_MAX}}" for one in texts[:_SHOWN_MAX])
    return "{" + named + more + "}"

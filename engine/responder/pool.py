"""Commands about the processes of a worker (interop §11.5)."""

from __future__ import annotations

from typing import Any

from .side import WorkerSide


def pool_grow(side: WorkerSide, n: Any = 1, **_: Any) -> Any:
    """Start so many children more."""
    _scale(side, _number(n))
    return {"ok": "pool will grow"}


def pool_shrink(side: WorkerSide, n: Any = 1, **_: Any) -> Any:
    """Let so many children go when they have done what they hold."""
    _scale(side, -_number(n))
    return {"ok": "pool will shrink"}


def pool_restart(side: WorkerSide, **_: Any) -> Any:
    """Refused: a signal does it."""
    raise ValueError("children are replaced by SIGHUP to the worker, which imports the application anew")


def autoscale(side: WorkerSide, max: Any = None, min: Any = None, **_: Any) -> Any:
    """Refused: the bounds are given at the start."""
    raise ValueError("the bounds of a pool are given when the worker starts (--autoscale)")


def no_events(side: WorkerSide, **_: Any) -> Any:
    """There is nobody who would send events; in Celery's words."""
    return {"error": "event dispatcher unavailable"}


def no_answer(side: WorkerSide, **_: Any) -> Any:
    """What concerns workers that send events, and has no answer there either."""
    return None


def shutdown(side: WorkerSide, msg: Any = "", **_: Any) -> Any:
    """Leave when what runs has ended."""
    side.stop()


def _scale(side: WorkerSide, by: int) -> None:
    if side.supervisor is None:
        raise ValueError("a worker of one process has no pool")
    if side.loaded.options["autoscale"]:
        raise ValueError("this worker scales by itself: its pool cannot be sized by hand")
    target = int(side.supervisor.ask("stats")["target"]) + by
    side.supervisor.ask("scale", n=target)


def _number(value: Any) -> int:
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"n={value!r:.60}: give a whole number of children, at least 1")
    return value

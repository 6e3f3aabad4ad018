"""`shield()`: a part of a task in which nothing is raised from outside; what is due waits for its end.

A soft time limit, a request to end the task softly and the second signal to a worker of one process are
all raised from a signal handler, between any two instructions. Around a commit that must not be torn a
task holds them off. Hard limits and kills do not wait.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .local import running

if TYPE_CHECKING:
    from .request import Context


class Shields:
    """The shields that one execution is in, at any depth, and what waits for their end.

    Written by whatever threads of the task use `shield`, under the lock; the signal handler of the main
    thread reads `depth` and writes `pending`, and takes no lock.

    :ivar depth: how many shields are open.
    :ivar pending: what is to be raised when the last one ends.
    """

    __slots__ = ("depth", "lock", "pending")

    def __init__(self) -> None:
        self.depth = 0
        self.pending: BaseException | None = None
        self.lock = threading.Lock()


class shield:
    """Within it no soft time limit is raised, and a soft shutdown waits for its end.

        with shield():
            ledger.book(order)
            ledger.commit()

    What came meanwhile is raised at the end of the outermost one. Nestable; works in ``async def`` tasks
    as well. Hard time limits, memory limits and ``terminate`` with a signal that kills do not wait, and a
    soft shutdown waits a few seconds at most. Outside of a task it does nothing.
    """

    __slots__ = ("_request",)

    def __init__(self) -> None:
        self._request: Context | None = None

    def __enter__(self) -> shield:
        entry = running.get()
        if entry is None:
            return self
        request = entry[1]
        held = request.shields
        if held is None:
            held = request.shields = Shields()
        self._request = request
        with held.lock:
            held.depth += 1
            first = held.depth == 1
        if first:
            _tell(True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        request, self._request = self._request, None
        if request is None:
            return
        held: Shields = request.shields
        with held.lock:
            held.depth -= 1
            last = held.depth == 0
        if not last:
            return
        if not any(other.depth for other in _open()):
            _tell(False)
        pending, held.pending = held.pending, None
        if pending is not None and not held_off(pending):
            raise pending


def shielded(request: Context) -> bool:
    """Whether an execution must not be interrupted now."""
    held = request.shields
    return held is not None and held.depth > 0


def held_off(error: BaseException) -> bool:
    """Whether what is to be raised in the running task waits for the end of a shield, which will raise it.

    For signal handlers: nothing in here waits.
    """
    for held in _open():
        if held.depth > 0:
            held.pending = error
            return True
    return False


def _open() -> Iterator[Shields]:
    """The shields of the running task, and of those below it that it was called from."""
    for request in _requests():
        if request.shields is not None:
            yield request.shields


def _requests() -> Iterator[Context]:
    entry: Any = running.get()
    while entry is not None:
        yield entry[1]
        entry = entry[2]


def _tell(begins: bool) -> None:
    """Have the slot say so, where a worker runs the task."""
    for request in _requests():
        on_shield: Callable[[bool], None] | None = request.on_shield
        if on_shield is not None:
            on_shield(begins)
            return

"""Progress of a running task: a state of its own, stored often enough to be watched and no oftener."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeGuard

from ..transports.errors import TransportError
from .clock import mono_s
from .local import running

if TYPE_CHECKING:
    from .request import Context

PROGRESS: Final = "PROGRESS"
"""The state under which progress is stored; tools written for Celery know it by this name."""

INTERVAL_S: Final = 0.1
"""Progress is stored at most once in this time, and the last one said within it at its end."""

_log = logging.getLogger("prefork.progress")


@dataclass(frozen=True)
class Progress:
    """How far a task has come.

    :param current: what is done, in units of the task's own.
    :param total: of how much; None when nobody knows.
    :param note: what it is doing, for people.
    """

    current: float
    total: float | None = None
    note: str = ""

    @property
    def fraction(self) -> float | None:
        """From 0 to 1; None when the total is not known, or is nothing."""
        return min(1.0, max(0.0, self.current / self.total)) if self.total else None

    def as_meta(self) -> dict[str, Any]:
        """What is stored as the meta of the state."""
        return {"current": self.current, "total": self.total, "note": self.note}

    def __str__(self) -> str:
        of = f"{self.current:g}" if self.total is None else f"{self.current:g}/{self.total:g}"
        share = "" if self.fraction is None else f" ({self.fraction:.0%})"
        return f"{of}{share}{': ' if self.note else ''}{self.note}"


def progress_of(state: str, meta: Any) -> Progress | None:
    """The progress that a stored state shows; None when it shows none. The meta comes from outside."""
    if state != PROGRESS or not isinstance(meta, Mapping):
        return None
    current, total, note = meta.get("current"), meta.get("total"), meta.get("note")
    if not _is_amount(current) or not (total is None or _is_amount(total)):
        return None
    return Progress(current, total, note if isinstance(note, str) else "")


def _is_amount(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


class Reporter:
    """Stores the progress of one execution; what comes too soon after the last is stored a little later.

    Used by the thread of the task, and by a thread of its own once something came too soon.

    :param store: stores a meta under the state PROGRESS; may raise `TransportError`.
    """

    def __init__(self, store: Any, interval_s: float = INTERVAL_S) -> None:
        self._store = store
        self._interval_s = interval_s
        # Everything below is written with the lock held, by the task's thread or by the reporter's.
        self._changed = threading.Condition()
        self._waiting: Progress | None = None
        self._next_mono_s = 0.0
        self._thread: threading.Thread | None = None
        self._closed = False
        self._warned = False

    def say(self, progress: Progress) -> None:
        """Store it now, or at the end of the interval unless something newer comes."""
        with self._changed:
            if self._waiting is None and mono_s() >= self._next_mono_s:
                self._write(progress)
                return
            self._waiting = progress
            if self._thread is None:
                self._thread = threading.Thread(target=self._later, name="prefork-progress", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self, *, stays: bool) -> None:
        """Store nothing any more: what is stored next must stay.

        :param stays: nothing is stored next, as with `Ignore`: then what waits is stored now.
        """
        with self._changed:
            self._closed = True
            if stays and self._waiting is not None:
                self._write(self._waiting)
            self._waiting = None
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _later(self) -> None:
        with self._changed:
            while not self._closed:
                if self._waiting is None:
                    self._changed.wait()
                    continue
                left_s = self._next_mono_s - mono_s()
                if left_s > 0:
                    self._changed.wait(left_s)
                    continue
                self._write(self._waiting)
                self._waiting = None

    def _write(self, progress: Progress) -> None:
        """Store, with the lock held, so that what is older never comes later."""
        try:
            self._store(progress.as_meta())
        except TransportError as error:
            # It only informs: the task need not fail because nobody can watch it.
            if not self._warned:
                _log.warning("progress cannot be stored, and is not told of again: %s", error)
                self._warned = True
        self._next_mono_s = mono_s() + self._interval_s


def report(task: Any, request: Context, current: float, total: float | None, note: str) -> None:
    """Say how far the execution of a request has come.

    :raises ValueError: `current` or `total` is no finite number.
    """
    for name, value in (("current", current), ("total", total)):
        if not (_is_amount(value) or (value is None and name == "total")):
            or_none = " or None" if name == "total" else ""
            raise ValueError(f"progress({name}={value!r}): give a number{or_none}")
    if request.called_directly or request.id is None:
        return  # a plain function call: there is no result that it could belong to
    reporter = request.reporter
    if reporter is None:
        stored, options = task.app.client.stored, task.options

        def store(meta: dict[str, Any]) -> None:
            stored.store_state(request.id, PROGRESS, meta, request=request, options=options)

        reporter = request.reporter = Reporter(store)
    reporter.say(Progress(current, total, str(note)))


def progress(current: float, total: float | None = None, note: str = "") -> None:
    """Say how far the task that runs here has come; outside of any task nothing happens.

    Stored as the state PROGRESS (`AsyncResult.progress`), ten times a second at most; the last one
    always. Where results are ignored or disabled nothing is stored.

    :param current: what is done, in units of the task's own.
    :param total: of how much; None when nobody knows.
    :param note: what it is doing, for people.
    :raises ValueError: `current` or `total` is no finite number.
    """
    entry = running.get()
    if entry is not None:
        report(entry[0], entry[1], current, total, note)

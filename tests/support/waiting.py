"""Waiting for events with a deadline, so that no test sleeps for luck."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

DEADLINE_S = 10.0


def eventually(attempt: Callable[[], T], *, deadline_s: float = DEADLINE_S, every_s: float = 0.005) -> T:
    """Call until the answer is truthy, and return it; fail at the deadline."""
    end_mono_s = time.monotonic() + deadline_s
    while True:
        answer = attempt()
        if answer:
            return answer
        assert time.monotonic() < end_mono_s, f"nothing came in {deadline_s} s; last answer: {answer!r}"
        time.sleep(every_s)


def readable(fd: int, timeout_s: float = DEADLINE_S) -> bool:
    """Whether a descriptor polls readable within a time."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(timeout_s * 1000))


class Background(Generic[T]):
    """A function on its own thread, whose answer or exception is fetched by `result`."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._answer: list[T] = []
        self._error: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._answer.append(self._function())
        except BaseException as error:
            self._error.append(error)

    @property
    def running(self) -> bool:
        """Whether the function has not returned yet."""
        return self._thread.is_alive()

    def result(self, timeout_s: float = DEADLINE_S) -> T:
        """The answer of the function; what it raised is raised here."""
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), f"the thread still runs after {timeout_s} s"
        if self._error:
            raise self._error[0]
        return self._answer[0]

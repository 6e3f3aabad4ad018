"""Waits for results in a store that does not say when there is one: one poller serves all waiters.

Of the threads that wait, one looks for all of them; the others sleep until it has found theirs, or
until it leaves and one of them takes its place.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from time import monotonic

PAUSE_S_MIN = 0.01
PAUSE_S_MAX = 0.5
_PATIENCE = 8.0
_SHARE = 5.0


def pause_s(waited_s: float, look_s: float) -> float:
    """How long to pause before the next look.

    A fraction of what the latest comer has waited so far, so that nobody waits much longer than
    needed; and several times what a look costs, so that a slow database is not kept busy by it.

    :param waited_s: age of the youngest waiter in seconds.
    :param look_s: how long the last look took in seconds.
    """
    return min(max(PAUSE_S_MIN, waited_s / _PATIENCE, look_s * _SHARE), PAUSE_S_MAX)


class _Waiter:
    __slots__ = ("found", "keys", "since_mono_s")

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = keys
        self.since_mono_s = monotonic()
        self.found: dict[str, bytes] = {}  # written by the poller, under the lock


class ResultPolling:
    """The waiters of one process.

    :param look: reads the final documents of keys; those that have none are left out.
    """

    def __init__(self, look: Callable[[Sequence[str]], dict[str, bytes]]) -> None:
        self._look = look
        lock = threading.Lock()
        self._found = threading.Condition(lock)
        self._changed = threading.Condition(lock)  # only the poller waits for it
        # Those below are written under the lock.
        self._waiters: list[_Waiter] = []
        self._has_poller = False
        self._stored = False
        self._closed = False

    def wait(self, keys: Sequence[str], timeout_s: float | None) -> dict[str, bytes]:
        """See the port `ResultStore.wait`.

        :raises ResultStoreUnavailable: it is away.
        """
        found = self._look(keys)
        if found or not keys or (timeout_s is not None and timeout_s <= 0):
            return found
        end_mono_s = None if timeout_s is None else monotonic() + timeout_s
        waiter = _Waiter(keys)
        with self._found:
            self._waiters.append(waiter)
            self._changed.notify()
        try:
            return self._until(waiter, end_mono_s)
        finally:
            with self._found:
                self._waiters.remove(waiter)

    def nudge(self) -> None:
        """Look at once: this process has stored something."""
        with self._found:
            if self._waiters:
                self._stored = True
                self._changed.notify()

    def close(self) -> None:
        """Let all waiters return."""
        with self._found:
            self._closed = True
            self._changed.notify()
            self._found.notify_all()

    def _until(self, waiter: _Waiter, end_mono_s: float | None) -> dict[str, bytes]:
        while True:
            with self._found:
                left_s = None if end_mono_s is None else end_mono_s - monotonic()
                if waiter.found or self._closed or (left_s is not None and left_s <= 0):
                    return waiter.found
                if self._has_poller:
                    self._found.wait(left_s)
                    continue
                self._has_poller = True
            try:
                self._poll(waiter, end_mono_s)
            finally:
                with self._found:
                    self._has_poller = False
                    self._found.notify_all()

    def _poll(self, own: _Waiter, end_mono_s: float | None) -> None:
        """Look for everybody, until the own document is there or the own time is over."""
        look_s = 0.0
        while True:
            with self._found:
                self._pause(look_s, end_mono_s)
                if self._closed or own.found:
                    return
                wanted = list({key: None for waiter in self._waiters for key in waiter.keys})
            began_mono_s = monotonic()
            found = self._look(wanted)
            look_s = monotonic() - began_mono_s
            with self._found:
                for waiter in self._waiters:
                    waiter.found.update((key, found[key]) for key in waiter.keys if key in found)
                if found:
                    self._found.notify_all()
                if own.found or (end_mono_s is not None and monotonic() >= end_mono_s):
                    return

    def _pause(self, look_s: float, end_mono_s: float | None) -> None:
        begun_mono_s = monotonic()
        while not self._stored and not self._closed:
            now_mono_s = monotonic()
            youngest_s = now_mono_s - max(waiter.since_mono_s for waiter in self._waiters)
            left_s = begun_mono_s + pause_s(youngest_s, look_s) - now_mono_s
            if end_mono_s is not None:
                left_s = min(left_s, end_mono_s - now_mono_s)
            if left_s <= 0:
                break
            self._changed.wait(left_s)
        self._stored = False

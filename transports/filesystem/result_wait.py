"""Waits for results: one inotify descriptor serves every waiting thread of the process."""

from __future__ import annotations

import select
import threading
from collections.abc import Callable, Iterable, Sequence

from . import clock
from .fileops import ForeignObject
from .result_format import shard_of
from .store import Store
from .watch import IN_MOVED_TO, Inotify

_POLL_S = 0.02
_LISTEN_MAX_S = 60.0


class ResultWait:
    """Of the threads that wait, one listens and wakes the others.

    :param final: reads the final document of a key, None while it has none.
    """

    def __init__(self, store: Store, final: Callable[[str], bytes | None]) -> None:
        self._store = store
        self._final = final
        self._changed = threading.Condition()
        self._listening = False  # those below are written under _changed
        self._waiting = 0
        self._closed = False
        self._inotify: Inotify | None = None
        self._armed: dict[str, int] = {}
        self._degraded = False
        self._generation = 0

    def wait(self, keys: Sequence[str], timeout_s: float | None) -> dict[str, bytes]:
        """See the port `ResultStore.wait`."""
        found = self._look(keys)
        if found or not keys or (timeout_s is not None and timeout_s <= 0):
            return found
        deadline_mono_s = None if timeout_s is None else clock.mono_s() + timeout_s
        with self._changed:
            self._waiting += 1
        try:
            self._arm(keys)
            while True:
                generation = self._generation
                # Looked at after arming: what is stored from here on wakes the listener.
                found = self._look(keys)
                remaining_s = _LISTEN_MAX_S
                if deadline_mono_s is not None:
                    remaining_s = min(remaining_s, deadline_mono_s - clock.mono_s())
                if found or remaining_s <= 0 or self._closed:
                    return found
                self._listen_or_follow(remaining_s, generation)
        finally:
            self._leave()

    def _look(self, keys: Iterable[str]) -> dict[str, bytes]:
        found = {}
        for key in keys:
            document = self._final(key)
            if document is not None:
                found[key] = document
        return found

    def _arm(self, keys: Iterable[str]) -> None:
        with self._changed:
            if self._inotify is None:
                try:
                    self._inotify = Inotify()
                except OSError as error:
                    self._store.notice(f"no inotify for results ({error.strerror}): looking every 20 ms")
                    return
            for shard in {shard_of(key) for key in keys} - self._armed.keys():
                path = self._store.path("results", shard)
                try:
                    self._store.ops.make_dir(path)
                except ForeignObject as error:
                    self._store.quarantine(error)
                    self._store.ops.make_dir(path)
                try:
                    self._armed[shard] = self._inotify.add(path, IN_MOVED_TO)
                except OSError as error:
                    self._store.notice(f"no inotify for results ({error.strerror}): looking every 20 ms")
                    self._degraded = True
                    return

    def _listen_or_follow(self, duration_s: float, generation: int) -> None:
        with self._changed:
            inotify = self._inotify
            if self._generation != generation:
                return  # a listener took events away since this thread looked
            if self._listening:
                self._changed.wait(duration_s)
                return
            self._listening = True
        try:
            if inotify is None or self._degraded:
                clock.sleep(min(duration_s, _POLL_S))
            else:
                poller = select.poll()
                poller.register(inotify.fd, select.POLLIN)
                poller.poll(max(1, int(duration_s * 1000) + 1))
                inotify.read()
        finally:
            with self._changed:
                self._listening = False
                self._generation += 1
                self._changed.notify_all()

    def _leave(self) -> None:
        with self._changed:
            self._waiting -= 1
            if not self._waiting and self._inotify is not None:
                # Nobody waits: the kernel need not collect what is stored meanwhile.
                for number in self._armed.values():
                    self._inotify.remove(number)
                self._armed.clear()
                if self._closed:
                    self._inotify.close()
                    self._inotify = None

    def close(self) -> None:
        """Let waiters return, and drop the descriptor."""
        with self._changed:
            self._closed = True
            if not self._waiting and self._inotify is not None:
                self._inotify.close()
                self._inotify = None
            self._changed.notify_all()

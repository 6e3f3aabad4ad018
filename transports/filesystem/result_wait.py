"""Waits for results: one inotify descriptor serves every waiting thread of the process."""

from __future__ import annotations

import select
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from . import clock
from .fileops import ForeignObject
from .layout import encode_name
from .result_format import shard_of
from .store import Store
from .watch import IN_MOVED_TO, IN_Q_OVERFLOW, Inotify

_POLL_S = 0.02
_LISTEN_MAX_S = 1.0
"""After this long a listener looks whether the store was closed."""
_GENERATIONS_KEPT = 64


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
        # What each of the last generations brought: names of files, None when that is not known.
        self._stored: deque[set[str] | None] = deque(maxlen=_GENERATIONS_KEPT)

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
            wanted = {encode_name(key): key for key in keys}
            generation = self._generation
            candidates: Iterable[str] = keys
            while True:
                # Looked at after arming: what is stored from here on wakes the listener.
                found = self._look(candidates)
                remaining_s = _LISTEN_MAX_S
                if deadline_mono_s is not None:
                    remaining_s = min(remaining_s, deadline_mono_s - clock.mono_s())
                if found or remaining_s <= 0 or self._closed:
                    return found
                self._listen_or_follow(remaining_s, generation)
                generation, names = self._since(generation)
                candidates = keys if names is None else [wanted[one] for one in names & wanted.keys()]
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

    def _since(self, generation: int) -> tuple[int, set[str] | None]:
        """The present generation, and what was stored since an earlier one; None when unknown."""
        with self._changed:
            missed = self._generation - generation
            if missed > len(self._stored):
                return self._generation, None
            names: set[str] = set()
            for stored in list(self._stored)[len(self._stored) - missed :]:
                if stored is None:
                    return self._generation, None
                names |= stored
            return self._generation, names

    def _listen_or_follow(self, duration_s: float, generation: int) -> None:
        with self._changed:
            inotify = self._inotify
            if self._generation != generation:
                return  # a listener took events away since this thread looked
            if self._listening:
                self._changed.wait(duration_s)
                return
            self._listening = True
        stored: set[str] | None = None
        try:
            if inotify is None or self._degraded:
                clock.sleep(min(duration_s, _POLL_S))
            else:
                poller = select.poll()
                poller.register(inotify.fd, select.POLLIN)
                poller.poll(max(1, int(duration_s * 1000) + 1))
                events = inotify.read()
                if not any(mask & IN_Q_OVERFLOW for _, mask, _ in events):
                    stored = {name for _, _, name in events}
        finally:
            with self._changed:
                self._listening = False
                self._generation += 1
                self._stored.append(stored)
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

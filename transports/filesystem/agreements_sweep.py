"""Drops locks and buckets that have ended and slots of dead workers, a bounded number at a time."""

from __future__ import annotations

import contextlib
import os

from . import agreements, clock
from .agreements import BUCKETS, KINDS, LOCKS
from .coordination import bucket_is_full, living, read_lock, read_slots, write_slots
from .revocations import Revocations
from .store import Store

_LEFTOVER_AGE_S = 3600.0


class AgreementsSweep:
    """Goes round the files that workers agreed on, and remembers where it stopped."""

    def __init__(self, store: Store, revocations: Revocations) -> None:
        self._store = store
        self._revocations = revocations
        self._left: list[tuple[str, str]] = []  # kind and name; written by whoever does the housekeeping

    def sweep(self, limit: int) -> None:
        """Look at most at so many files."""
        self._revocations.tidy()
        if not self._left:
            self._left = [(kind, name) for kind in KINDS for name in os.listdir(self._store.path(kind))]
        now, self._left = self._left[:limit], self._left[limit:]
        for kind, name in now:
            path = self._store.path(kind, name)
            if name.startswith("."):
                self._drop_leftover(path)
            else:
                self._look(kind, path)

    def _look(self, kind: str, path: str) -> None:
        store = self._store
        with agreements.lock_of(store, path):
            if kind == LOCKS:
                ended = read_lock(store, path) is None
            elif kind == BUCKETS:
                ended = bucket_is_full(store, path)
            else:
                held = read_slots(store, path)
                left = living(store, held)
                ended = not left
                if len(left) < len(held):
                    write_slots(store, path, left)
            if ended:
                store.ops.unlink_if_there(path)

    def _drop_leftover(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):  # its maker was alive
            if clock.wall_s() - os.lstat(path).st_mtime > _LEFTOVER_AGE_S:
                self._store.ops.unlink_if_there(path)

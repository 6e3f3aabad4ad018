"""Drops expired results, a bounded piece of the store at a time."""

from __future__ import annotations

import os
import threading

from . import clock
from .fileops import ForeignObject
from .result_format import HEAD, MAGIC, RESULT_FOLDERS, SHARDS, shard_lock
from .store import Store

_LOOKED_AT_PER_DROPPED = 10
_LEFTOVER_AGE_S = 3600.0


class ExpirySweep:
    """Goes round the folders of results and groups, and remembers where it stopped."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._mutex = threading.Lock()
        self._folders = [f"{kind}/{shard}" for kind in RESULT_FOLDERS for shard in SHARDS]
        self._next_folder = 0  # written under _mutex
        self._names: list[str] = []  # names of the current folder still to look at; under _mutex

    def sweep(self, limit: int) -> int:
        """Drop at most `limit` expired documents."""
        dropped = 0
        with self._mutex:
            budget = limit * _LOOKED_AT_PER_DROPPED
            folders_left = len(self._folders)
            while dropped < limit and budget > 0:
                if not self._names:
                    if not folders_left:
                        return dropped
                    folders_left -= 1
                    self._next_folder = (self._next_folder + 1) % len(self._folders)
                    self._names = self._list(self._folders[self._next_folder])
                    continue
                budget -= 1
                path = self._store.path(self._folders[self._next_folder], self._names.pop())
                dropped += self._drop_if_expired(path)
        return dropped

    def _list(self, folder: str) -> list[str]:
        try:
            return os.listdir(self._store.path(folder))
        except FileNotFoundError:
            return []
        except NotADirectoryError:
            self._store.quarantine(ForeignObject(self._store.path(folder), "not a directory"))
            return []

    def _drop_if_expired(self, path: str) -> bool:
        if not self._expired(path):
            return False
        with shard_lock(self._store, os.path.basename(os.path.dirname(path))):
            # Looked at again under the lock: a new document may have taken its place.
            return self._expired(path) and self._store.ops.unlink_if_there(path)

    def _expired(self, path: str) -> bool:
        ops = self._store.ops
        try:
            fd = ops.open_regular(path, os.O_RDONLY)
        except FileNotFoundError:
            return False
        except ForeignObject as error:
            self._store.quarantine(error)
            return False
        try:
            head = ops.pread(fd, HEAD.size, 0)
        finally:
            ops.close(fd)
        if len(head) < HEAD.size or not head.startswith(MAGIC):
            self._store.quarantine(ForeignObject(path, "not a result" if head else "empty"))
            return False
        return int(HEAD.unpack(head)[2]) <= clock.wall_s() * 1000

    def drop_leftovers(self) -> int:
        """Remove the temporary files of processes that died while they stored a result."""
        dropped = 0
        for kind in RESULT_FOLDERS:
            for name in os.listdir(self._store.path(kind)):
                path = self._store.path(kind, name)
                if name in SHARDS:
                    continue
                if not (name.startswith(".") and name.endswith(".tmp")):
                    self._store.quarantine(ForeignObject(path, "not a folder of results"))
                    continue
                try:
                    age_s = clock.wall_s() - os.lstat(path).st_mtime
                except FileNotFoundError:
                    continue
                if age_s > _LEFTOVER_AGE_S:
                    dropped += self._store.ops.unlink_if_there(path)
        return dropped

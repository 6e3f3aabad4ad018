"""Locks between processes that the kernel releases with their holder.

POSIX record locks (`fcntl.lockf`) belong to a process: they do not exclude its own threads, and
closing *any* descriptor of the file drops them. So there is one table of locks per process, with
one descriptor and one mutex per lock file; a fork starts with an empty table.
`flock` would be inherited by whatever a task forks, and so could outlive its holder (design §3).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import threading
from types import TracebackType

from ..errors import BrokerUnavailable
from .clock import mono_s, sleep
from .fileops import FileOps

_TRIES_BEFORE_SLEEP = 8
_SLEEP_MIN_S = 20e-6
_SLEEP_MAX_S = 1e-3
_HELD_BY_OTHER = (errno.EAGAIN, errno.EACCES)


class FileLock:
    """An exclusive lock on a file; a context manager. Acquiring is bounded in time.

    :param timeout_s: a holder that is stopped must not hang everybody else for ever.
    """

    def __init__(self, path: str, ops: FileOps, timeout_s: float) -> None:
        self.path = path
        self.timeout_s = timeout_s
        self.generation = 0  # written by the holder; changes when the lock file was replaced
        self._ops = ops
        self._fd = -1  # written by the holder of _mutex
        self._mutex = threading.Lock()

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lock.

        :raises BrokerUnavailable: somebody else held it for `timeout_s`.
        """
        if not self._mutex.acquire(timeout=self.timeout_s):
            raise self._timed_out("a thread of this process")
        try:
            self._acquire_file()
        except BaseException:
            self._mutex.release()
            raise

    def release(self) -> None:
        """Let the lock go."""
        try:
            self._ops.lockf(self._fd, fcntl.LOCK_UN)
        finally:
            self._mutex.release()

    def _acquire_file(self) -> None:
        while True:
            if self._fd < 0:
                self._fd = self._ops.open_regular(self.path, os.O_RDWR | os.O_CREAT)
                self.generation += 1
            try:
                self._ops.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in _HELD_BY_OTHER:
                    raise
                self._wait()
            if self._ops.fstat(self._fd).st_nlink:
                return
            # Somebody removed the lock file: others lock a new one, so this one excludes nobody.
            fd, self._fd = self._fd, -1
            self._ops.close(fd)

    def _wait(self) -> None:
        deadline_mono_s = mono_s() + self.timeout_s
        sleep_s = _SLEEP_MIN_S
        tries = 0
        while True:
            tries += 1
            if tries <= _TRIES_BEFORE_SLEEP:
                os.sched_yield()
            else:
                sleep(sleep_s)
                sleep_s = min(sleep_s * 2, _SLEEP_MAX_S)
            try:
                self._ops.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError as error:
                if error.errno not in _HELD_BY_OTHER:
                    raise
            if mono_s() > deadline_mono_s:
                raise self._timed_out("another process")

    def _timed_out(self, holder: str) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"{holder} held {self.path} for more than {self.timeout_s:g} s; "
            "if it is stopped, continue or kill it"
        )

    def forget_parent(self) -> None:
        """Called in the child of a fork: what the parent held is not held here."""
        fd, self._fd = self._fd, -1
        self._mutex = threading.Lock()
        if fd >= 0:
            with contextlib.suppress(OSError):  # a task may have closed everything it inherited
                os.close(fd)


class LockTable:
    """The locks of this process by path."""

    def __init__(self) -> None:
        self._locks: dict[str, FileLock] = {}  # written under _mutex
        self._mutex = threading.Lock()

    def get(self, path: str, ops: FileOps, timeout_s: float) -> FileLock:
        """The one lock of this process for a path."""
        with self._mutex:
            lock = self._locks.get(path)
            if lock is None:
                lock = self._locks[path] = FileLock(path, ops, timeout_s)
            lock.timeout_s = min(lock.timeout_s, timeout_s)  # the least patient user decides
            return lock

    def forget_parent(self) -> None:
        """Called in the child of a fork."""
        self._mutex = threading.Lock()
        for lock in self._locks.values():
            lock.forget_parent()


@functools.lru_cache(maxsize=1)
def process_locks() -> LockTable:
    """The table of this process. It is per process because the kernel's is."""
    table = LockTable()
    os.register_at_fork(after_in_child=table.forget_parent)
    return table

"""The pid file: one worker per file, a dead worker's file is no obstacle."""

from __future__ import annotations

import contextlib
import fcntl
import os


class PidfileError(Exception):
    """The pid file cannot be taken.

    :ivar path: the file.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"pid file {path}: {reason}")
        self.path = path


class Pidfile:
    """A file with this process's number, locked while the process lives.

    The lock, not the number, says whether the file is stale: a number may be anybody's by now.

    :param path: None for no file.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._fd = -1

    def take(self) -> None:
        """Take the file.

        :raises PidfileError: a living worker has it, or it cannot be written.
        """
        if self._path is None:
            return
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise PidfileError(self._path, f"cannot be opened: {error.strerror}") from error
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(fd, 32).decode("ascii", "replace").strip()
            os.close(fd)
            raise PidfileError(self._path, f"the worker with pid {holder or '?'} has it") from None
        os.ftruncate(fd, 0)
        os.write(fd, b"%d\n" % os.getpid())
        self._fd = fd

    def release(self) -> None:
        """Remove the file, if it was taken."""
        if self._fd < 0 or self._path is None:
            return
        # Removed while it is locked, so that nobody's new file is removed.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        os.close(self._fd)
        self._fd = -1

"""The pid file: one worker per file, a dead worker's file is no obstacle."""

from __future__ import annotations

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
        fd = self._locked(self._path)
        try:
            os.ftruncate(fd, 0)
            os.write(fd, b"%d\n" % os.getpid())
        except OSError as error:
            os.close(fd)
            raise PidfileError(self._path, f"cannot be written: {error.strerror}") from error
        self._fd = fd

    def _locked(self, path: str) -> int:
        while True:
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            except OSError as error:
                raise PidfileError(path, f"cannot be opened: {error.strerror}") from error
            try:
                fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                holder = os.read(fd, 32).decode("ascii", "replace").strip()
                os.close(fd)
                raise PidfileError(path, f"the worker with pid {holder or '?'} has it") from None
            if _is_at(path, fd):
                return fd
            # Its last holder removed it between our open and our lock: a third worker would make another.
            os.close(fd)

    def release(self) -> str:
        """Remove the file, if it was taken; returns why that failed, or an empty text."""
        if self._fd < 0 or self._path is None:
            return ""
        failure = ""
        try:
            # Removed while it is locked, so that nobody's new file is removed.
            os.unlink(self._path)
        except FileNotFoundError:
            pass  # somebody has done it already, and it is not there: as it should be
        except OSError as error:
            failure = f"pid file {self._path}: cannot be removed: {error.strerror}"
        os.close(self._fd)
        self._fd = -1
        return failure


def _is_at(path: str, fd: int) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False

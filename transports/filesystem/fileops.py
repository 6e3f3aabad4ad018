"""Every call to the file system that this transport makes, in one replaceable place.

Tests put a `FileOps` in front that kills the process, or runs out of space, at the n-th call.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

_SAFE = os.O_NOFOLLOW | os.O_CLOEXEC
DIR_MODE = 0o700
FILE_MODE = 0o600


class ForeignObject(Exception):
    """A name in the broker's directory is not the file it must be. Callers quarantine it and go on.

    :param path: where it lies.
    :param why: what is wrong with it.
    """

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path = path
        self.why = why


class FileOps:
    """The system calls, bound as attributes so that the indirection costs one attribute look-up."""

    def __init__(self) -> None:
        self.open = os.open
        self.close = os.close
        self.pread = os.pread
        self.pwrite = os.pwrite
        self.fstat = os.fstat
        self.rename = os.rename
        self.link = os.link
        self.unlink = os.unlink
        self.mkdir = os.mkdir
        self.rmdir = os.rmdir
        self.fallocate = os.posix_fallocate
        self.fdatasync = os.fdatasync
        self.lockf = fcntl.lockf

    def open_regular(self, path: str, flags: int) -> int:
        """Open a regular file of ours that has exactly one name.

        :param flags: as for `os.open`; links are never followed and a FIFO never blocks.
        :raises ForeignObject: the name is something else.
        :raises FileNotFoundError: nothing has this name.
        """
        try:
            fd = self.open(path, flags | _SAFE | os.O_NONBLOCK, FILE_MODE)
        except OSError as error:
            why = _FOREIGN_ERRORS.get(error.errno or 0)
            if why is None:
                raise
            raise ForeignObject(path, why) from error
        why = foreign_reason(self.fstat(fd))
        if why:
            self.close(fd)
            raise ForeignObject(path, why)
        return fd

    def write_all(self, fd: int, data: bytes | bytearray, offset: int) -> None:
        """Write everything or raise; a short write is a file system that is filling up."""
        written = self.pwrite(fd, data, offset)
        while written < len(data):
            more = self.pwrite(fd, memoryview(data)[written:], offset + written)
            if more <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written += more

    def write_new(self, path: str, data: bytes, *, sync: bool = False) -> None:
        """Create a file that did not exist, with this content.

        :raises FileExistsError: the name is taken.
        """
        fd = self.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFE, FILE_MODE)
        try:
            self.write_all(fd, data, 0)
            if sync:
                self.fdatasync(fd)
        finally:
            self.close(fd)

    def read_file(self, path: str, limit_bytes: int) -> bytes:
        """Read a regular file of ours.

        :raises ForeignObject: it is something else, or larger than `limit_bytes`.
        """
        fd = self.open_regular(path, os.O_RDONLY)
        try:
            size = self.fstat(fd).st_size
            if size > limit_bytes:
                raise ForeignObject(path, f"larger than {limit_bytes} bytes")
            return self.read_all(fd, size, 0)
        finally:
            self.close(fd)

    def read_all(self, fd: int, count: int, offset: int) -> bytes:
        """Read `count` bytes, or what there is before the end of the file."""
        data = self.pread(fd, count, offset)
        while 0 < len(data) < count:
            more = self.pread(fd, count - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def make_dir(self, path: str) -> None:
        """Make a private directory unless it is there.

        :raises ForeignObject: the name is not a directory of ours.
        """
        try:
            self.mkdir(path, DIR_MODE)
        except FileExistsError:
            found = os.lstat(path)
            if not stat.S_ISDIR(found.st_mode):
                raise ForeignObject(path, "not a directory") from None
            if found.st_uid != os.geteuid():
                raise ForeignObject(path, f"owned by uid {found.st_uid}") from None

    def sync_dir(self, path: str) -> None:
        """Make the names in a directory survive a loss of power."""
        fd = self.open(path, os.O_RDONLY | os.O_DIRECTORY | _SAFE)
        try:
            self.fdatasync(fd)
        finally:
            self.close(fd)

    def unlink_if_there(self, path: str) -> bool:
        """Remove a name; False if it was not there."""
        try:
            self.unlink(path)
        except FileNotFoundError:
            return False
        return True


_FOREIGN_ERRORS = {
    errno.ELOOP: "a symbolic link",
    errno.EISDIR: "a directory",
    errno.ENXIO: "a socket or device",
    errno.ENOTDIR: "a parent is not a directory",
    errno.EACCES: "not accessible to this user",
    errno.EPERM: "not accessible to this user",
}


def foreign_reason(found: os.stat_result) -> str:
    """Why a file cannot be one of the broker's; empty when it can."""
    if not stat.S_ISREG(found.st_mode):
        return "not a regular file"
    if found.st_uid != os.geteuid():
        return f"owned by uid {found.st_uid}"
    if found.st_nlink > 1:
        return f"has {found.st_nlink} names"
    return ""

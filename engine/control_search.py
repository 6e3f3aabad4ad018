"""Control sockets of workers that were started in another environment than the caller's.

A worker puts its socket below its own ``XDG_RUNTIME_DIR`` or ``TMPDIR``, which a service manager,
a login and a cron job each set differently. The kernel lists the sockets of the host, so a worker
can be found all the same, by the number of its process or by its name. Standard library only.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from typing import Final, NamedTuple

from .control_socket import SUFFIX, RuntimeDirectoryError

SUBDIRECTORY: Final = "prefork"
_PATH_FIELD: Final = 7  # of /proc/net/unix, proc(5)


class Found(NamedTuple):
    """A socket, and who has to answer there.

    :param uid: the user; None where the process decides.
    :param pid: the process; None where the user decides.
    """

    path: str
    uid: int | None = None
    pid: int | None = None


def in_directory(directory: str) -> list[Found]:
    """The sockets in a directory: a worker's ``XDG_RUNTIME_DIR``, or the one below it that it uses.

    :raises RuntimeDirectoryError: somebody else than its owner could have put a socket there, or it is
        another user's and the caller is not root.
    :raises OSError: it cannot be read.
    """
    below = os.path.join(directory, SUBDIRECTORY)
    path = below if os.path.isdir(below) else directory
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode) or status.st_mode & 0o077:
        raise RuntimeDirectoryError(path, "is not a directory with mode 0700, as a worker makes it")
    if os.getuid() not in (0, status.st_uid):
        raise RuntimeDirectoryError(path, f"belongs to user {status.st_uid}; ask as that user, or as root")
    names = sorted(name for name in os.listdir(path) if name.endswith(SUFFIX))
    return [Found(os.path.join(path, name), uid=status.st_uid) for name in names]


def of_process(pid: int, listing: str = "/proc/net/unix") -> list[Found]:
    """The socket of the worker with this process number, if it can be reached from here."""
    ending = f"-{pid}{SUFFIX}"
    return [Found(path, pid=pid) for path in _reachable(listing) if path.endswith(ending)]


def of_user(listing: str = "/proc/net/unix") -> list[Found]:
    """The sockets of all workers of the calling user on this host, wherever they are."""
    uid = os.getuid()
    return [Found(path, uid=uid) for path in _reachable(listing) if _owner(path) == uid]


def worker_pid(pidfile: str) -> int:
    """The process number in a worker's pid file.

    :raises OSError: it cannot be read.
    :raises ValueError: it contains something else.
    """
    with open(pidfile, encoding="ascii", errors="replace") as file:
        text = file.read(64).strip()
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{pidfile} contains no process number but {text!r:.40}")
    return int(text)


def _reachable(listing: str) -> list[str]:
    try:
        with open(listing, encoding="utf-8", errors="surrogateescape") as sockets:
            paths = set(_worker_paths(sockets))
    except OSError:
        return []  # a system without the list: only its own directory is left to the caller
    # In another mount namespace the path says nothing here; in a closed directory it is of no use.
    return sorted(path for path in paths if os.access(path, os.W_OK))


def _worker_paths(lines: Iterable[str]) -> Iterable[str]:
    for line in lines:
        fields = line.rstrip("\n").split(maxsplit=_PATH_FIELD)
        path = fields[_PATH_FIELD] if len(fields) > _PATH_FIELD else ""
        directory, name = os.path.split(path)
        own = os.path.basename(directory)
        if path.startswith("/") and name.endswith(SUFFIX) and own.split("-")[0] == SUBDIRECTORY:
            yield path


def _owner(path: str) -> int | None:
    try:
        return os.lstat(path).st_uid
    except OSError:
        return None  # it has gone meanwhile

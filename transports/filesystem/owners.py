"""Owners (who holds messages) and workers (who vouches for owners).

The first byte of an owner's file says whether it may still act. It is looked at under the lock of
each queue, so an owner that was fenced can neither take nor settle anything any more.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import NamedTuple

from .fileops import ForeignObject
from .layout import hash64
from .store import Store

ALIVE = b"A"
FENCED = b"F"
_FILE_BYTES_MAX = 64 << 10


class Owner:
    """An owner of this process, or one that this process acts for."""

    def __init__(self, store: Store, name: str, fd: int) -> None:
        self._ops = store.ops
        self.name = name
        self.id = hash64(name)
        self.path = owner_path(store, self.id)
        self._fd = fd

    def alive(self) -> bool:
        """Whether nobody fenced it."""
        return self._fd >= 0 and self._ops.pread(self._fd, 1, 0) == ALIVE

    def close(self) -> None:
        """Drop the descriptor."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._ops.close(fd)


class Registered(NamedTuple):
    """An owner as it stands in the registry."""

    id: int
    name: str
    worker: str
    alive: bool


def owner_path(store: Store, owner_id: int) -> str:
    """The directory of an owner."""
    return store.path("owners", f"{owner_id:016x}")


def register(store: Store, name: str, worker: str) -> Owner:
    """Let an owner act, in the name of a worker."""
    path = owner_path(store, hash64(name))
    content = ALIVE + json.dumps({"owner": name, "worker": worker}).encode("ascii") + b"\n"
    _private_dir(store, path)
    _private_dir(store, f"{path}/out")
    temporary = f"{path}/owner.{os.getpid()}.tmp"
    store.ops.unlink_if_there(temporary)
    store.ops.write_new(temporary, content, sync=store.fsync)
    store.ops.rename(temporary, f"{path}/owner")
    return Owner(store, name, store.ops.open_regular(f"{path}/owner", os.O_RDONLY))


def _private_dir(store: Store, path: str) -> None:
    try:
        store.ops.make_dir(path)
    except ForeignObject as error:
        store.quarantine(error)
        store.ops.make_dir(path)


def find(store: Store, name: str) -> Owner | None:
    """An owner to act for; None when it is not registered."""
    path = f"{owner_path(store, hash64(name))}/owner"
    try:
        return Owner(store, name, store.ops.open_regular(path, os.O_RDONLY))
    except FileNotFoundError:
        return None
    except ForeignObject as error:
        store.quarantine(error)
        return None


def unknown(store: Store, name: str) -> Owner:
    """An owner that nobody registered (any more): it holds nothing and may do nothing."""
    return Owner(store, name, -1)


def fence(store: Store, owner_id: int) -> None:
    """From now on the owner cannot take or settle anything. Its directory exists."""
    path = f"{owner_path(store, owner_id)}/owner"
    try:
        fd = store.ops.open_regular(path, os.O_WRONLY | os.O_CREAT)
    except ForeignObject as error:
        store.quarantine(error)
        fd = store.ops.open_regular(path, os.O_WRONLY | os.O_CREAT)
    try:
        store.ops.pwrite(fd, FENCED, 0)
        if store.fsync:
            store.ops.fdatasync(fd)
    finally:
        store.ops.close(fd)


def forget(store: Store, owner_id: int) -> None:
    """Remove every trace of an owner that holds nothing. The name goes last."""
    path = owner_path(store, owner_id)
    for folder in (f"{path}/out", path):
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(folder):
                if name != "out":
                    _remove(store, f"{folder}/{name}")
            store.ops.rmdir(folder)


def _remove(store: Store, path: str) -> None:
    try:
        store.ops.unlink_if_there(path)
    except IsADirectoryError:
        store.quarantine(ForeignObject(path, "a directory"))


def registered(store: Store) -> list[Registered]:
    """Every owner of the registry; the name is empty for one whose registration was cut short."""
    found = []
    for folder in sorted(os.listdir(store.path("owners"))):
        try:
            owner_id = int(folder, 16)
        except ValueError:
            store.quarantine(ForeignObject(store.path("owners", folder), "not an owner"))
            continue
        one = _read(store, owner_id)
        if one is not None:
            found.append(one)
    return found


def _read(store: Store, owner_id: int) -> Registered | None:
    path = f"{owner_path(store, owner_id)}/owner"
    try:
        data = store.ops.read_file(path, _FILE_BYTES_MAX)
        about = json.loads(data[1:])
        return Registered(owner_id, str(about["owner"]), str(about["worker"]), data[:1] == ALIVE)
    except (FileNotFoundError, NotADirectoryError):
        return None if not os.path.isdir(owner_path(store, owner_id)) else Registered(owner_id, "", "", True)
    except ForeignObject as error:
        store.quarantine(error)
    except (ValueError, KeyError, TypeError):
        store.quarantine(ForeignObject(path, "not an owner's file"))
    return Registered(owner_id, "", "", False)

"""Small files that workers agree on: one per lock, bucket or set of slots, replaced as a whole.

A reader sees the old content or the new one, whoever dies meanwhile; who reads in order to write holds
the lock of the file's shard.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from typing import Any, NamedTuple

from . import clock
from .fileops import ForeignObject
from .layout import PAGE_BYTES, encode_name, hash64
from .locks import FileLock
from .store import Store

LOCKS, SLOTS, BUCKETS = "agreements/locks", "agreements/slots", "agreements/buckets"
KINDS = (LOCKS, SLOTS, BUCKETS)
_FILE_BYTES_MAX = 64 << 20
_ROUND_BYTES = 64  # so that numbers with more digits than the last ones find their space, too
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Span(NamedTuple):
    """A time that began; it is over after `ttl_s`, whatever is done to the clocks.

    Counted in the time since the machine started. After another start only the wall clock is left: what
    seems to have begun later than its own length from now has ended, too, as the clock was set back.
    """

    boot_id: str
    boot_ns: int
    wall_s: float
    ttl_s: float

    def over(self, now: Span) -> bool:
        """Whether it has ended by then."""
        if self.boot_id == now.boot_id:
            return now.boot_ns >= self.boot_ns + int(self.ttl_s * 1e9)
        return abs(now.wall_s - self.wall_s) >= self.ttl_s


def begun(ttl_s: float = 0.0) -> Span:
    """What begins now."""
    return Span(clock.boot_id(), clock.boot_ns(), clock.wall_s(), ttl_s)


def path_of(store: Store, kind: str, name: str) -> str:
    """The file of a name."""
    return store.path(kind, encode_name(name))


def lock_of(store: Store, path: str) -> FileLock:
    """The lock under which a file is read and written."""
    return store.lock(store.path("locks", f"agreements-{hash64(os.path.basename(path)) & 0xF:x}"))


def read(store: Store, path: str) -> dict[str, Any] | None:
    """The content of a file; None when there is none. What is damaged or foreign goes to quarantine."""
    try:
        content = _decoded(path, store.ops.read_file(path, _FILE_BYTES_MAX))
    except FileNotFoundError:
        return None
    except ForeignObject as error:
        store.quarantine(error)
        return None
    return content


def _decoded(path: str, data: bytes) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ForeignObject(path, "nothing that workers agreed on")
    return content


def write(store: Store, path: str, content: dict[str, Any]) -> None:
    """Replace what a file holds, as a whole: by another file, or in one page.

    A write within one page is all or nothing for whoever is killed, and several times as fast as another
    file; a loss of power may leave half of it.
    """
    data = json.dumps(content).encode("ascii")
    data = data.ljust(-(-len(data) // _ROUND_BYTES) * _ROUND_BYTES)
    if not store.fsync and _write_over(store, path, data, PAGE_BYTES):
        return
    temporary = f"{os.path.dirname(path)}/.{os.getpid()}-{os.urandom(4).hex()}.tmp"
    try:
        store.ops.write_new(temporary, data, sync=store.fsync)
        store.ops.rename(temporary, path)
    except IsADirectoryError:
        store.quarantine(ForeignObject(path, "a directory"))
        store.ops.rename(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # the first error says more
            store.ops.unlink_if_there(temporary)
        # On a full disk there still is the space that it has.
        if error.errno not in _FULL or not _write_over(store, path, data, _FILE_BYTES_MAX):
            raise


def _write_over(store: Store, path: str, data: bytes, limit_bytes: int) -> bool:
    """Write into the space that a file has; False if it has too little, or more than this."""
    try:
        fd = store.ops.open_regular(path, os.O_WRONLY)
    except (FileNotFoundError, ForeignObject):
        return False
    try:
        size = store.ops.fstat(fd).st_size
        fits = len(data) <= size <= limit_bytes
        if fits:
            store.ops.write_all(fd, data.ljust(size), 0)
        return fits
    finally:
        store.ops.close(fd)


def paths(store: Store, kind: str) -> list[str]:
    """The files of a kind, those that are being made left out."""
    names = os.listdir(store.path(kind))
    return [store.path(kind, name) for name in names if not name.startswith(".")]

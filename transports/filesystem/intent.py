"""What a settle is about to do, written down before it does it.

A settle with follow-ups, results or dead letters prepares them invisibly, writes this record, commits
its parents, makes the prepared things visible, and clears the record. Whoever finds the record later
finishes (parent settled under this record) or undoes (parent not settled under it).
"""

from __future__ import annotations

import os
import struct
import zlib

import msgspec

from .fileops import ForeignObject
from .owners import Owner
from .store import Store

_HEAD = struct.Struct("<4sII")
_MAGIC = b"PFIN"
_CLEARED = b"\0\0\0\0"
_BYTES_MAX = 256 << 20


class Staged(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A message that waits, invisible, for its parent.

    :param due_ms: Unix time, 0 for at once.
    """

    queue: str
    minute: int
    priority: int
    number: int
    slot: int
    due_ms: int


class Prepared(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A file that waits below the owner for its parent.

    :param name: file name in the owner's `out`.
    :param key: result key; empty for a dead letter, which keeps its name.
    """

    name: str
    key: str


class Parent(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A delivery and what becomes visible with it.

    :param letter: instead of a tag, the dead letter that is replayed: settled once its file has moved
        below the owner.
    """

    tag: bytes
    staged: tuple[Staged, ...]
    files: tuple[Prepared, ...]
    letter: str = ""


class Intent(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One settle.

    :param settle_id: marks the parents that were settled under this record.
    """

    settle_id: int
    parents: tuple[Parent, ...]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Intent).decode


class IntentFile:
    """The record of one settling process for one owner. Written by one thread."""

    def __init__(self, store: Store, owner: Owner) -> None:
        self._store = store
        self._path = f"{owner.path}/intent-{os.getpid()}-{os.urandom(4).hex()}"
        self._fd = -1

    def write(self, intent: Intent) -> None:
        """Write the record down.

        :raises FileNotFoundError: the owner is no longer registered.
        """
        ops = self._store.ops
        if self._fd < 0 or not ops.fstat(self._fd).st_nlink:
            self.close()
            self._fd = ops.open_regular(self._path, os.O_RDWR | os.O_CREAT)
        payload = _encode(intent)
        ops.write_all(self._fd, _HEAD.pack(_MAGIC, len(payload), zlib.crc32(payload)) + payload, 0)
        if self._store.fsync:
            ops.fdatasync(self._fd)

    def clear(self) -> None:
        """Nothing is under way any more."""
        self._store.ops.pwrite(self._fd, _CLEARED, 0)

    def close(self) -> None:
        """Drop the descriptor."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._store.ops.close(fd)


def pending(store: Store, owner_path: str) -> list[tuple[str, Intent]]:
    """The records of an owner that were not cleared, with their paths."""
    found = []
    try:
        names = sorted(os.listdir(owner_path))
    except FileNotFoundError:
        return []
    for name in names:
        if not name.startswith("intent-"):
            continue
        path = f"{owner_path}/{name}"
        try:
            data = store.ops.read_file(path, _BYTES_MAX)
        except FileNotFoundError:
            continue
        except ForeignObject as error:
            store.quarantine(error)
            continue
        intent = _parse(data)
        if intent is not None:
            found.append((path, intent))
    return found


def _parse(data: bytes) -> Intent | None:
    """A record that was written to its end; None for any other: then no parent was settled yet."""
    if len(data) < _HEAD.size or not data.startswith(_MAGIC):
        return None
    _, length, crc = _HEAD.unpack_from(data)
    payload = data[_HEAD.size : _HEAD.size + length]
    if len(payload) != length or zlib.crc32(payload) != crc:
        return None
    try:
        return _decode(payload)
    except msgspec.DecodeError:
        return None

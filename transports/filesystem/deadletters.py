"""Dead letters: one file each, named by the time of death."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator

import msgspec

from ..base import DeadLetter
from . import clock
from .fileops import ForeignObject
from .store import Store

_HEAD = struct.Struct("<4sIIQ")
_MAGIC = b"PFDL"
_BYTES_MAX = 1 << 31
_NAME_LENGTH = 20 + 1 + 16


class _About(msgspec.Struct, frozen=True):
    queue: str
    reason: str
    causes: tuple[str, ...]
    priority: int
    crashes: int
    died_wall_s: float


def dead_letter_name() -> str:
    """A name for a new letter; names sort by time."""
    return f"{clock.wall_ns():020d}-{os.urandom(8).hex()}"


def encode_dead_letter(
    *, queue: str, reason: str, causes: tuple[str, ...], document: bytes, priority: int, crashes: int
) -> bytes:
    """The content of the file of a letter."""
    about = {
        "queue": queue,
        "reason": reason,
        "causes": causes,
        "priority": priority,
        "crashes": crashes,
        "died_wall_s": clock.wall_s(),
    }
    header = json.dumps(about).encode("ascii")  # escapes what UTF-8 cannot hold, as in a queue's name
    return _HEAD.pack(_MAGIC, len(header), zlib.crc32(header + document), len(document)) + header + document


def read_dead_letter(store: Store, key: str) -> DeadLetter | None:
    """A letter; None when it is gone. What is no letter is quarantined."""
    if not is_key(key):
        return None
    path = store.path("dead", key)
    try:
        data = store.ops.read_file(path, _BYTES_MAX)
        return _decode(key, path, data)
    except FileNotFoundError:
        return None
    except ForeignObject as error:
        store.quarantine(error)
        return None


def _decode(key: str, path: str, data: bytes) -> DeadLetter:
    if len(data) < _HEAD.size or not data.startswith(_MAGIC):
        raise ForeignObject(path, "not a dead letter" if data else "empty")
    _, header_bytes, crc, document_bytes = _HEAD.unpack_from(data)
    rest = data[_HEAD.size :]
    if len(rest) != header_bytes + document_bytes or zlib.crc32(rest) != crc:
        raise ForeignObject(path, "truncated or damaged")
    try:
        # The standard library's reader, because a queue's name may hold a lone surrogate.
        about = msgspec.convert(json.loads(rest[:header_bytes]), _About)
    except (ValueError, msgspec.ValidationError):
        raise ForeignObject(path, "not a dead letter") from None
    return DeadLetter(
        key=key,
        queue=about.queue,
        reason=about.reason,
        causes=about.causes,
        document=rest[header_bytes:],
        priority=about.priority,
        crashes=about.crashes,
        died_wall_s=about.died_wall_s,
    )


def dead_letters(store: Store, limit: int) -> Iterator[DeadLetter]:
    """Letters, oldest first."""
    given = 0
    for key in sorted(os.listdir(store.path("dead"))):
        if given >= limit:
            return
        if not is_key(key):
            store.quarantine(ForeignObject(store.path("dead", key), "not a dead letter"))
            continue
        letter = read_dead_letter(store, key)
        if letter is not None:
            given += 1
            yield letter


def drop_dead_letter(store: Store, key: str) -> bool:
    """Delete a letter; False if it is gone."""
    return is_key(key) and store.ops.unlink_if_there(store.path("dead", key))


def is_key(key: str) -> bool:
    """Whether a text can be the name of a letter; nothing else is ever made a path of."""
    time_ns, dash, unique = key.partition("-")
    return (
        len(key) == _NAME_LENGTH
        and dash == "-"
        and time_ns.isascii()
        and time_ns.isdigit()
        and not unique.strip("0123456789abcdef")
    )

"""How a result file is laid out and where it lies."""

from __future__ import annotations

import struct

from . import clock
from .layout import NEVER_MS, encode_name, hash64
from .locks import FileLock
from .store import Store

HEAD = struct.Struct("<4sBxxxqI")
"""magic, flags, expiry (Unix time, ms), bytes of the key; the key and the document follow."""
MAGIC = b"PFRS"
FLAG_FINAL = 1
FLAG_SUCCESS = 2
RESULT_BYTES_MAX = 1 << 31
RESULT_FOLDERS = ("results", "groups")
SHARDS = tuple(f"{number:02x}" for number in range(256))


def result_path(store: Store, key: str, kind: str = "results") -> str:
    """Where the document of a key lies."""
    return store.path(kind, shard_of(key), encode_name(key))


def shard_of(key: str) -> str:
    """Which of 256 folders."""
    return SHARDS[hash64(key) & 0xFF]


def shard_lock(store: Store, shard: str) -> FileLock:
    """The lock under which documents of a folder are replaced or dropped."""
    return store.lock(store.path("locks", f"results-{shard[0]}"))


def encode_result(key: str, document: bytes, flags: int, expires_s: float | None) -> bytes:
    """The content of the file of a document."""
    encoded = key.encode("utf-8", "surrogatepass")
    return HEAD.pack(MAGIC, flags, _expiry_ms(expires_s), len(encoded)) + encoded + document


def _expiry_ms(expires_s: float | None) -> int:
    if expires_s is None:
        return NEVER_MS
    return min(int((clock.wall_s() + min(max(expires_s, 0.0), 1e12)) * 1000), NEVER_MS)

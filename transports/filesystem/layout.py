"""Names and byte layouts of the filesystem broker. docs/decisions/0002 says why they are so.

A message lives in one *slot* of one *segment* file from the moment it is sent until it is settled;
it never moves. What becomes of it is one byte, its state.
"""

from __future__ import annotations

import hashlib
import re
import struct
from enum import IntEnum
from typing import NamedTuple
from urllib.parse import quote, unquote

FORMAT = b"prefork filesystem broker 1\n"

PAGE_BYTES = 4096
SLOTS_BUCKET = 32
SLOTS_SMALL = 256
SLOTS_MAX = PAGE_BYTES  # one state byte per slot, and all of them in one page
SEGMENT_DATA_BYTES = 16 << 20
DOCUMENT_BYTES_MAX = (1 << 31) - 1
PRIORITIES = 10
NAME_BYTES_MAX = 200
NEVER_MS = (1 << 63) - 1


class State(IntEnum):
    """What a slot holds. Written as one byte, and only under the lock of the queue."""

    EMPTY = 0
    READY = 1
    CLAIMED = 2
    DONE = 3
    DELAYED = 4
    STAGED = 5
    """A follow-up that nobody sees until its parent is settled."""
    SETTLED = 6
    """Settled; its follow-ups, results and dead letters are about to become visible."""


FLAG_SUSPECT = 1
FLAG_STARTED = 2
FLAG_CHARGED = 4
"""A crash of this claim has been charged: a recovery that is repeated does not charge it twice."""
FLAG_REDELIVERED = 8

ENTRY = struct.Struct("<QIIq")
"""offset of the document, its length, its crc32, due time in ms (0: none)."""
CLAIM = struct.Struct("<QQ")
"""owner, batch."""
RECORD = struct.Struct("<HBB")
"""crashes, flags, (unused)."""
HEADER = struct.Struct("<8sIIII")
"""magic, slots, minute, priority, segment number; crc32 follows."""
HEADER_CRC = struct.Struct("<I")
SEGMENT_MAGIC = b"PFSEG\x00\x00\x01"

STATES_AT = PAGE_BYTES
CLAIMS_AT = 2 * PAGE_BYTES


def records_at(slots: int) -> int:
    """Where the records begin in a segment of so many slots."""
    return CLAIMS_AT + slots * CLAIM.size


def entries_at(slots: int) -> int:
    """Where the entries begin."""
    return records_at(slots) + slots * RECORD.size


def data_at(slots: int) -> int:
    """Where the documents begin."""
    end = entries_at(slots) + slots * ENTRY.size
    return -(-end // PAGE_BYTES) * PAGE_BYTES


class SegmentId(NamedTuple):
    """Which segment of a queue.

    :param minute: 0, or the due minute (Unix time / 60 s) of a bucket of delayed messages.
    """

    minute: int
    priority: int
    number: int

    def path(self) -> str:
        """The path below the directory of the queue."""
        if not self.minute:
            return f"{self.priority}-{self.number:08d}.seg"
        return f"delayed/{self.minute // 60}/{self.minute}p{self.priority}-{self.number:08d}.seg"

    def causes_prefix(self) -> str:
        """How the names of the files of causes begin that belong to messages of this segment."""
        return f"{self.minute}.{self.priority}.{self.number}."

    def slots(self) -> int:
        """How many messages such a segment holds: few in a first one, as most queues and most minutes
        of a schedule have few."""
        if self.minute and self.number <= 1:
            return SLOTS_BUCKET
        return SLOTS_SMALL if self.number <= (2 if self.minute else 1) else SLOTS_MAX


_SEGMENT_NAME = re.compile(r"(?:([0-9]{1,10})p)?([0-9])-([0-9]{8,10})\.seg")
_U32_MAX = 0xFFFFFFFF


def parse_segment_name(name: str) -> SegmentId | None:
    """The segment that a file name (without folders) stands for; None for any other name."""
    match = _SEGMENT_NAME.fullmatch(name)
    if match is None:
        return None
    minute, priority, number = match.groups(default="0")
    found = SegmentId(int(minute), int(priority), int(number))
    if max(found) > _U32_MAX or found.path().rpartition("/")[2] != name:
        return None
    return found


TAG_PREFIX = struct.Struct("<QIIBQQ")
TAG_SLOT = struct.Struct("<H")


class TagPrefix(NamedTuple):
    """What the tags of one run of messages have in common; the slot follows."""

    queue: int
    minute: int
    number: int
    priority: int
    owner: int
    batch: int

    def segment(self) -> SegmentId:
        """The segment named."""
        return SegmentId(self.minute, self.priority, self.number)


def encode_name(name: str) -> str:
    """A file name for any text; `decode_name` undoes it unless the text was very long.

    Exact: two texts never share a name. What is too long ends in ``%%`` and a hash, and its text must
    be stored beside it.
    """
    encoded = quote(name.encode("utf-8", "surrogatepass"), safe="") or "%"
    if encoded[0] == ".":
        encoded = "%2E" + encoded[1:]
    if len(encoded) > NAME_BYTES_MAX:
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:40]
        encoded = f"{encoded[:100]}%%{digest}"
    return encoded


def is_hashed(encoded: str) -> bool:
    """Whether the text must be read from beside the file."""
    return "%%" in encoded


def decode_name(encoded: str) -> str | None:
    """The text of a file name that `encode_name` made in full; None for a foreign name."""
    if is_hashed(encoded):
        return None
    try:
        name = "" if encoded == "%" else unquote(encoded, encoding="utf-8", errors="surrogatepass")
    except UnicodeDecodeError:
        return None
    return name if encode_name(name) == encoded else None


def hash64(name: str) -> int:
    """A number that stands for a name in tags and claims."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1

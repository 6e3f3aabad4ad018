"""One segment file: header, states, claims, records, entries, documents.

Everything before the documents is allocated when the segment is made, so that settling needs no
space. All writes happen under the lock of the queue; the write of states is what commits.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence

from .fileops import FileOps, ForeignObject
from .layout import (
    CLAIM,
    CLAIMS_AT,
    ENTRY,
    HEADER,
    HEADER_CRC,
    RECORD,
    SEGMENT_DATA_BYTES,
    SEGMENT_MAGIC,
    STATES_AT,
    SegmentId,
    State,
    data_at,
    entries_at,
    records_at,
)

DONE_BYTE = bytes((State.DONE,))
EMPTY_BYTE = bytes((State.EMPTY,))


class Segment:
    """An open segment. Closing it drops the descriptor; the file stays."""

    __slots__ = ("_data_at", "_entries_at", "_ops", "_records_at", "fd", "id", "slots")

    def __init__(self, ops: FileOps, fd: int, segment_id: SegmentId, slots: int) -> None:
        self._ops = ops
        self.fd = fd
        self.id = segment_id
        self.slots = slots
        self._records_at = records_at(slots)
        self._entries_at = entries_at(slots)
        self._data_at = data_at(slots)

    def states(self) -> bytes:
        """The state of every slot."""
        return self._ops.pread(self.fd, self.slots, STATES_AT)

    def write_states(self, slot: int, states: bytes | bytearray) -> None:
        """Commit: the kernel copies within one page in one piece."""
        self._ops.pwrite(self.fd, states, STATES_AT + slot)

    def claims(self, slot: int, count: int) -> bytes:
        """Owner and batch of slots, packed."""
        return self._ops.pread(self.fd, count * CLAIM.size, CLAIMS_AT + slot * CLAIM.size)

    def write_claims(self, slot: int, claims: bytes) -> None:
        """Say who holds slots, from `slot` on."""
        self._ops.pwrite(self.fd, claims, CLAIMS_AT + slot * CLAIM.size)

    def records(self, slot: int, count: int) -> bytes:
        """Crash counts and flags of slots, packed."""
        return self._ops.pread(self.fd, count * RECORD.size, self._records_at + slot * RECORD.size)

    def write_record(self, slot: int, crashes: int, flags: int) -> None:
        """Write the crash count and the flags of one slot, in one piece."""
        record = RECORD.pack(min(crashes, 0xFFFF), flags, 0)
        self._ops.pwrite(self.fd, record, self._records_at + slot * RECORD.size)

    def record(self, slot: int) -> tuple[int, int]:
        """Crash count and flags of one slot."""
        crashes, flags, _ = RECORD.unpack(self.records(slot, 1))
        return crashes, flags

    def entries(self, slot: int, count: int) -> bytes:
        """Where the documents of slots are, packed."""
        return self._ops.pread(self.fd, count * ENTRY.size, self._entries_at + slot * ENTRY.size)

    def entry(self, slot: int) -> tuple[int, int, int, int]:
        """Offset, length, crc32 and due time (ms) of one slot."""
        offset, length, crc, due_ms = ENTRY.unpack(self.entries(slot, 1))
        return offset, length, crc, due_ms

    def data_end(self, used: int) -> int:
        """Where the next document goes when so many slots are used."""
        if not used:
            return self._data_at
        offset, length, _, _ = self.entry(used - 1)
        return offset + length

    def fits(self, data_end: int, size_bytes: int) -> bool:
        """Whether a document may go here; one of any size may go into an empty segment."""
        return data_end == self._data_at or data_end + size_bytes - self._data_at <= SEGMENT_DATA_BYTES

    def write_documents(self, slot: int, at: int, documents: Sequence[bytes], dues_ms: Sequence[int]) -> None:
        """Write documents and their entries. Not yet committed: their states are still EMPTY."""
        entries = bytearray()
        pack, crc32 = ENTRY.pack, zlib.crc32
        offset = at
        for document, due_ms in zip(documents, dues_ms):
            entries += pack(offset, len(document), crc32(document), due_ms)
            offset += len(document)
        self._ops.write_all(self.fd, documents[0] if len(documents) == 1 else b"".join(documents), at)
        self._ops.pwrite(self.fd, entries, self._entries_at + slot * ENTRY.size)

    def read_documents(self, slot: int, count: int) -> list[bytes | None]:
        """The documents of neighbouring slots; None where the checksum disagrees."""
        wanted = list(ENTRY.iter_unpack(self.entries(slot, count)))
        start = wanted[0][0]
        end = wanted[-1][0] + wanted[-1][1]
        if not self._data_at <= start <= end <= self._data_at + 2 * SEGMENT_DATA_BYTES:
            return [self._read_one(offset, length, crc) for offset, length, crc, _ in wanted]
        data = self._ops.read_all(self.fd, end - start, start)
        found: list[bytes | None] = []
        crc32 = zlib.crc32
        for offset, length, crc, _ in wanted:
            document = data[offset - start : offset - start + length]
            found.append(document if len(document) == length and crc32(document) == crc else None)
        return found

    def _read_one(self, offset: int, length: int, crc: int) -> bytes | None:
        if offset < self._data_at or offset + length > self._ops.fstat(self.fd).st_size:
            return None
        document = self._ops.read_all(self.fd, length, offset)
        return document if zlib.crc32(document) == crc else None

    def read_raw(self, slot: int) -> bytes:
        """What there is of a document whose checksum disagrees."""
        offset, length, _, _ = self.entry(slot)
        size = self._ops.fstat(self.fd).st_size
        if not self._data_at <= offset < size:
            return b""
        return self._ops.read_all(self.fd, min(length, size - offset, SEGMENT_DATA_BYTES), offset)

    def sync(self) -> None:
        """Make it survive a loss of power."""
        self._ops.fdatasync(self.fd)

    def __del__(self) -> None:
        # Another thread may still read from a segment that a cache forgot: the last user closes it.
        self.close()

    def close(self) -> None:
        """Drop the descriptor."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            self._ops.close(fd)


def holds(segment: Segment, states: bytes | bytearray, slot: int, claim: bytes) -> bool:
    """Whether a slot is claimed under exactly this owner and batch. The lock is held."""
    return slot < len(states) and states[slot] == State.CLAIMED and segment.claims(slot, 1) == claim


def create_segment(ops: FileOps, path: str, segment_id: SegmentId) -> Segment:
    """Make a segment, complete before it has its name. The lock of the queue is held.

    :raises OSError: ENOSPC and the like; nothing is left but a temporary file that maintenance drops.
    """
    slots = segment_id.slots()
    temporary = f"{path}.tmp"
    ops.unlink_if_there(temporary)
    fd = ops.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        ops.fallocate(fd, 0, data_at(slots))
        header = HEADER.pack(SEGMENT_MAGIC, slots, *segment_id)
        ops.pwrite(fd, header + HEADER_CRC.pack(zlib.crc32(header)), 0)
        _park(fd)
        ops.rename(temporary, path)
    except BaseException:
        ops.close(fd)
        ops.unlink_if_there(temporary)
        raise
    return Segment(ops, fd, segment_id, slots)


def _park(fd: int) -> None:
    """Put the position of a descriptor where nothing can be written: a task may write into any it finds.

    Segments are read and written at offsets that are given. The last position that a file system has is
    found by halving; what is written there is refused (EFBIG).
    """
    low, high = 0, (1 << 63) - 1
    while low < high:
        middle = low + (high - low + 1) // 2
        try:
            os.lseek(fd, middle, os.SEEK_SET)
            low = middle
        except OSError:
            high = middle - 1
    os.lseek(fd, low, os.SEEK_SET)


def open_segment(ops: FileOps, path: str, segment_id: SegmentId) -> Segment:
    """Open a segment that exists.

    :raises ForeignObject: it is not a whole segment of this name.
    :raises FileNotFoundError: there is none.
    """
    fd = ops.open_regular(path, os.O_RDWR)
    try:
        header = ops.pread(fd, HEADER.size + HEADER_CRC.size, 0)
        why = _header_fault(header, segment_id)
        if not why and ops.fstat(fd).st_size < data_at(_slots(header)):
            why = "truncated"
        _park(fd)
    except BaseException:
        ops.close(fd)
        raise
    if why:
        ops.close(fd)
        raise ForeignObject(path, why)
    return Segment(ops, fd, segment_id, _slots(header))


def _slots(header: bytes) -> int:
    return int(HEADER.unpack_from(header)[1])


def _header_fault(header: bytes, segment_id: SegmentId) -> str:
    if len(header) < HEADER.size + HEADER_CRC.size:
        return "truncated" if header else "empty"
    magic, slots, minute, priority, number = HEADER.unpack_from(header)
    if magic != SEGMENT_MAGIC:
        return "not a segment of this format"
    if HEADER_CRC.unpack_from(header, HEADER.size)[0] != zlib.crc32(header[: HEADER.size]):
        return "damaged header"
    if (minute, priority, number) != tuple(segment_id) or slots != segment_id.slots():
        return "a segment of another name"
    return ""

"""The scoreboard: one anonymous shared mapping that every process of a worker inherits.

The supervisor makes it before it forks anything. A child says in its slot what it is doing, with
plain stores and no system call; the supervisor and the agent read it. Every word has exactly one
writer, named by its prefix: ``C_`` the child that holds the slot, ``S_`` the supervisor, ``A_``
the agent, ``W_`` anybody (only a change of it matters). There is no lock, so no holder of one can
be killed: texts of several words carry a sequence number, and a reader looks a bounded number of
times because the writer may be stopped or dead (design §3).

Standard library only: the supervisor imports this module.
"""

from __future__ import annotations

import mmap
import os
import struct
import weakref
from typing import Final, NamedTuple

SLOTS: Final = 1024
RATE_BUCKETS: Final = 4096
BATCH_MAX: Final = 256
TAG_BYTES: Final = 64
OUTCOME_BYTES: Final = 64 * 1024

_PAGE: Final = 4096
RATE_BUCKET_BYTES: Final = 64
_SLOT_BYTES: Final = _PAGE
_TAGS_BYTES: Final = BATCH_MAX * TAG_BYTES
_RATE_OFFSET: Final = _PAGE
_SLOT_OFFSET: Final = _RATE_OFFSET + RATE_BUCKETS * RATE_BUCKET_BYTES
_AREA_OFFSET: Final = _SLOT_OFFSET + SLOTS * _SLOT_BYTES
_AREA_BYTES: Final = _TAGS_BYTES + OUTCOME_BYTES
# What is revoked (engine/revoked_board.py): a header, and two tables of digests.
REVOKED_CELLS: Final = 1 << 17
REVOKED_BYTES: Final = _PAGE + 2 * REVOKED_CELLS * 16
REVOKED_OFFSET: Final = _AREA_OFFSET + SLOTS * _AREA_BYTES
# Time limits set at run time (engine/time_limit_board.py): entries of four words.
TIME_LIMITS_MAX: Final = 1024
TIME_LIMIT_WORDS: Final = 4
TIME_LIMITS_OFFSET: Final = REVOKED_OFFSET + REVOKED_BYTES
TIME_LIMITS_BYTES: Final = TIME_LIMITS_MAX * TIME_LIMIT_WORDS * 8
# Locks of unique tasks that run (engine/held_locks.py): cells of each slot.
LOCK_CELLS: Final = 256
LOCK_CELL_BYTES: Final = 192
LOCKS_OFFSET: Final = TIME_LIMITS_OFFSET + TIME_LIMITS_BYTES
SIZE_BYTES: Final = LOCKS_OFFSET + SLOTS * LOCK_CELLS * LOCK_CELL_BYTES
# Not in the mmap module before Python 3.13. Untouched slots must cost neither pages nor commit charge.
_MAP_NORESERVE: Final = 0x4000

# Header words. The writer is the first part of the name.
S_SUPERVISOR_PID: Final = 0
S_PAUSED: Final = 1  # 1: nobody may reserve (shutdown, agent gone for half a lease)
S_HIGH_SLOT: Final = 2  # slots at and above this index have never been used
S_TEMPLATE_PID: Final = 3
S_AGENT_PID: Final = 4
A_RENEWED_NS: Final = 5  # monotonic time of the last renewed lease
A_WAITING: Final = 6  # messages ready in the broker when the agent last looked
A_LOOP_NS: Final = 7  # monotonic time of the agent's last turn
A_ANNOUNCED: Final = 8  # 1: some agent of this worker has sent worker_ready
A_TIME_LIMITS: Final = 9  # changes whenever the time limits of a task kind are set
W_RATES: Final = 16  # changes whenever a bucket is made or given another rate
W_PARKED: Final = 17  # changes whenever messages are parked in a lane

# Slot words written by the child that holds the slot.
C_STATE: Final = 0
C_RUNNING: Final = 1  # number of the execution that runs now; 0 when none does
C_EXECUTIONS: Final = 2  # number of the last execution that was started
C_BATCH: Final = 3  # number of the batch that is held; only grows
C_CURSOR: Final = 4  # how many messages of the batch have been claimed for running
C_HELD: Final = 5  # how many messages the batch had
C_START_NS: Final = 6  # monotonic start of the running execution
C_SOFT_NS: Final = 7  # monotonic soft deadline; 0 for none
C_HARD_NS: Final = 8  # monotonic hard deadline; 0 for none
C_POLICY: Final = 9  # Policy bits of the running execution
C_SEQUENCE: Final = 10  # odd while the texts are being written
C_SUCCEEDED: Final = 11
C_FAILED: Final = 12
C_RETRIED: Final = 13
C_OUTCOME_BYTES: Final = 14  # valid bytes in the outcome area
C_LOOP_NS: Final = 15  # monotonic time of the last turn of the loop
C_RESERVED_NS: Final = 16  # monotonic time of the last reserve that returned
C_BUSY_NS: Final = 17  # total time spent in tasks
C_SOFT_LIMIT_MS: Final = 18
C_HARD_LIMIT_MS: Final = 19
C_BODY: Final = 20  # number of the execution whose body runs; the soft limit's signal is for it
C_OUTCOME_CLEARS: Final = 21  # how often the outcome area was emptied
C_SHIELDED: Final = 22  # the execution that is in a shield: it must not be interrupted softly
C_REPORT_BYTES: Final = 23  # length of the report that lies where outcomes would; 0 for none
C_LOCKS: Final = 23  # how many of its cells for locks (engine/held_locks.py) have been used

# Slot words written by the supervisor.
S_PID: Final = 32
S_GENERATION: Final = 33  # counts the children that have held this slot
S_SOFT_TARGET: Final = 34  # the execution that the last soft-limit signal is meant for
S_MARK: Final = 35  # recall mark: pack_mark(batch, index); messages from index on were taken back
S_STOP: Final = 36  # Stop value
S_TERMINATED: Final = 37  # the execution that is being ended on somebody's request
S_TERMINATION_SIGNAL: Final = 38  # and the signal that was asked for

# Slot words written by the agent.
A_MOVED: Final = 48  # the last batch whose recalled messages are back in the broker
A_PRIVATE_KIB: Final = 49  # private memory when last sampled
A_SAMPLED_NS: Final = 50  # monotonic time at which that sample was begun

# A futex. Anybody adds to it and wakes.
W_WAKE: Final = 56

_TEXT_OFFSET: Final = 1024
_LAST_OFFSET: Final = 2048  # the tag of what ran last, with its length
_TEXT = struct.Struct("<H254s H510s H62s")  # task id, task name, tag; each with its length
_PADDED = struct.Struct(f"{TAG_BYTES}p")  # one byte of length, the tag, zeros

_WORDS: Final = 64


class State:
    """What a child is doing (values of C_STATE)."""

    EMPTY: Final = 0
    BOOTING: Final = 1
    IDLE: Final = 2
    WORKING: Final = 3
    RETIRING: Final = 4  # will take no more messages and waits for leave to go
    BOOT_FAILED: Final = 5  # the traceback is in the outcome area
    HAS_ROOM: Final = 6  # runs coroutines, has nothing else to do, and may take more


class Stop:
    """What the supervisor wants of a child (values of S_STOP)."""

    RUN: Final = 0
    LEAVE: Final = 1  # finish the running task, settle, give the rest back, leave


class Policy:
    """Bits of C_POLICY: what becomes of the running message if its process dies.

    Copied from the resolved options of the task at its start, so that neither the supervisor nor
    the agent needs to know the task.
    """

    ACKED_EARLY: Final = 1  # already acknowledged: never run again
    FAIL_IF_LOST: Final = 2  # a lost process is a failure, not a crash to be repeated
    REQUEUE_ON_TIMEOUT: Final = 4  # a hard time limit gives the message back
    IGNORE_RESULT: Final = 8
    STORE_ERRORS: Final = 16  # ... but failures are stored
    BESIDE: Final = 32  # others run at the same time; its own process ends it, without the others


class Texts(NamedTuple):
    """The texts of a running execution. `torn` when the writer was caught in the middle.

    :param raw_id: the task id as it was written, to be compared with `revoked_keys.slot_id`.
    """

    task_id: str
    task_name: str
    tag: bytes
    torn: bool
    raw_id: bytes = b""


def pack_mark(batch: int, index: int) -> int:
    """One word for a recall mark: batch number and first recalled index."""
    return batch << 16 | index


def unpack_mark(mark: int) -> tuple[int, int]:
    """The batch number and the first recalled index of a mark."""
    return mark >> 16, mark & 0xFFFF


def padded_tag(tag: bytes) -> bytes:
    """A tag as it is kept in fields of a fixed size."""
    return _PADDED.pack(tag)


class Slot:
    """One slot. `words` may be indexed directly on the hot path."""

    __slots__ = ("_area", "_last_at", "_text_at", "buffer", "index", "words")

    def __init__(self, buffer: mmap.mmap, index: int) -> None:
        start = _SLOT_OFFSET + index * _SLOT_BYTES
        self.index = index
        self.buffer = buffer
        self.words = memoryview(buffer)[start : start + _WORDS * 8].cast("Q")
        self._text_at = start + _TEXT_OFFSET
        self._last_at = start + _LAST_OFFSET
        self._area = _AREA_OFFSET + index * _AREA_BYTES

    def clear(self, generation: int) -> None:
        """Make the slot ready for the next child. Called by the supervisor, before it forks."""
        words = self.words
        for word in range(_WORDS):
            words[word] = 0
        words[S_GENERATION] = generation

    def wake_address(self) -> int:
        """Offset in bytes, within the mapping, of the futex word."""
        return _SLOT_OFFSET + self.index * _SLOT_BYTES + W_WAKE * 8

    # --- texts; the writer is the child -------------------------------------------------------

    def write_texts(self, task_id: bytes, task_name: bytes, tag: bytes) -> None:
        """Write the texts of the execution that is about to run; too long ones are cut."""
        words = self.words
        id_len, name_len = min(len(task_id), 254), min(len(task_name), 510)
        words[C_SEQUENCE] += 1
        _TEXT.pack_into(self.buffer, self._text_at, id_len, task_id, name_len, task_name, len(tag), tag)
        words[C_SEQUENCE] += 1

    def read_texts(self) -> Texts:
        """Read the texts; tries a few times, then returns what is there with `torn` set."""
        texts = Texts("", "", b"", True)
        for _ in range(3):
            before = self.words[C_SEQUENCE]
            id_len, task_id, name_len, name, tag_len, tag = _TEXT.unpack_from(self.buffer, self._text_at)
            torn = bool(before & 1) or before != self.words[C_SEQUENCE]
            texts = Texts(
                task_id[:id_len].decode("utf-8", "replace"),
                name[:name_len].decode("utf-8", "replace"),
                tag[:tag_len],
                torn,
                task_id[:id_len],
            )
            if not torn:
                break
        return texts

    # --- of several executions that run beside each other; the writer is the child ---------------

    def write_last(self, padded: bytes) -> None:
        """Say whose code runs now: a tag as `padded_tag` gives it."""
        self.buffer[self._last_at : self._last_at + TAG_BYTES] = padded

    def read_last(self) -> bytes:
        """The tag of what ran last. For one whose process is dead."""
        data = self.buffer[self._last_at : self._last_at + TAG_BYTES]
        return bytes(data[1 : 1 + min(data[0], TAG_BYTES - 1)])

    # --- tags of the held batch; the writer is the child ----------------------------------------

    def write_tags(self, tags: list[bytes]) -> None:
        """Write the tags of a new batch, before C_BATCH and C_HELD announce it."""
        data = b"".join(map(_PADDED.pack, tags))
        self.buffer[self._area : self._area + len(data)] = data

    def read_tags(self, first: int, end: int) -> list[bytes]:
        """The tags of the messages `first` to `end` - 1 of the batch."""
        tags = []
        for index in range(first, min(end, BATCH_MAX)):
            at = self._area + index * TAG_BYTES
            length = min(self.buffer[at], TAG_BYTES - 1)
            tags.append(bytes(self.buffer[at + 1 : at + 1 + length]))
        return tags

    # --- outcomes not settled yet; the writer is the child ---------------------------------------

    def append_outcome(self, encoded: bytes) -> bool:
        """Keep an encoded outcome where it survives this process; False when it does not fit."""
        used = self.words[C_OUTCOME_BYTES]
        if used + len(encoded) + 4 > OUTCOME_BYTES:
            return False
        at = self._area + _TAGS_BYTES + used
        self.buffer[at : at + 4 + len(encoded)] = len(encoded).to_bytes(4, "little") + encoded
        # The length is the commit: a reader never sees a record that is not whole.
        self.words[C_OUTCOME_BYTES] = used + 4 + len(encoded)
        return True

    def clear_outcomes(self) -> None:
        """Forget the outcomes: they have been settled."""
        # Counted first: who reads while this goes on must not take new bytes for old ones.
        self.words[C_OUTCOME_CLEARS] += 1
        self.words[C_OUTCOME_BYTES] = 0

    def read_outcomes(self) -> list[bytes]:
        """The encoded outcomes that have not been settled; none when the child settled meanwhile."""
        clears = self.words[C_OUTCOME_CLEARS]
        records = self._outcome_records()
        return records if self.words[C_OUTCOME_CLEARS] == clears else []

    def _outcome_records(self) -> list[bytes]:
        start = self._area + _TAGS_BYTES
        end = start + min(self.words[C_OUTCOME_BYTES], OUTCOME_BYTES)
        records, at = [], start
        while at + 4 <= end:
            length = int.from_bytes(self.buffer[at : at + 4], "little")
            if at + 4 + length > end:
                break
            records.append(bytes(self.buffer[at + 4 : at + 4 + length]))
            at += 4 + length
        return records

    def write_report(self, text: str) -> None:
        """Leave a text (a boot traceback) in the outcome area, where nobody takes it for an outcome."""
        self.clear_outcomes()
        data = text.encode("utf-8", "replace")[-OUTCOME_BYTES:]
        at = self._area + _TAGS_BYTES
        self.buffer[at : at + len(data)] = data
        self.words[C_REPORT_BYTES] = len(data)

    def read_report(self) -> str:
        """The text that `write_report` left, or an empty one."""
        at = self._area + _TAGS_BYTES
        end = at + min(self.words[C_REPORT_BYTES], OUTCOME_BYTES)
        return self.buffer[at:end].decode("utf-8", "replace")


class Scoreboard:
    """The whole mapping. Make it once, in the supervisor, before the first fork.

    :ivar rates: the words of the rate buckets (`limits.board`).
    :ivar locks_fd: a file without content; its bytes are locked (`limits.locks`).
    :ivar agent_bell_fd: eventfd; adding to it makes the agent look at the limited tasks at once.
    """

    def __init__(self) -> None:
        flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        self.buffer = mmap.mmap(-1, SIZE_BYTES, flags=flags)
        self.words = memoryview(self.buffer)[:_PAGE].cast("Q")
        self.rates = memoryview(self.buffer)[_RATE_OFFSET:_SLOT_OFFSET].cast("Q")
        self.locks_fd = os.memfd_create("prefork-locks")
        self.agent_bell_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        for fd in (self.locks_fd, self.agent_bell_fd):
            weakref.finalize(self, os.close, fd)
        self._slots: dict[int, Slot] = {}

    def slot(self, index: int) -> Slot:
        """The slot of this index."""
        slot = self._slots.get(index)
        if slot is None:
            if not 0 <= index < SLOTS:
                raise IndexError(f"slot {index}: a worker has at most {SLOTS} slots")
            slot = self._slots[index] = Slot(self.buffer, index)
        return slot

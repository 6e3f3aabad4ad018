"""The locks of unique tasks that run: shown by their children, prolonged by whoever renews the lease.

A child writes a cell when a task starts whose lock is to last for as long as it runs, and empties it when
the execution is over. Nothing is written for tasks without a lock. The agent reads the cells of living
children; a worker that dies prolongs nothing, so its locks end by their own time.
"""

from __future__ import annotations

import logging
import struct
import threading
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from ..transports.coordination import Coordinates
from .clock import mono_ns
from .scoreboard import (
    C_LOCKS,
    LOCK_CELL_BYTES,
    LOCK_CELLS,
    LOCKS_OFFSET,
    S_GENERATION,
    S_HIGH_SLOT,
    S_PID,
    SLOTS,
    Scoreboard,
    Slot,
)

KEEP_S: Final = 1.0
"""How often the cells are looked at."""

_ID_BYTES: Final = 100
_DIGEST_BYTES: Final = 64
# When the lock was taken, for how long, what is held (a bit each), the digest, the task id with its length.
_CELL: Final = struct.Struct(f"<QQB{_DIGEST_BYTES}pH{_ID_BYTES}s")
_SEQUENCE: Final = struct.Struct("<Q")
_LOOKS: Final = 3

MAIN, STARTED = 1, 2
"""What is held: the lock of the key; the lock that says that the task has started."""


class Held(NamedTuple):
    """One running execution with locks.

    :param sequence: of the cell; another one is another execution.
    :param since_ns: monotonic time at which its locks were last prolonged by its child.
    :param lasts_s: for how long they last from then on.
    :param what: bits `MAIN` and `STARTED`.
    """

    sequence: int
    since_ns: int
    lasts_s: float
    what: int
    digest: str
    task_id: str


class ShownLocks:
    """The cells of one slot, written by the child that holds it: by any thread of it, under a lock.

    The count of cells in the slot is cleared with the slot, so what a dead child left is never read.
    """

    def __init__(self, slot: Slot, now_ns: Callable[[], int] = mono_ns) -> None:
        self._slot = slot
        self._now_ns = now_ns
        self._lock = threading.Lock()
        self._cells: dict[str, int] = {}
        self._free: list[int] = []

    def show(self, task_id: str, digest: str, lasts_s: float, what: int) -> bool:
        """An execution starts whose locks last for so long; False when there is no room to show it."""
        raw = task_id.encode("utf-8", "surrogatepass")
        if len(raw) > _ID_BYTES:
            return False
        with self._lock:
            cell = self._cells.get(task_id)
            used = int(self._slot.words[C_LOCKS])
            if cell is None:
                cell = self._free.pop() if self._free else used
                if cell >= LOCK_CELLS:
                    return False
                self._cells[task_id] = cell
            self._write(
                cell, (self._now_ns(), int(lasts_s * 1000), what, digest.encode("ascii"), len(raw), raw)
            )
            self._slot.words[C_LOCKS] = max(used, cell + 1)
        return True

    def hide(self, task_id: str) -> None:
        """The execution is over. Harmless for one that is not shown."""
        if not self._cells:
            return
        with self._lock:
            cell = self._cells.pop(task_id, None)
            if cell is not None:
                self._write(cell, (0, 0, 0, b"", 0, b""))
                self._free.append(cell)

    def _write(self, cell: int, values: tuple[int, int, int, bytes, int, bytes]) -> None:
        buffer, at = self._slot.buffer, _address(self._slot, cell)
        (sequence,) = _SEQUENCE.unpack_from(buffer, at)
        # A predecessor may have died while it wrote: odd in any case.
        sequence |= 1
        _SEQUENCE.pack_into(buffer, at, sequence)
        _CELL.pack_into(buffer, at + _SEQUENCE.size, *values)
        _SEQUENCE.pack_into(buffer, at, sequence + 1)


def held_in(slot: Slot) -> Iterable[tuple[int, Held]]:
    """What the child of a slot shows: number of the cell, and what is in it. One that is just being
    written is left out."""
    for cell in range(min(int(slot.words[C_LOCKS]), LOCK_CELLS)):
        held = _read(slot, cell)
        if held is not None:
            yield cell, held


def _address(slot: Slot, cell: int) -> int:
    return LOCKS_OFFSET + (slot.index * LOCK_CELLS + cell) * LOCK_CELL_BYTES


def _read(slot: Slot, cell: int) -> Held | None:
    buffer, at = slot.buffer, _address(slot, cell)
    for _ in range(_LOOKS):
        (before,) = _SEQUENCE.unpack_from(buffer, at)
        since_ns, lasts_ms, what, digest, length, raw = _CELL.unpack_from(buffer, at + _SEQUENCE.size)
        (after,) = _SEQUENCE.unpack_from(buffer, at)
        if before == after and not before & 1:
            if not what:
                return None
            task_id = raw[:length].decode("utf-8", "surrogatepass")
            return Held(before, since_ns, lasts_ms / 1000, what, digest.decode("ascii"), task_id)
    return None


def is_due(now_ns: int, since_ns: int, lasts_s: float) -> bool:
    """Whether locks that last for so long are to be prolonged: a third of it is over. Pure."""
    return now_ns - since_ns >= lasts_s * 1e9 / 3


class KeptLocks:
    """Prolongs the locks of what runs in one worker. Used by the thread that renews its lease.

    :param slots: those whose children live.
    :param names: what the locks of a cell are called.
    :param now_ns: the monotonic clock.
    """

    def __init__(
        self,
        port: Coordinates,
        slots: Callable[[], Iterable[Slot]],
        names: Callable[[Held], Iterable[str]],
        log: logging.Logger,
        now_ns: Callable[[], int] = mono_ns,
    ) -> None:
        self._port = port
        self._slots = slots
        self._names = names
        self._log = log
        self._now_ns = now_ns
        # When locks were last prolonged here, by slot, generation, cell and sequence.
        self._kept_ns: dict[tuple[int, int, int, int], int] = {}

    def turn(self) -> None:
        """Prolong what is due.

        :raises BrokerUnavailable: the broker cannot be reached; the next turn tries again.
        """
        kept: dict[tuple[int, int, int, int], int] = {}
        try:
            for slot in self._slots():
                for cell, held in held_in(slot):
                    key = (slot.index, int(slot.words[S_GENERATION]), cell, held.sequence)
                    kept[key] = since_ns = self._kept_ns.get(key, held.since_ns)
                    now_ns = self._now_ns()
                    if is_due(now_ns, since_ns, held.lasts_s):
                        self._prolong(held)
                        kept[key] = now_ns
        finally:
            self._kept_ns = kept

    def _prolong(self, held: Held) -> None:
        for name in self._names(held):
            # Only while it is the task's: it may have ended a moment ago, and must not get it back.
            if not self._port.prolong(name, held.task_id, held.lasts_s):
                self._log.info("task %s runs, or ran until now, without its lock %s", held.task_id, name)


def living(scoreboard: Scoreboard) -> Iterable[Slot]:
    """The slots of the children that live."""
    for index in range(min(int(scoreboard.words[S_HIGH_SLOT]), SLOTS)):
        slot = scoreboard.slot(index)
        if slot.words[S_PID]:
            yield slot

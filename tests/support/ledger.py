"""A ledger of executions, and the checker that says what the ledger proves.

Every task of a fault test writes one record of fixed size when it starts and one when it ends, each
with one write to a file opened for appending: a record is there whole or not at all, whatever is
killed. The test itself keeps what was accepted by the broker, and whom it killed when.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

START, END = 1, 2
ID_BYTES = 40
# A task that ended longer ago than this was settled; it must not run again.
SETTLED_NS = 300_000_000
# What dies with its supervisor may begin another task before it does.
DYING_NS = 1_000_000_000

_RECORD = struct.Struct(f"<IIIIQ{ID_BYTES}s")
_MAGIC = 0x4C454447


class LedgerError(Exception):
    """The ledger holds something that no task has written."""


class Record(NamedTuple):
    """One line of the ledger; `boot_ns` is CLOCK_BOOTTIME."""

    kind: int
    attempt: int
    pid: int
    boot_ns: int
    task_id: str


class Kill(NamedTuple):
    """A process that a test has killed, and when it began to."""

    pid: int
    boot_ns: int


class Execution(NamedTuple):
    """One run of one task; `end_ns` is None when it was cut off."""

    task_id: str
    pid: int
    attempt: int
    start_ns: int
    end_ns: int | None


def boot_ns() -> int:
    """Now, on the clock of the ledger."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def note(path: str | Path, kind: int, task_id: str, attempt: int = 0) -> None:
    """Append one record."""
    name = task_id.encode()
    if len(name) > ID_BYTES:
        raise LedgerError(f"{task_id!r} has more than {ID_BYTES} bytes")
    record = _RECORD.pack(_MAGIC, kind, attempt, os.getpid(), boot_ns(), name)
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, record)
    finally:
        os.close(fd)


class Ledger:
    """Reads a ledger while it grows.

    :ivar records: all that was read so far, in the order in which they were written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.records: list[Record] = []
        self.finished: set[str] = set()
        self._offset_bytes = 0
        # The last record of each process.
        self._last: dict[int, Record] = {}

    def read(self) -> Ledger:
        """Take in what has been written since; returns itself.

        :raises LedgerError: a record is damaged.
        """
        if not self.path.exists():
            return self
        with self.path.open("rb") as file:
            file.seek(self._offset_bytes)
            data = file.read()
        whole = len(data) - len(data) % _RECORD.size
        for offset in range(0, whole, _RECORD.size):
            magic, kind, attempt, pid, written_ns, name = _RECORD.unpack_from(data, offset)
            if magic != _MAGIC or kind not in (START, END):
                raise LedgerError(f"no record at byte {self._offset_bytes + offset} of {self.path}")
            record = Record(kind, attempt, pid, written_ns, name.rstrip(b"\0").decode())
            self.records.append(record)
            self._last[pid] = record
            if kind == END:
                self.finished.add(record.task_id)
        self._offset_bytes += whole
        return self

    def running(self) -> dict[int, Record]:
        """By process: the start of what it has begun and not ended, the dead included."""
        return {pid: record for pid, record in self._last.items() if record.kind == START}

    def executions(self) -> list[Execution]:
        """All executions, by their start."""
        return executions(self.read().records)


def executions(records: Iterable[Record]) -> list[Execution]:
    """Pairs starts with ends; one process runs one task at a time.

    :raises LedgerError: an end without its start.
    """
    found: list[Execution] = []
    open_by_pid: dict[int, int] = {}
    for record in records:
        index = open_by_pid.get(record.pid)
        if record.kind == START:
            open_by_pid[record.pid] = len(found)
            found.append(Execution(record.task_id, record.pid, record.attempt, record.boot_ns, None))
        elif index is None or found[index].task_id != record.task_id:
            raise LedgerError(f"{record.task_id} ended in process {record.pid} and never started there")
        else:
            found[index] = found[index]._replace(end_ns=record.boot_ns)
            del open_by_pid[record.pid]
    return sorted(found, key=lambda execution: execution.start_ns)


@dataclass
class Findings:
    """What a ledger proves.

    :ivar lost: accepted, never finished, and nowhere else either.
    :ivar phantom: started though nobody sent them.
    :ivar duplicates: starts beyond the first of each id.
    :ivar unexplained: ids that started again though no kill hit their previous execution, or not in time.
    :ivar overlaps: ids with two executions at one time.
    :ivar vanished: ids with an execution that was cut off though nobody killed its process.
    :ivar hits: kills that cut off an execution.
    """

    accepted: int = 0
    starts: int = 0
    lost: list[str] = field(default_factory=list)
    phantom: list[str] = field(default_factory=list)
    duplicates: int = 0
    unexplained: list[str] = field(default_factory=list)
    overlaps: list[str] = field(default_factory=list)
    vanished: list[str] = field(default_factory=list)
    hits: int = 0

    @property
    def clean(self) -> bool:
        """At-least-once held, and every repetition has its kill."""
        return not (self.lost or self.phantom or self.unexplained or self.overlaps or self.vanished)

    def __str__(self) -> str:
        return (
            f"accepted {self.accepted}, starts {self.starts}, hits {self.hits}, lost {len(self.lost)}, "
            f"phantom {len(self.phantom)}, duplicates {self.duplicates}, "
            f"unexplained {len(self.unexplained)}, overlaps {len(self.overlaps)}, "
            f"vanished {len(self.vanished)}"
        )


def check(
    accepted: Collection[str],
    runs: Sequence[Execution],
    kills: Sequence[Kill] = (),
    *,
    elsewhere: Collection[str] = (),
    per_kill: int | None = 1,
) -> Findings:
    """Judge a ledger.

    :param elsewhere: ids that are known to be ready, delayed or dead in the broker.
    :param per_kill: how many repetitions one kill explains; None for any number (a whole worker died).
    """
    findings = Findings(accepted=len(accepted), starts=len(runs))
    by_id: dict[str, list[Execution]] = {}
    for run in sorted(runs, key=lambda run: run.start_ns):
        by_id.setdefault(run.task_id, []).append(run)
    known = set(accepted)
    findings.phantom = sorted(set(by_id) - known)
    finished = {run.task_id for run in runs if run.end_ns is not None}
    findings.lost = sorted(known - finished - set(elsewhere))
    judge = _Kills(kills, per_kill)
    for task_id, tries in by_id.items():
        findings.duplicates += len(tries) - 1
        for index, run in enumerate(tries):
            following = tries[index + 1] if index + 1 < len(tries) else None
            _judge(findings, judge, task_id, run, following)
    findings.hits = judge.hits
    return findings


def _judge(
    findings: Findings, kills: _Kills, task_id: str, run: Execution, following: Execution | None
) -> None:
    killed = kills.of(run)
    if run.end_ns is None:
        if killed is None:
            findings.vanished.append(task_id)
        else:
            kills.hits += 1
    if following is None:
        return
    ended_ns = run.end_ns if run.end_ns is not None else killed.boot_ns if killed else None
    if ended_ns is not None and ended_ns > following.start_ns:
        findings.overlaps.append(task_id)
    if killed is None or killed.boot_ns > following.start_ns or not kills.spend(killed):
        findings.unexplained.append(task_id)


class _Kills:
    """Which kill ended which execution, and what each has explained already."""

    def __init__(self, kills: Sequence[Kill], per_kill: int | None) -> None:
        self._by_pid: dict[int, list[Kill]] = {}
        for kill in kills:
            self._by_pid.setdefault(kill.pid, []).append(kill)
        self._per_kill = per_kill
        self._spent: dict[Kill, int] = {}
        self.hits = 0

    def of(self, run: Execution) -> Kill | None:
        """The kill that hit the process during this execution, or before it can have been settled."""
        for kill in self._by_pid.get(run.pid, ()):
            if kill.boot_ns < run.start_ns - DYING_NS:
                continue
            if run.end_ns is None or kill.boot_ns <= run.end_ns + SETTLED_NS:
                return kill
        return None

    def spend(self, kill: Kill) -> bool:
        """Use a kill as an explanation; False when it has explained enough."""
        spent = self._spent.get(kill, 0)
        if self._per_kill is not None and spent >= self._per_kill:
            return False
        self._spent[kill] = spent + 1
        return True

"""The log that every task of every engine appends one record to: which message, what figure, where."""

from __future__ import annotations

import os
import struct
import time

PATH = "BENCH_LOG"
# "cpu": what is recorded is the CPU time of the process so far, instead of the moment.
CLOCK = "BENCH_CLOCK"

_pack = struct.Struct("<qqq").pack


class RunLog:
    """One file, opened for appending: the kernel puts the records of all processes one after the other."""

    def __init__(self, path: str, *, cpu: bool) -> None:
        self._clock_ns = time.process_time_ns if cpu else time.monotonic_ns
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def ran(self, number: int) -> None:
        """Record that a message runs, now."""
        os.write(self._fd, _pack(number, self._clock_ns(), os.getpid()))

    def add(self, number: int, value: int) -> None:
        """Record a figure of a message."""
        os.write(self._fd, _pack(number, value, os.getpid()))


def from_environment() -> RunLog:
    """The log that the harness has asked for."""
    return RunLog(os.environ[PATH], cpu=os.environ.get(CLOCK) == "cpu")

"""Reading the log that all tasks append to."""

from __future__ import annotations

import array
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

WORDS = 3
RECORD_BYTES = 8 * WORDS


class Log:
    """One file with a record per execution: the message's number, a figure, the process."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def count(self) -> int:
        """How many executions are recorded by now."""
        try:
            return os.stat(self.path).st_size // RECORD_BYTES
        except FileNotFoundError:
            return 0

    def wait(self, count: int, within_s: float, alive: Callable[[], bool]) -> None:
        """Wait for so many executions.

        :raises RuntimeError: they are not there in time, or the worker has ended.
        """
        deadline_s = time.monotonic() + within_s
        while (seen := self.count()) < count:
            if time.monotonic() > deadline_s or not alive():
                raise RuntimeError(f"{seen} of {count} tasks ran within {within_s:g} s")
            time.sleep(0.01)

    def read(self) -> Executions:
        """Everything that is recorded."""
        words = array.array("q")
        with open(self.path, "rb") as file:
            words.frombytes(file.read())
        return Executions(words[0::WORDS], words[1::WORDS], words[2::WORDS])


class Executions(NamedTuple):
    """Columns of the log, in the order in which the tasks ran."""

    numbers: array.array[int]
    figures: array.array[int]
    pids: array.array[int]

    def check(self, count: int) -> None:
        """Every message from 0 ran exactly once.

        :raises RuntimeError: some were lost, or ran twice.
        """
        distinct = set(self.numbers)
        if lost := count - len(distinct & set(range(count))):
            raise RuntimeError(f"{lost} of {count} messages were lost")
        if extra := len(self.numbers) - count:
            raise RuntimeError(f"{extra} executions too many of {count} messages")

    def rate(self) -> float:
        """Executions a second, from the first to the last."""
        return (len(self.figures) - 1) / ((max(self.figures) - min(self.figures)) / 1e9)

    def by_process(self) -> list[list[int]]:
        """The figures of each process, in its order."""
        found: dict[int, list[int]] = {}
        for figure, pid in zip(self.figures, self.pids):
            found.setdefault(pid, []).append(figure)
        return list(found.values())

"""The tasks as Huey has them, on its SQLite storage."""

from __future__ import annotations

import os

import recorder
from huey import SqliteHuey

_records = recorder.from_environment()
# None is Huey's default: SQLite's own, which in its WAL mode flushes at every commit.
_fsync = {"default": None, "0": False, "1": True}[os.environ["BENCH_FSYNC"]]

huey = SqliteHuey(
    "bench",
    filename=os.environ["BENCH_BROKER"],
    fsync=_fsync,
    results=os.environ["BENCH_RESULTS"] == "1",
)


@huey.task()
def noop(number: int) -> int:
    """Nothing but the record that it ran."""
    _records.now()
    return number


send = noop

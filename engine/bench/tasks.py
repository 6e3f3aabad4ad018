"""The task that is measured: it leaves a record of its start and, if asked, takes its time."""

from __future__ import annotations

import functools
import os
import struct
import time

from ..clock import mono_ns
from .app import app

TASK = "prefork.bench.probe"
RECORD = struct.Struct("<qq")


@app.task(name=TASK, ignore_result=True)
def probe(path: str, number: int, task_ms: float) -> None:
    """Record that it starts, then sleep.

    :param path: the log of the trial, which all processes append to.
    :param number: of the message within the trial.
    :param task_ms: how long the task takes.
    """
    os.write(_log(path), RECORD.pack(number, mono_ns()))
    if task_ms > 0:
        time.sleep(task_ms / 1000)


@functools.lru_cache(maxsize=1)
def _log(path: str) -> int:
    """A descriptor for appending, opened once per process; a later trial has later processes."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

"""A child to which RabbitMQ pushes, and one of whose short tasks takes long after all."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from prefork.engine.app import App
from support.rabbitmq_server import shared
from support.stress_worker import search_path
from support.waiting import eventually

SOURCE = """
import os, signal, struct, time
from prefork.engine import App

app = App("streams", broker=os.environ["STREAMS_URL"])


# One descriptor for all processes: what is appended in one call is not torn apart.
LOG = os.open(os.environ["STREAMS_LOG"], os.O_WRONLY | os.O_APPEND)


@app.task(ignore_result=True)
def step(number, seconds, kill=False):
    os.write(LOG, struct.pack("<qq", -number, time.monotonic_ns()))
    if kill and number not in seen(os.environ["STREAMS_LOG"]):
        os.kill(os.getpid(), signal.SIGKILL)
    if seconds:
        time.sleep(seconds)
    os.write(LOG, struct.pack("<qq", number, time.monotonic_ns()))


def seen(path):
    starts = [number for number, _ in struct.iter_unpack("<qq", open(path, "rb").read())]
    return [-number for number in starts if number < 0 and starts.count(number) > 1]
"""
RECORD = struct.Struct("<qq")


class Streams:
    """An application in a virtual host of its own, what its tasks wrote, and a worker of two children."""

    def __init__(self, root: Path) -> None:
        (root / "streams_app.py").write_text(SOURCE)
        self.log = root / "log"
        self.log.touch()
        self.output = root / "output"
        url = shared().vhost_url()
        self.environ = {
            **os.environ,
            "STREAMS_URL": url,
            "STREAMS_LOG": str(self.log),
            "PYTHONPATH": os.pathsep.join([str(root), search_path()]),
        }
        self.app = App("streams", broker=url, set_as_current=False)

    def send(self, calls: list[tuple[Any, ...]]) -> None:
        """Send all of them at once, in this order."""
        self.app.send_tasks([("streams_app.step", call, {}, {"ignore_result": True}) for call in calls])

    def records(self) -> list[tuple[int, int]]:
        """Numbers and moments; of starts the negative number."""
        data = self.log.read_bytes()
        return list(RECORD.iter_unpack(data[: len(data) // RECORD.size * RECORD.size]))

    def ended(self) -> set[int]:
        return {number for number, _ in self.records() if number > 0}

    @contextmanager
    def worker(self) -> Iterator[None]:
        command = ["-m", "prefork.engine", "-A", "streams_app", "worker", "-c", "2", "-l", "DEBUG"]
        with self.output.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *command], env=self.environ, stdout=output, stderr=output
            )
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


@pytest.fixture
def streams(tmp_path: Path) -> Iterator[Streams]:
    made = Streams(tmp_path)
    yield made
    made.app.close()


def test_what_was_pushed_to_a_child_whose_task_takes_long_is_run_by_another(streams: Streams) -> None:
    long_s, count, long = 8.0, 12_000, 3_000
    streams.send([(n, long_s if n == long else 0.0) for n in range(1, count + 1)])
    with streams.worker():
        others = set(range(1, count + 1)) - {long}
        eventually(lambda: others <= streams.ended(), deadline_s=60.0, every_s=0.1)
        eventually(lambda: long in streams.ended(), deadline_s=30.0)
    output = streams.output.read_text()
    # The fault hit a child to which messages were pushed: it began, and the long task made it end.
    assert "messages are pushed from now on" in output
    ends = dict(streams.records())
    began_ns, ended_ns = ends[-long], ends[long]
    behind = [n for n in others if ends[-n] >= ended_ns]
    assert not behind, f"{len(behind)} waited for the long task"
    assert sum(ends[-n] > began_ns for n in others) > 100, "it was among the last: nothing was held behind it"
    assert Counter(number for number, _ in streams.records()).most_common(1)[0][1] == 1, "one ran twice"


def test_a_killed_child_loses_nothing_that_was_pushed_to_it(streams: Streams) -> None:
    count, killers = 8_000, {2_000, 4_000, 6_000}
    streams.send([(n, 0.0, n in killers) for n in range(1, count + 1)])
    began_mono_s = time.monotonic()
    with streams.worker():
        eventually(lambda: len(streams.ended()) == count, deadline_s=120.0, every_s=0.1)
    print(f"{time.monotonic() - began_mono_s:.1f} s")
    output = streams.output.read_text()
    assert "messages are pushed from now on" in output
    assert output.count("died: signal 9") >= len(killers), output[-2000:]
    starts = Counter(-number for number, _ in streams.records() if number < 0)
    assert all(starts[n] >= 2 for n in killers)

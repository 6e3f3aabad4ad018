"""One round of one engine: a queue is filled, a worker empties it, and the log says whether all was well."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from ..contestants import stop
from ..records import cost_us, percentile
from .engines import APPS, Engine
from .log import Log
from .processes import cpu_s, pss_mb
from .server import Server

_RUN_S = 600.0
_SEND_S = 900.0
_SETTLED_S = 1.0
# Runs while a worker learns that a task is short; see `cost_us`.
_WARM_UP_RUNS = 150


class Drained(NamedTuple):
    """What emptying a queue took.

    :ivar per_s: tasks a second, from the first to the last.
    :ivar cpu_us: CPU time of all processes of the worker a task, after the first tenth.
    :ivar sent_per_s: messages a second of the one process that filled it.
    """

    per_s: float
    cpu_us: float
    sent_per_s: float


class Round:
    """A directory, an emptied server and the environment of one engine's processes.

    :param parent: where the directory is made.
    :param results: whether the tasks' results are stored.
    """

    def __init__(self, server: Server, engine: Engine, parent: Path, *, results: bool = False) -> None:
        server.empty()
        self.engine = engine
        self.directory = parent
        self.log = Log(parent / "log")
        self.environ = {
            **os.environ,
            "BENCH_REDIS": server.url,
            "BENCH_LOG": str(self.log.path),
            "BENCH_RESULTS": "1" if results else "0",
            "XDG_RUNTIME_DIR": str(parent),
            **dict(engine.environ),
        }
        self._url = server.url

    def enqueue(self, count: int, how: str = "each") -> float:
        """Send messages from one process; returns messages a second."""
        told = json.loads(self._app("enqueue.py", self.engine.module, str(count), how))
        return float(told["sent"] / told["s"])

    def probe(self, count: int, interval_s: float, what: str) -> list[float]:
        """Ask an idle worker now and then; returns the milliseconds that the script printed, if any."""
        told: list[float] = json.loads(
            self._app("probe.py", self.engine.module, str(count), str(interval_s), what)
        )
        return told

    def _app(self, script: str, *arguments: str) -> str:
        return subprocess.run(
            [sys.executable, script, *arguments],
            env=self.environ,
            cwd=APPS,
            stdout=subprocess.PIPE,
            check=True,
            text=True,
            timeout=_SEND_S,
        ).stdout

    @contextlib.contextmanager
    def worker(self) -> Iterator[subprocess.Popen[bytes]]:
        """A worker with its output in a file, stopped in order at the end."""
        argv = [self._url if word == "BENCH_REDIS" else word for word in self.engine.argv()]
        with open(self.directory / "output", "wb") as output:
            process = subprocess.Popen(
                argv,
                env=self.environ,
                cwd=APPS,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            stop(process)

    def output(self) -> str:
        """What the worker has said, for the one who looks for a failure."""
        return (self.directory / "output").read_text(encoding="utf-8", errors="replace")[-4000:]

    def await_runs(self, count: int, process: subprocess.Popen[bytes]) -> None:
        """Wait until so many tasks have run.

        :raises RuntimeError: they have not, with what the worker said.
        """
        try:
            self.log.wait(count, _RUN_S, lambda: process.poll() is None)
        except RuntimeError as error:
            raise RuntimeError(f"{self.engine.name}: {error}\n{self.output()}") from error


def drain(one: Round, count: int, how: str = "each") -> Drained:
    """Fill the queue, then have a new worker empty it.

    :raises RuntimeError: not every message ran exactly once.
    """
    sent_per_s = one.enqueue(count, how)
    first = count // 10
    with one.worker() as process:
        one.await_runs(first, process)
        began, before_s = one.log.count(), cpu_s(process.pid)
        one.await_runs(count, process)
        spent_s = cpu_s(process.pid) - before_s
    executions = one.log.read()
    executions.check(count)
    return Drained(executions.rate(), spent_s * 1e6 / max(1, count - began), sent_per_s)


def latency_ms(one: Round, count: int, interval_s: float) -> tuple[float, float]:
    """From just before the call that sends to the first line of the task: median, 99th percentile."""
    with one.worker() as process:
        _await_idle(one, process)
        began = one.log.count()
        one.probe(count, interval_s, "latency")
        one.await_runs(began + count, process)
    delays_ms = [figure / 1e6 for figure in one.log.read().figures[began:]]
    return percentile(delays_ms, 50), percentile(delays_ms, 99)


def round_trip_ms(one: Round, count: int, interval_s: float) -> tuple[float, float]:
    """From the call that sends to its result: median, 99th percentile."""
    with one.worker() as process:
        _await_idle(one, process)
        took_ms = one.probe(count, interval_s, "round-trip")
    return percentile(took_ms, 50), percentile(took_ms, 99)


def weight_mb(one: Round, count: int) -> float:
    """Memory of a whole worker that has run tasks and is idle."""
    one.enqueue(count)
    with one.worker() as process:
        one.await_runs(count, process)
        time.sleep(_SETTLED_S)
        return pss_mb(process.pid)


class Waiting(NamedTuple):
    """What a backlog costs: CPU of the children a task, memory of the whole worker."""

    drain_us: float
    weight_mb: float


def with_backlog(one: Round, backlog: int) -> Waiting:
    """Empty a queue of so many messages; memory is looked at when half of them have run."""
    one.environ["BENCH_CLOCK"] = "cpu"
    one.enqueue(backlog, "bulk")
    with one.worker() as process:
        one.await_runs(backlog // 2, process)
        held_mb = pss_mb(process.pid)
        one.await_runs(backlog, process)
    executions = one.log.read()
    executions.check(backlog)
    return Waiting(cost_us(executions.by_process(), _WARM_UP_RUNS), held_mb)


def with_delayed(one: Round, delayed: int, tasks: int, depth: Callable[[], int]) -> Waiting:
    """Empty a queue of `tasks` messages while `delayed` others wait for their time.

    A first worker puts those off, one by one as it finds them in the queue; its memory is looked at
    when it has. A second one runs the tasks.

    :param depth: tells how many messages wait for their time in the broker's schedule.
    """
    one.environ["BENCH_CLOCK"] = "cpu"
    if delayed:
        one.enqueue(delayed, "delayed")
    with one.worker() as process:
        deadline_s = time.monotonic() + _RUN_S
        while depth() < delayed:
            if time.monotonic() > deadline_s or process.poll() is not None:
                raise RuntimeError(f"{depth()} of {delayed} delayed messages are in the schedule")
            time.sleep(0.2)
        time.sleep(_SETTLED_S)
        held_mb = pss_mb(process.pid)
    one.enqueue(tasks, "bulk")
    with one.worker() as process:
        one.await_runs(tasks, process)
    executions = one.log.read()
    executions.check(tasks)
    return Waiting(cost_us(executions.by_process(), _WARM_UP_RUNS), held_mb)


def _await_idle(one: Round, process: subprocess.Popen[bytes]) -> None:
    """Have the worker run some, so that it is there, and has seen its tasks."""
    warm_up = 100
    one.enqueue(warm_up)
    one.await_runs(warm_up, process)
    time.sleep(_SETTLED_S)

"""Prefork and its peer, behind one face: send so many, then drain them and say when each task ran."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from prefork.transports.registry import open_transport

from .records import Records, private_directory, rate

APPS = Path(__file__).parent / "apps"
CHILDREN = 2
_STOP_S = 40.0
_SEND_S = 900.0
_RUN_S = 300.0
_QUEUE = "celery"


class Measured(NamedTuple):
    """One round of one contestant, messages a second."""

    enqueue: float
    drain: float


class Contestant:
    """One engine with one set of options.

    :param name: as the table shows it.
    :param module: with its tasks, in ``apps``.
    :param fsync: value of ``BENCH_FSYNC``.
    :param results: whether the tasks' results are stored.
    :param command: starts the worker, without the interpreter.
    :param store: name of the queue's file or directory.
    """

    def __init__(
        self, name: str, *, module: str, fsync: str, results: bool, command: tuple[str, ...], store: str
    ) -> None:
        self.name = name
        self.results = results
        self.flushes = fsync != "0"
        self._module = module
        self._fsync = fsync
        self._command = command
        self._store = store

    def measure(self, parent: Path, messages: int) -> Measured:
        """Send `messages` to a new queue and have them drained by a new worker.

        :raises RuntimeError: not every message ran exactly once, or the queue is not empty then.
        """
        directory = private_directory(parent, "round")
        records = Records(directory / "records")
        environ = self.environ(directory, records, messages)
        enqueue = self.send(environ, messages)
        with self.worker(environ, directory) as worker:
            records.wait(messages, _RUN_S, lambda: worker.poll() is None)
        if left := self.left(directory):
            raise RuntimeError(f"{self.name}: {left} messages are left in the queue")
        return Measured(enqueue, rate(records.values()))

    def environ(self, directory: Path, records: Records, capacity: int) -> dict[str, str]:
        """What workers and senders of one round have in their environment."""
        return {
            **os.environ,
            "BENCH_BROKER": self.broker(directory),
            "BENCH_FSYNC": self._fsync,
            "BENCH_RESULTS": "1" if self.results else "0",
            "BENCH_RECORDS": str(records.directory),
            "BENCH_CAPACITY": str(capacity),
            "XDG_RUNTIME_DIR": str(directory),
        }

    def send(self, environ: dict[str, str], messages: int) -> float:
        """Send one message at a time from one process; returns messages a second."""
        told = self.sent(environ, messages)
        return told["sent"] / told["s"]

    def sent(self, environ: dict[str, str], messages: int) -> dict[str, float]:
        """The same; returns the messages that were timed, and the seconds of wall and CPU time."""
        told: dict[str, float] = json.loads(run_app("enqueue.py", environ, self._module, str(messages)))
        return told

    @contextlib.contextmanager
    def worker(self, environ: dict[str, str], directory: Path) -> Iterator[subprocess.Popen[bytes]]:
        """A worker with its output in a file, stopped in order at the end."""
        with open(directory / "log", "wb") as log:
            process = subprocess.Popen(
                [sys.executable, *self._command],
                env=environ,
                cwd=APPS,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            stop(process)

    def broker(self, directory: Path) -> str:
        """Where the queue is, as the engine is told."""
        return str(directory / self._store)

    def left(self, directory: Path) -> int:
        """How many messages the queue still has."""
        with contextlib.closing(sqlite3.connect(self.broker(directory))) as connection:
            return int(connection.execute("select count(*) from task").fetchone()[0])


class Prefork(Contestant):
    """This engine on its embedded broker, with its own defaults but for what is measured."""

    def __init__(self, *, fsync: bool, results: bool) -> None:
        super().__init__(
            "prefork, fsync" if fsync else "prefork",
            module="prefork_tasks",
            fsync="1" if fsync else "0",
            results=results,
            command=(
                *("-m", "prefork.engine", "worker", "-A", "prefork_tasks"),
                *("-c", str(CHILDREN), "-l", "WARNING"),
            ),
            store="queue",
        )

    def broker(self, directory: Path) -> str:
        """The URL of the queue."""
        return f"filesystem://{directory / 'queue'}"

    def left(self, directory: Path) -> int:
        """How many messages are anywhere in the broker: ready, delayed, in work, dead."""
        transport = open_transport(self.broker(directory))
        try:
            depth = transport.depth(_QUEUE)
            return depth.ready + depth.delayed + depth.in_work
        finally:
            transport.close()


class Huey(Contestant):
    """Huey's consumer on SqliteHuey, with process workers.

    :param tuned: not with the consumer's defaults, but with everything off that takes time (the log of each
        execution, the scheduler of periodic tasks, the health check) and with the shortest waits.
    :param fsync: ``"default"`` is Huey's (a flush at every commit), ``"0"`` is off.
    """

    def __init__(self, *, tuned: bool, fsync: str, results: bool) -> None:
        options = ("-q", "-n", "-C", "-d", "0.001", "-m", "0.01") if tuned else ()
        kind = "Huey, tuned" if tuned else "Huey, defaults"
        super().__init__(
            f"{kind}, {'no fsync' if fsync == '0' else 'fsync'}",
            module="huey_tasks",
            fsync=fsync,
            results=results,
            command=(
                *("-m", "huey.bin.huey_consumer", "huey_tasks.huey"),
                *("-w", str(CHILDREN), "-k", "process", *options),
            ),
            store="huey.db",
        )


def run_app(script: str, environ: dict[str, str], *arguments: str) -> str:
    """Run one of the scripts in ``apps``; returns what it prints."""
    done = subprocess.run(
        [sys.executable, str(APPS / script), *arguments],
        env=environ,
        cwd=APPS,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        timeout=_SEND_S,
    )
    return done.stdout


def stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a worker in order, or its whole session when it does not stop."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

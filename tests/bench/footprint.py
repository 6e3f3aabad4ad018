"""How fast a worker is there, what it weighs, how fast it starts a task, and what an import costs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from prefork.engine.control_socket import ControlError, request

from .contestants import CHILDREN, Prefork, run_app
from .records import Records, percentile, private_directory

_READY_S = 60.0
MORE_CHILDREN = 4


class Weight(NamedTuple):
    """Memory of a worker, in MB of 10⁶ bytes."""

    whole: float
    supervisor: float
    further_child: float


class Started(NamedTuple):
    """A worker that serves."""

    process: subprocess.Popen[bytes]
    ready_s: float
    ask: Callable[[dict[str, Any]], dict[str, Any]]
    environ: dict[str, str]
    records: Records


@contextmanager
def started(parent: Path, capacity: int = 1000) -> Iterator[Started]:
    """A worker of two children, from its exec to the moment when health says so and both are ready."""
    contestant = Prefork(fsync=False, results=False)
    directory = private_directory(parent, "worker")
    records = Records(directory / "records")
    environ = contestant.environ(directory, records, capacity)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        address = str(directory / "notify")
        manager.bind(address)
        manager.settimeout(_READY_S)
        begin_s = time.monotonic()
        with contestant.worker({**environ, "NOTIFY_SOCKET": address}, directory) as process:
            manager.recv(64)
            path = str(next((directory / "prefork").glob("*.sock")))

            def ask(question: dict[str, Any]) -> dict[str, Any]:
                return request(path, question, 5.0)

            _wait_for_children(ask, CHILDREN)
            yield Started(process, time.monotonic() - begin_s, ask, environ, records)


def _wait_for_children(ask: Callable[[dict[str, Any]], dict[str, Any]], count: int) -> None:
    deadline_s = time.monotonic() + _READY_S
    while time.monotonic() < deadline_s:
        try:
            children = ask({"op": "stats"})["children"]
            if sum(c["phase"] == "ready" for c in children) >= count and ask({"op": "health"})["ready"]:
                return
        except ControlError:
            continue  # it says so itself when it cannot start, and ends; the deadline covers both
        time.sleep(0.002)
    raise RuntimeError(f"{count} children are not ready within {_READY_S:g} s")


def ready_s(parent: Path) -> float:
    """Seconds from the exec of the command to a worker that is ready with two children."""
    with started(parent) as worker:
        return worker.ready_s


def weight(parent: Path, messages: int) -> Weight:
    """Memory of a worker that has run tasks, and what further children take from the machine."""
    with started(parent, messages) as worker:
        Prefork(fsync=False, results=False).send(worker.environ, messages)
        worker.records.wait(messages, _READY_S, lambda: worker.process.poll() is None)
        time.sleep(1.0)  # titles and states are as of an idle worker
        before = _processes(worker.process.pid)
        whole = sum(_memory_mb(pid, ("Pss",)) for pid in before)
        supervisor = _memory_mb(worker.ask({"op": "stats"})["pid"], ("Pss",))
        worker.ask({"op": "scale", "n": CHILDREN + MORE_CHILDREN})
        _wait_for_children(worker.ask, CHILDREN + MORE_CHILDREN)
        Prefork(fsync=False, results=False).send(
            {**worker.environ, "BENCH_CAPACITY": str(messages)}, messages
        )
        worker.records.wait(2 * messages, _READY_S, lambda: worker.process.poll() is None)
        more = _processes(worker.process.pid) - before
        private = [_memory_mb(pid, ("Private_Clean", "Private_Dirty")) for pid in more]
    if len(private) != MORE_CHILDREN:
        raise RuntimeError(f"{len(private)} further processes instead of {MORE_CHILDREN}")
    return Weight(whole, supervisor, max(private))


def _processes(pid: int) -> set[int]:
    parent = psutil.Process(pid)
    return {pid, *(child.pid for child in parent.children(recursive=True))}


def _memory_mb(pid: int, fields: tuple[str, ...]) -> float:
    total_kib = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in fields:
            total_kib += int(value.split()[0])
    return total_kib * 1024 / 1e6


def latency_ms(parent: Path, count: int, interval_s: float) -> tuple[float, float]:
    """Milliseconds from the call of `delay` to the first line of the task: median, 99th percentile."""
    with started(parent, count) as worker:
        run_app("stamps.py", worker.environ, str(count), str(interval_s))
        worker.records.wait(count, _READY_S, lambda: worker.process.poll() is None)
        delays = [value / 1e6 for value in worker.records.values()]
    return percentile(delays, 50), percentile(delays, 99)


def import_ms(statement: str) -> float:
    """Milliseconds that a new interpreter spends on a statement."""
    code = f"import time; t = time.perf_counter_ns(); {statement}; print(time.perf_counter_ns() - t)"
    environ = {k: v for k, v in os.environ.items() if k not in ("PYTHONDEVMODE", "PYTHONDONTWRITEBYTECODE")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, stdout=subprocess.PIPE, check=True, text=True
    )
    return int(done.stdout) / 1e6

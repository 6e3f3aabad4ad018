"""One trial: a queue is filled, a worker of its own empties it, and then waits for single messages."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from ..app import App
from ..clock import mono_ns, mono_s
from ..control_socket import ControlError
from ..cpus import allowed_cpus
from ..embed import Worker, WorkerError
from .app import app as measured
from .figures import Figures, Setting, delays_ms, median, percentile, rate, starts_ns
from .tasks import RECORD, TASK

QUEUE_PREFIX: Final = "prefork-bench-"
# A broker that keeps empty queues drops this one after so long without a worker.
_EXPIRES_MS: Final = 600_000
# The kernel counts CPU time in steps of 10 ms; less than this says nothing.
_CPU_LEAST_S: Final = 0.1
_LOOK_S: Final = 0.01
# Single messages come at irregular intervals, so that whatever polls cannot keep step.
_INTERVAL_S: Final = (0.01, 0.03)


class TrialFailed(Exception):
    """A trial did not come to its end.

    :ivar setting: which combination.
    """

    def __init__(self, setting: Setting, reason: str) -> None:
        super().__init__(f"concurrency {setting.concurrency}, read-ahead {setting.read_ahead}: {reason}")
        self.setting = setting


@dataclass(frozen=True)
class Load:
    """What every combination is given.

    :ivar messages: to be drained; fewer where `seconds` would not suffice for them.
    :ivar probes: single messages to the idle worker.
    :ivar task_ms: how long each task takes.
    :ivar seconds: how long the draining of long tasks may take.
    :ivar timeout_s: a trial that takes longer has failed.
    """

    messages: int
    probes: int
    task_ms: float
    seconds: float
    timeout_s: float

    def count(self, concurrency: int) -> int:
        """How many messages so many children are given."""
        if self.task_ms <= 0:
            return self.messages
        return max(2, min(self.messages, int(concurrency * self.seconds * 1000 / self.task_ms)))


class Trial:
    """One combination on one queue.

    :param broker: settings that name the broker.
    :param directory: for the log of the tasks.
    """

    def __init__(self, broker: dict[str, Any], setting: Setting, load: Load, directory: Path) -> None:
        name = QUEUE_PREFIX + secrets.token_hex(6)
        self._queue = name
        self._setting = setting
        self._load = load
        self._log = directory / name
        queue = {"exchange": "", "queue_arguments": {"x-expires": _EXPIRES_MS}}
        self._broker = {**broker, "task_default_queue": name, "task_queues": {name: queue}}
        self._sender = App(name, **self._broker)
        self._sent = 0

    def run(self) -> Figures:
        """Measure; nothing of the queue is left afterwards.

        :raises TrialFailed: it took too long, or the worker ended.
        :raises WorkerBootError: the worker could not start.
        """
        try:
            count = self._load.count(self._setting.concurrency)
            for _ in range(count):
                self._send()
            with self._worker() as worker:
                complete_ns = self._await_children(worker, count)
                cpu_us = self._drain(worker, count)
                started = starts_ns(self._log.read_bytes())
                waits_ms = self._probe(worker)
            return Figures(
                self._setting.concurrency,
                self._setting.read_ahead,
                per_s=rate(list(started.values()), complete_ns),
                p50_ms=median(waits_ms),
                p99_ms=percentile(waits_ms, 99),
                cpu_us=cpu_us,
            )
        finally:
            self._clean_up()

    def _worker(self) -> Worker:
        return Worker(
            measured,
            concurrency=self._setting.concurrency,
            queues=[self._queue],
            hostname=f"{self._queue}@%h",
            loglevel="ERROR",
            worker_prefetch_multiplier=self._setting.read_ahead,
            **self._broker,
        )

    def _send(self) -> int:
        """Send one; returns the moment before."""
        moment_ns = mono_ns()
        arguments = (str(self._log), self._sent, self._load.task_ms)
        self._sender.send_task(TASK, args=arguments, queue=self._queue, ignore_result=True)
        self._sent += 1
        return moment_ns

    def _await_children(self, worker: Worker, count: int) -> int:
        """Wait for all children, who begin one after the other, or until nothing is left; returns when."""
        self._await(worker, count, lambda: _ready(worker) >= self._setting.concurrency)
        return mono_ns()

    def _drain(self, worker: Worker, count: int) -> float | None:
        """Wait for all; CPU microseconds a task of the part after the first tenth."""
        self._await(worker, max(1, count // 10))
        began, before_s = self._ran(), _cpu_s(worker.pid)
        self._await(worker, count)
        after_s = _cpu_s(worker.pid)
        if before_s is None or after_s is None or after_s - before_s < _CPU_LEAST_S or began >= count:
            return None  # or all had begun while the children were waited for
        return (after_s - before_s) * 1e6 / (count - began)

    def _probe(self, worker: Worker) -> list[float]:
        chance = random.Random(self._queue)
        sent_ns = {}
        for _ in range(self._load.probes):
            time.sleep(chance.uniform(*_INTERVAL_S) + self._load.task_ms / 1000)
            number = self._sent
            sent_ns[number] = self._send()
        self._await(worker, self._sent)
        return delays_ms(sent_ns, starts_ns(self._log.read_bytes()))

    def _ran(self) -> int:
        try:
            return self._log.stat().st_size // RECORD.size
        except FileNotFoundError:
            return 0  # nobody has started yet

    def _await(self, worker: Worker, count: int, enough: Callable[[], bool] = lambda: False) -> None:
        deadline_s = mono_s() + self._load.timeout_s
        while (ran := self._ran()) < count:
            if mono_s() > deadline_s:
                raise TrialFailed(
                    self._setting, f"{ran} of {count} tasks started within {self._load.timeout_s:g} s"
                )
            if _ended(worker):
                raise TrialFailed(self._setting, f"the worker ended after {ran} of {count} tasks")
            if enough():
                return
            time.sleep(_LOOK_S)

    def _clean_up(self) -> None:
        try:
            self._sender.client.transport.purge(self._queue)
        finally:
            self._sender.close()
            self._log.unlink(missing_ok=True)


def _ended(worker: Worker) -> bool:
    try:
        worker.wait(0.0)
    except TimeoutError:
        return False
    return True


def _ready(worker: Worker) -> int:
    """How many children are ready; none when the worker is just ending."""
    try:
        return sum(child["phase"] == "ready" for child in worker.stats()["children"])
    except (ControlError, WorkerError):
        return 0


def _cpu_s(pid: int) -> float | None:
    """CPU seconds of the worker's processes, the dead included; None when one of them is just ending."""
    try:
        supervisor = psutil.Process(pid)
        times = [one.cpu_times() for one in (supervisor, *supervisor.children(recursive=True))]
    except psutil.Error:
        return None
    return sum(t.user + t.system + t.children_user + t.children_system for t in times)


def run_trials(
    broker: dict[str, Any],
    settings: list[Setting],
    load: Load,
    directory: Path,
    done: Callable[[Figures], None],
) -> list[Figures]:
    """Try every combination, one after the other.

    :param done: told of each as soon as it is measured.
    """
    found = []
    for setting in settings:
        figures = Trial(broker, setting, load, directory).run()
        found.append(figures)
        done(figures)
    return found


def default_concurrency() -> list[int]:
    """One child, one per CPU that this process may use, and two per CPU."""
    cpus = allowed_cpus()
    return sorted({1, cpus, 2 * cpus})

"""Real workers on a real RabbitMQ: killed, cut off, beside workers of Celery. Nothing is lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import celery
import psutil
import pytest

from prefork.engine import App
from support.calibration import Waits
from support.rabbitmq_server import RabbitMQ
from support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

MODULE = """
import os, time, signal

LOG = os.environ["FLEET_LOG"]
OPTIONS = dict(
    broker_url=os.environ["FLEET_BROKER"],
    task_default_queue=os.environ["FLEET_QUEUE"],
    task_default_queue_type=os.environ.get("FLEET_QUEUE_TYPE", "classic"),
    broker_native_delayed_delivery_queue_type="classic",
)

def note(*what):
    with open(LOG, "a") as file:
        file.write(" ".join(map(str, (*what, time.time()))) + "\\n")

def install(app):
    @app.task(name="f.quick")
    def quick(n, pause=0.0):
        time.sleep(pause)
        note("quick", n)
        return n

    @app.task(name="f.poison", ignore_result=True)
    def poison(n):
        note("poison", n)
        os.kill(os.getpid(), signal.SIGKILL)

    @app.task(name="f.hard", time_limit=1)
    def hard(n):
        note("hard", n)
        time.sleep(60)

    @app.task(name="f.retry", bind=True, max_retries=2)
    def retry(self, n):
        note("retry", n)
        if self.request.retries < 2:
            raise self.retry(countdown=0.3)
        return "tried"
"""
OURS = (
    MODULE
    + """
from prefork.engine import App
app = App("fleet", **OPTIONS, result_backend="file://" + os.environ["FLEET_RESULTS"],
          task_max_crashes=int(os.environ.get("FLEET_CRASHES", "3")),
          broker_transport_options={"dead_letter_queue": os.environ["FLEET_QUEUE"] + ".dead"})
install(app)
"""
)
THEIRS = (
    MODULE
    + """
from celery import Celery
app = Celery("fleet")
app.conf.update(OPTIONS, task_acks_late=True, worker_prefetch_multiplier=1)
install(app)
"""
)


class Fleet:
    """Workers of both makes on one queue, and what they ran."""

    def __init__(self, root: Path, url: str, **environ: str) -> None:
        self.root = root
        self.queue = f"fleet.{uuid.uuid4().hex[:12]}"
        self.log = root / "ran"
        self.log.touch()
        (root / "results").mkdir()
        (root / "ours.py").write_text(OURS)
        (root / "theirs.py").write_text(THEIRS)
        self._environ = {
            **os.environ,
            "FLEET_LOG": str(self.log),
            "FLEET_BROKER": url,
            "FLEET_QUEUE": self.queue,
            "FLEET_RESULTS": str(root / "results"),
            "XDG_RUNTIME_DIR": str(root),
            "PYTHONPATH": str(root),
            **environ,
        }
        self._started: list[subprocess.Popen[bytes]] = []
        queue_type = environ.get("FLEET_QUEUE_TYPE", "classic")
        self.app = App(
            "fleet",
            broker_url=url,
            result_backend=f"file://{root}/results",
            task_default_queue=self.queue,
            task_default_queue_type=queue_type,
            broker_native_delayed_delivery_queue_type="classic",
            broker_transport_options={"dead_letter_queue": f"{self.queue}.dead"},
            set_as_current=False,
        )

    def ours(self, children: int = 2) -> subprocess.Popen[bytes]:
        name = f"w{len(self._started)}@fleet"
        command = [
            "-m",
            "prefork.engine",
            "-A",
            "ours",
            "worker",
            "-c",
            str(children),
            "-n",
            name,
            "-l",
            "info",
        ]
        worker = self._start(command)
        eventually(lambda: b"is ready" in self._said(worker), deadline_s=30.0)
        return worker

    def theirs(self) -> subprocess.Popen[bytes]:
        command = ["-m", "celery", "-A", "theirs", "worker", "-P", "solo", "-l", "info", "--without-mingle"]
        worker = self._start(command)
        eventually(lambda: b" ready." in self._said(worker), deadline_s=60.0)
        return worker

    def _start(self, arguments: list[str]) -> subprocess.Popen[bytes]:
        with (self.root / f"out{len(self._started)}").open("wb") as out:
            worker = subprocess.Popen(
                [sys.executable, *arguments],
                env=self._environ,
                cwd=self.root,
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._started.append(worker)
        return worker

    def _said(self, worker: subprocess.Popen[bytes]) -> bytes:
        said = (self.root / f"out{self._started.index(worker)}").read_bytes()
        assert worker.poll() is None, said.decode(errors="replace")
        return said

    def ran(self, task: str) -> Counter[str]:
        lines = self.log.read_text().splitlines()
        return Counter(line.split()[1] for line in lines if line.startswith(task + " "))

    def times(self, task: str) -> dict[str, float]:
        lines = [line.split() for line in self.log.read_text().splitlines()]
        return {words[1]: float(words[2]) for words in lines if words[0] == task}

    def children(self, worker: subprocess.Popen[bytes]) -> list[psutil.Process]:
        found = []
        for process in psutil.Process(worker.pid).children(recursive=True):
            try:
                if "child" in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def kill(self, worker: subprocess.Popen[bytes]) -> None:
        """End a worker as the loss of its host would."""
        victims = [psutil.Process(worker.pid), *psutil.Process(worker.pid).children(recursive=True)]
        for process in victims:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        worker.wait(10.0)

    def close(self) -> None:
        for worker in self._started:
            if worker.poll() is None:
                self.kill(worker)
        self.app.close()


@pytest.fixture
def fleet(tmp_path: Path, rabbitmq: RabbitMQ) -> Iterator[Fleet]:
    made = Fleet(tmp_path, rabbitmq.url, FLEET_CRASHES="20")
    yield made
    made.close()


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_no_message_is_lost_in_a_storm_of_kills(tmp_path: Path, rabbitmq: RabbitMQ, queue_type: str) -> None:
    fleet = Fleet(tmp_path, rabbitmq.url, FLEET_CRASHES="50", FLEET_QUEUE_TYPE=queue_type)
    try:
        total, chosen = 400, random.Random(7)
        workers = [fleet.ours(), fleet.ours()]
        for n in range(total):
            fleet.app.send_task("f.quick", (n, 0.01 if n % 10 else 0.0))
        for kill in range(12):
            time.sleep(0.15)
            worker = workers[kill % 2]
            if kill == 7:
                fleet.kill(worker)
                workers[kill % 2] = fleet.ours()
                continue
            for process in fleet.children(worker)[:1]:
                chosen.random()
                process.kill()
        eventually(lambda: len(fleet.ran("quick")) == total, deadline_s=90.0, every_s=0.1)
        transport = fleet.app.client.transport
        eventually(lambda: transport.depth(fleet.queue).ready == 0, deadline_s=20.0)
        assert list(transport.dead_letters()) == []
        repeated = sum(count - 1 for count in fleet.ran("quick").values())
        assert repeated <= 12 * 64
    finally:
        fleet.close()


def test_poison_dies_alone_among_good_messages(tmp_path: Path, rabbitmq: RabbitMQ) -> None:
    fleet = Fleet(tmp_path, rabbitmq.url)
    try:
        fleet.ours(4)
        for n in range(50):
            fleet.app.send_task("f.quick", (n,))
            if n == 25:
                fleet.app.send_task("f.poison", (0,))
        transport = fleet.app.client.transport
        (letter,) = eventually(lambda: list(transport.dead_letters()), deadline_s=60.0, every_s=0.1)
        assert (letter.reason, letter.crashes) == ("crashes", 3)
        assert b"f.poison" in letter.document
        assert fleet.ran("poison")["0"] == 4, "one start is not on record: nobody suspected it then"
        eventually(lambda: len(fleet.ran("quick")) == 50, deadline_s=30.0)
    finally:
        fleet.close()


def test_a_task_beyond_its_hard_limit_runs_once_and_has_failed(fleet: Fleet) -> None:
    fleet.ours()
    result = fleet.app.send_task("f.hard", (1,))
    assert type(result.get(timeout=30, propagate=False)).__name__ == "TimeLimitExceeded"
    time.sleep(2.0)
    assert fleet.ran("hard")["1"] == 1
    eventually(lambda: fleet.app.client.transport.depth(fleet.queue).ready == 0)
    assert list(fleet.app.client.transport.dead_letters()) == []


def test_countdowns_and_retries_are_never_early_and_none_is_lost(fleet: Fleet) -> None:
    fleet.ours()
    due: dict[str, float] = {}
    for countdown in (0.2, 1.5, 3.0):
        due[str(countdown)] = time.time() + countdown
        fleet.app.send_task("f.quick", (countdown,), countdown=countdown)
    retried = fleet.app.send_task("f.retry", (1,))
    assert retried.get(timeout=30) == "tried"
    eventually(lambda: len(fleet.ran("quick")) == len(due), deadline_s=20.0)
    ran, late_s = fleet.times("quick"), 1.0
    assert all(due[n] <= ran[n] < due[n] + late_s for n in due), (due, ran)
    assert fleet.ran("retry")["1"] == 3


def test_work_goes_on_after_every_connection_was_closed_and_after_a_restart(
    fleet: Fleet, rabbitmq: RabbitMQ
) -> None:
    fleet.ours()
    for n in range(20):
        fleet.app.send_task("f.quick", (n, 0.05))
    rabbitmq.control("close_all_connections", "a test")
    eventually(lambda: len(fleet.ran("quick")) == 20, deadline_s=30.0)
    rabbitmq.control("stop_app")
    rabbitmq.control("start_app")
    back_mono_s, waits = time.monotonic(), Waits()
    eventually(lambda: _sent(fleet, 20), deadline_s=20.0)
    eventually(lambda: "20" in fleet.ran("quick"), deadline_s=20.0)
    assert time.monotonic() - back_mono_s < 5.0, waits.so_far_s


def _sent(fleet: Fleet, n: int) -> bool:
    try:
        fleet.app.send_task("f.quick", (n,), retry=False)
    except Exception:
        return False
    return True


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_celery_and_we_share_a_queue_in_both_directions(
    tmp_path: Path, rabbitmq: RabbitMQ, queue_type: str
) -> None:
    fleet = Fleet(tmp_path, rabbitmq.url, FLEET_QUEUE_TYPE=queue_type)
    try:
        theirs = celery.Celery("client", broker=rabbitmq.url, set_as_current=False)
        theirs.conf.update(task_default_queue=fleet.queue, task_default_queue_type=queue_type)
        senders: list[Any] = [fleet.app, theirs]
        due: dict[str, float] = {}

        def send(first: int) -> None:
            for n in range(first, first + 20):
                senders[n % 2].send_task("f.quick", (n,))
            for n in range(first + 20, first + 24):
                countdown = (0.4, 1.5)[n // 2 % 2]
                due[str(n)] = time.time() + countdown
                senders[n % 2].send_task("f.quick", (n,), countdown=countdown)

        ours = fleet.ours()
        send(0)
        eventually(lambda: len(fleet.ran("quick")) == 24, deadline_s=30.0)
        ours.send_signal(signal.SIGTERM)
        ours.wait(30.0)
        fleet.theirs()
        send(100)
        eventually(lambda: len(fleet.ran("quick")) == 48, deadline_s=60.0)
        fleet.ours()
        send(200)
        eventually(lambda: len(fleet.ran("quick")) == 72, deadline_s=60.0)
        assert set(fleet.ran("quick").values()) == {1}
        times = fleet.times("quick")
        assert all(times[n] >= due[n] for n in due)
        theirs.close()
    finally:
        fleet.close()

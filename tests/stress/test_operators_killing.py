"""Workers started from the command line, killed the way hosts kill, with a ledger of executions."""

from __future__ import annotations

import collections
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from prefork.engine.app import App
from prefork.engine.control_socket import ControlError, find_sockets, request
from support.host import Host, wait_until

MESSAGES = 3000
KILLS = 200
SUPERVISOR_KILLS = 8
LEASE_S = 2

APP = """
import os, subprocess, sys, time
from prefork.engine import App

app = App("ledger", broker="filesystem://{root}/broker", backend="filesystem://{root}/broker")
app.conf.task_max_crashes = 1000
app.conf.worker_lease = {lease}
app.conf.worker_lease_renew_interval = {lease} / 4
_journal = os.open("{root}/journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

def note(word, number):
    os.write(_journal, f"{{word}} {{number}} {{os.getpid()}}\\n".encode())

@app.task
def work(number):
    note("start", number)
    time.sleep(0.02)
    note("end", number)
    return number

@app.task
def parent(number):
    note("start", number)
    helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "prefork-helper-{root}"])
    helper.wait()
"""


class Ledger:
    """What ran how often, by the tasks' own account."""

    def __init__(self, path: Path) -> None:
        lines = [line.split() for line in path.read_text().splitlines()]
        self.starts = collections.Counter(int(number) for word, number, _ in lines if word == "start")
        self.ends = collections.Counter(int(number) for word, number, _ in lines if word == "end")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    made.write("ledger.py", APP.format(root=tmp_path, lease=LEASE_S))
    yield made
    made.close()


def _app(root: Path) -> App:
    url = f"filesystem://{root}/broker"
    return App("ledger-client", broker=url, backend=url)


def _send(app: App, name: str, count: int) -> list[str]:
    return [app.send_task(name, (number,), task_id=f"id-{number}").id for number in range(count)]


def _active(host: Host) -> list[int]:
    """Processes that run a task right now, by their supervisors' account."""
    found = []
    for path in find_sockets({"XDG_RUNTIME_DIR": str(host.root / "run")}):
        try:
            answer = request(path, {"op": "active"}, 2.0)
        except ControlError:
            continue  # that worker has just been killed
        found += [child["pid"] for child in answer["active"]]
    return found


def _await_results(app: App, ids: list[str], deadline_s: float) -> dict[str, object]:
    store = app.client.results
    assert store is not None
    end_mono_s = time.monotonic() + deadline_s
    while True:
        documents = store.get(ids)
        if all(document is not None for document in documents):
            return {
                key: json.loads(document)["result"]
                for key, document in zip(ids, documents, strict=True)
                if document is not None
            }
        missing = [key for key, document in zip(ids, documents, strict=True) if document is None]
        assert time.monotonic() < end_mono_s, f"{len(missing)} without a result, first {missing[:5]}"
        time.sleep(0.2)


def test_a_storm_of_kills_among_children_loses_nothing(host: Host) -> None:
    app = _app(host.root)
    ids = _send(app, "ledger.work", MESSAGES)
    worker = host.start("-A", "ledger", "worker", "-c", "4", "-l", "error")
    chance = random.Random(20261121)
    hits = 0
    end_mono_s = time.monotonic() + 240
    while hits < KILLS and time.monotonic() < end_mono_s:
        running = _active(host)
        assert worker.poll() is None, host.log()
        if not running:
            if all(app.client.results.get(ids[-4:])):  # type: ignore[union-attr]
                break
            time.sleep(0.01)
            continue
        try:
            os.kill(chance.choice(running), signal.SIGKILL)
        except ProcessLookupError:
            continue
        hits += 1
        time.sleep(0.02)
    results = _await_results(app, ids, 120)
    assert worker.poll() is None, host.log()
    assert hits >= KILLS, f"only {hits} kills before the work was done"
    assert results == {f"id-{number}": number for number in range(MESSAGES)}
    ledger = Ledger(host.root / "journal")
    again = sum(count - 1 for count in ledger.starts.values())
    assert set(ledger.ends) == set(range(MESSAGES))
    # Every start beyond the first is explained by a kill.
    assert again <= hits
    assert list(app.client.transport.dead_letters()) == []


def test_killed_supervisors_leave_no_process_and_no_message_behind(host: Host) -> None:
    app = _app(host.root)
    count = 400
    ids = _send(app, "ledger.work", count)
    kills = 0
    for number in range(SUPERVISOR_KILLS):
        worker = host.start("-A", "ledger", "worker", "-c", "2", "-l", "info", log=f"w{number}.log")
        _await_work(host, app, ids, worker)
        family = psutil.Process(worker.pid).children(recursive=True)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        kills += 1
        gone_by_s = time.monotonic() + 1.0
        while any(_lives(process) for process in family):
            assert time.monotonic() < gone_by_s, f"orphans: {[p for p in family if _lives(p)]}"
            time.sleep(0.02)
    last = host.start("-A", "ledger", "worker", "-c", "2", "-l", "error", log="last.log")
    results = _await_results(app, ids, 60 + 3 * LEASE_S)
    assert last.poll() is None
    assert results == {f"id-{number}": number for number in range(count)}
    ledger = Ledger(host.root / "journal")
    # A supervisor that dies takes at most what its two children ran, and what they had read ahead
    # and finished without having settled it.
    assert sum(c - 1 for c in ledger.starts.values()) <= kills * 2 * 64
    assert list(app.client.transport.dead_letters()) == []


def test_the_processes_of_a_task_die_with_their_supervisor(host: Host) -> None:
    app = _app(host.root)
    app.send_task("ledger.parent", (1,))
    worker = host.start("-A", "ledger", "worker", "-c", "1", "-l", "error")
    mark = f"prefork-helper-{host.root}"
    wait_until(lambda: bool(_helpers(mark)), lambda: host.log())
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    gone_by_s = time.monotonic() + 1.0
    while _helpers(mark):
        assert time.monotonic() < gone_by_s, "a process that a task had started outlives its worker"
        time.sleep(0.02)


def _await_work(host: Host, app: App, ids: list[str], worker: subprocess.Popen[str]) -> None:
    wait_until(
        lambda: bool(_active(host)) or _done(app, ids) or worker.poll() is not None,
        lambda: "no task has started",
    )
    assert worker.poll() is None


def _done(app: App, ids: list[str]) -> bool:
    store = app.client.results
    return store is not None and all(document is not None for document in store.get(ids))


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _helpers(mark: str) -> list[int]:
    listing = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [int(line.split()[0]) for line in listing.splitlines() if mark in line]

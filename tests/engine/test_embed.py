"""The embedded worker: found, started, asked, stopped, and gone with its host."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from prefork.engine import App
from prefork.engine.control_socket import find_sockets, request
from prefork.engine.embed import Worker, WorkerError
from prefork.engine.exceptions import ImproperlyConfigured
from support.supervised import MARKER, eventually

PROGRAM = """
import json, os, signal, sys, threading, time
from prefork.engine import App
from prefork.engine.embed import Worker, WorkerBootError

app = App("embedded", broker="filesystem://{broker}", backend="filesystem://{broker}")

@app.task
def add(a, b):
    return a + b

@app.task
def nap(s):
    time.sleep(s)
    return "rested"

def say(**fields):
    print(json.dumps(fields), flush=True)

{body}
"""

pytestmark = pytest.mark.usefixtures("no_leaks")


class Host:
    """A program that embeds a worker, in a process of its own."""

    def __init__(self, directory: Path, body: str, *, main: bool = True) -> None:
        self.marker = os.urandom(8).hex()
        indented = "\n".join("    " + line for line in body.splitlines())
        text = PROGRAM.format(
            broker=directory / "broker", body=f"if __name__ == '__main__':\n{indented}" if main else body
        )
        self.script = directory / "program.py"
        self.script.write_text(text)
        self.process = subprocess.Popen(
            [sys.executable, str(self.script)],
            # SPT_NOENV: process titles are not to be written over the environment, where the marker is.
            env={**os.environ, MARKER: self.marker, "XDG_RUNTIME_DIR": str(directory), "SPT_NOENV": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=directory,
        )

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        assert self.process.stdin is not None
        self.process.stdout.close()
        self.process.stdin.close()
        eventually(lambda: not self.below(), within_s=3.0)

    def line(self) -> dict[str, object]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the program ended"
        answer = json.loads(line)
        assert isinstance(answer, dict)
        return answer

    def below(self) -> list[int]:
        """Living processes with the program's marker, the program itself left out."""
        found = []
        for name in os.listdir("/proc"):
            try:
                environ = Path("/proc", name, "environ").read_bytes()
                state = Path("/proc", name, "stat").read_bytes().rpartition(b")")[2].split()[0]
            except OSError:
                continue
            if (
                f"{MARKER}={self.marker}".encode() in environ
                and state != b"Z"
                and int(name) != self.process.pid
            ):
                found.append(int(name))
        return found


def test_an_app_in_a_script_is_imported_again_and_works(tmp_path: Path) -> None:
    body = """
with Worker(app, concurrency=2) as worker:
    say(result=add.delay(1, 2).get(timeout=10))
    worker.scale(3)
    deadline = time.monotonic() + 5
    while sum(c["phase"] == "ready" for c in worker.stats()["children"]) != 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    stats = worker.stats()
    say(children=len(stats["children"]), succeeded=stats["totals"]["succeeded"])
handler = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
say(code=worker.stop(), handler=handler, threads=threading.active_count())
"""
    with Host(tmp_path, body) as host:
        assert host.line() == {"result": 3}
        assert host.line() == {"children": 3, "succeeded": 1}
        assert host.line() == {"code": 0, "handler": True, "threads": 1}
        assert host.process.wait(5) == 0
        assert host.below() == []


def test_everything_goes_within_a_second_when_the_host_is_killed(tmp_path: Path) -> None:
    body = """
worker = Worker(app, concurrency=2).start()
nap.delay(60)
while not any(c["task_id"] for c in worker.stats()["children"]):
    time.sleep(0.01)
say(pid=worker.pid)
time.sleep(60)
"""
    with Host(tmp_path, body) as host:
        host.line()
        assert len(host.below()) >= 5
        host.process.send_signal(signal.SIGKILL)
        host.process.wait()
        eventually(lambda: not host.below(), within_s=1.0)


def test_the_worker_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    body = """
worker = Worker(app, concurrency=1)
thread = threading.Thread(target=worker.start)
thread.start()
thread.join()
time.sleep(0.3)
say(result=add.delay(2, 3).get(timeout=10))
say(code=worker.stop(graceful_s=1))
"""
    with Host(tmp_path, body) as host:
        assert host.line() == {"result": 5}
        assert host.line() == {"code": 0}


def test_the_signals_of_the_host_do_not_reach_the_worker_and_its_mask_neither(tmp_path: Path) -> None:
    body = """
signal.signal(signal.SIGINT, lambda *_: None)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGCHLD])
with Worker(app, concurrency=1) as worker:
    os.kill(os.getpid(), signal.SIGINT)
    say(result=add.delay(2, 3).get(timeout=10))
say(code=worker.stop())
"""
    with Host(tmp_path, body) as host:
        assert host.line() == {"result": 5}
        assert host.line() == {"code": 0}


def test_a_stop_with_a_bound_gives_back_what_still_runs(tmp_path: Path) -> None:
    body = """
worker = Worker(app, concurrency=1).start()
nap.delay(60)
while not any(c["task_id"] for c in worker.stats()["children"]):
    time.sleep(0.01)
begun = time.monotonic()
code = worker.stop(graceful_s=0.2)
say(code=code, took=time.monotonic() - begun)
with Worker(app, concurrency=1) as second:
    deadline = time.monotonic() + 5
    while not any(c["task_id"] for c in second.stats()["children"]) and time.monotonic() < deadline:
        time.sleep(0.01)
    say(again=[c["task_name"] for c in second.stats()["children"]])
    second.stop(graceful_s=0)
"""
    with Host(tmp_path, body) as host:
        stopped = host.line()
        assert stopped["code"] == 0
        assert 0.2 <= float(str(stopped["took"])) < 3.0
        assert host.line() == {"again": ["embedded.nap"]}


def test_an_app_that_cannot_be_imported_again_says_why_with_the_traceback(tmp_path: Path) -> None:
    body = """
if __name__ != "__main__":
    raise RuntimeError("only once")
try:
    Worker(app).start(timeout_s=20)
except WorkerBootError as error:
    say(reason=error.reason, code=error.exit_code)
"""
    with Host(tmp_path, body, main=False) as host:
        answer = host.line()
        assert "RuntimeError: only once" in str(answer["reason"])
        assert answer["code"] == 3
        assert host.below() == []


def test_a_worker_that_is_not_ready_in_time_is_taken_down(tmp_path: Path) -> None:
    body = """
if __name__ != "__main__":
    time.sleep(60)
try:
    Worker(app).start(timeout_s=0.5)
except WorkerBootError as error:
    say(reason=error.reason, code=error.exit_code)
time.sleep(60)
"""
    with Host(tmp_path, body, main=False) as host:
        assert host.line() == {"reason": "not ready within 0.5 s", "code": None}
        eventually(lambda: not host.below(), within_s=2.0)


def test_an_app_in_a_closure_is_refused_before_anything_starts() -> None:
    with pytest.raises(ImproperlyConfigured, match="cannot be imported by another process"):
        Worker(App("closure"))


def test_a_worker_that_was_not_started_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "findable", App("findable"), raising=False)
    worker = Worker(sys.modules[__name__].findable)  # type: ignore[attr-defined]
    for question in (worker.stats, worker.stop, worker.wait, worker.drain, lambda: worker.scale(2)):
        with pytest.raises(WorkerError, match="has not been started"):
            question()


def test_it_is_not_started_twice_and_waits_no_longer_than_asked(tmp_path: Path) -> None:
    body = """
from prefork.engine.embed import WorkerError
worker = Worker(app, concurrency=1).start()
try:
    worker.start()
except WorkerError as error:
    say(error=str(error).split(",")[0])
try:
    worker.wait(0.05)
except TimeoutError as error:
    say(error=str(error))
os.kill(worker.pid, signal.SIGTERM)
say(code=worker.wait(10))
try:
    worker.stats()
except WorkerError as error:
    say(error=str(error))
say(code=worker.stop())
worker.start()
say(result=add.delay(4, 4).get(timeout=10))
worker.stop()
"""
    with Host(tmp_path, body) as host:
        assert host.line() == {"error": "the worker runs already"}
        assert host.line() == {"error": "the worker still runs after 0.05 s"}
        assert host.line() == {"code": 0}
        assert host.line() == {"error": "the worker has ended with exit code 0"}
        assert host.line() == {"code": 0}
        assert host.line() == {"result": 8}


def test_draining_waits_for_what_is_in_the_queues_and_says_what_is_left(tmp_path: Path) -> None:
    body = """
from prefork.engine.embed import WorkerError
worker = Worker(app, concurrency=1).start()
soon = [add.delay(1, n) for n in range(20)] + [add.apply_async((1, 20), countdown=0.3)]
worker.drain()
say(states=sorted({result.state for result in soon}))
later = add.apply_async((1, 21), countdown=60)
worker.drain(delayed=False)
say(state=later.state)
for ended in (False, True):
    if ended:
        worker.stop()
    try:
        worker.drain(0.1)
    except (TimeoutError, WorkerError) as error:
        say(error=str(error))
with Worker(app, concurrency=1, broker_url=f"filesystem://{os.getcwd()}/elsewhere") as other:
    try:
        other.drain()
    except WorkerError as error:
        say(error=str(error).split(",")[0])
"""
    left = "celery: 0 ready, 0 in work, 1 delayed"
    with Host(tmp_path, body) as host:
        assert host.line() == {"states": ["SUCCESS"]}
        assert host.line() == {"state": "PENDING"}
        assert host.line() == {"error": f"not empty within 0.1 s: {left}"}
        assert host.line() == {"error": "the worker has ended with exit code 0"}
        assert host.line() == {"error": f"the worker's queues are on filesystem://{tmp_path}/elsewhere"}


def test_draining_waits_for_limited_tasks_and_for_the_failures_of_dead_letters(tmp_path: Path) -> None:
    body = """
@app.task(rate_limit="20/s")
def limited(number):
    return number

@app.task
def dies():
    os.kill(os.getpid(), 9)

app.conf.task_max_crashes = 2
if __name__ == '__main__':
    with Worker(app, concurrency=2) as worker:
        slow = [limited.delay(number) for number in range(6)]
        worker.drain(20)
        say(states=[result.state for result in slow])
        fatal = [dies.delay() for _ in range(2)]
        worker.drain(20)
        say(states=[result.state for result in fatal])
        app.control.rate_limit(limited.name, 0, reply=True, timeout=20, limit=1)
        limited.delay(7)
        while app.client.transport.depth("celery.limited." + limited.name).ready != 1:
            time.sleep(0.01)
        try:
            worker.drain(0.5)
        except TimeoutError as error:
            say(error=str(error))
"""
    with Host(tmp_path, body, main=False) as host:
        assert host.line() == {"states": ["SUCCESS"] * 6}
        assert host.line() == {"states": ["FAILURE"] * 2}
        assert "celery.limited.embedded.limited: 1 ready" in str(host.line()["error"])


def test_draining_a_worker_that_ends_meanwhile_says_so(tmp_path: Path) -> None:
    body = """
from prefork.engine.embed import WorkerError
worker = Worker(app, concurrency=1).start()
add.apply_async((1, 2), countdown=60)
looked = threading.Event()
transport = app.client.transport
depth = transport.depth
transport.depth = lambda name: (depth(name), looked.set())[0]
threading.Thread(target=lambda: (looked.wait(30), worker.stop())).start()
try:
    worker.drain(30)
except WorkerError as error:
    say(error=str(error))
"""
    with Host(tmp_path, body) as host:
        left = "celery: 0 ready, 0 in work, 1 delayed"
        assert host.line() == {"error": f"the worker has ended with exit code 0; left in its queues: {left}"}


def test_the_supervisor_stays_small_and_free_of_the_application(tmp_path: Path) -> None:
    body = """
with Worker(app, concurrency=1) as worker:
    say(pid=worker.pid)
    sys.stdin.read()
"""
    with Host(tmp_path, body) as host:
        pid = int(str(host.line()["pid"]))
        maps = Path(f"/proc/{pid}/maps").read_text()
        assert not [name for name in ("msgspec", "redis", "_asyncio", "hiredis") if name in maps]
        assert len(os.listdir(f"/proc/{pid}/task")) == 1
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        pss_kib = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        assert pss_kib <= 12 * 1024
        host.process.kill()


def test_a_supervisor_killed_while_the_application_is_imported_leaves_nothing(tmp_path: Path) -> None:
    body = """
if __name__ != "__main__":
    time.sleep(60)
worker = Worker(app)
threading.Thread(target=worker.start, daemon=True).start()
while worker._process is None:
    time.sleep(0.01)
say(pid=worker.pid)
time.sleep(60)
"""
    with Host(tmp_path, body, main=False) as host:
        supervisor = int(str(host.line()["pid"]))
        eventually(lambda: len(host.below()) == 2)
        os.kill(supervisor, signal.SIGKILL)
        eventually(lambda: not host.below(), within_s=1.0)


def test_the_running_supervisor_has_imported_neither_the_app_nor_anything_heavy(tmp_path: Path) -> None:
    body = """
with Worker(app, concurrency=1) as worker:
    add.delay(1, 2).get(timeout=10)
    say(pid=worker.pid)
    sys.stdin.readline()
"""
    forbidden = {
        "kombu", "amqp", "redis", "sqlalchemy", "msgspec", "asyncio", "msgpack", "program", "__mp_main__",
        "prefork.engine.app", "prefork.engine.task", "prefork.engine.message",
        "prefork.transports.base", "prefork.serializers.base",
    }  # fmt: skip
    with Host(tmp_path, body) as host:
        pid = host.line()["pid"]
        sockets = [path for path in find_sockets({"XDG_RUNTIME_DIR": str(tmp_path)}) if str(pid) in path]
        assert len(sockets) == 1
        modules = set(request(sockets[0], {"op": "modules"}, 5.0)["modules"])
        assert "prefork.engine.supervisor.loop" in modules
        assert modules & forbidden == set()

"""`prefork health`: cheap, honest, and not fooled by what a killed worker leaves behind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefork.engine.cli.failures import ExitCode
from prefork.engine.cli.main import main
from prefork.engine.control_socket import encode_line, socket_path

READY = {"ready": True, "reasons": [], "node": "w@host"}


class FakeWorker:
    """Answers one control socket with one answer, or accepts and says nothing."""

    def __init__(self, directory: Path, node: str, answer: dict[str, Any] | None) -> None:
        self.path = socket_path(str(directory), node, os.getpid())
        self._answer = answer
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path)
        self._listener.listen(4)
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            self._open.append(connection)
            if connection.recv(4096) == b"stop":
                return
            if self._answer is not None:
                connection.sendall(encode_line(self._answer))

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(self.path)
            connection.sendall(b"stop")
            self._thread.join(10)
        for connection in [*self._open, self._listener]:
            connection.close()


@pytest.fixture
def sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory for sockets, as a worker would have made it."""
    directory = tmp_path / "prefork"
    directory.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return directory


@pytest.fixture
def workers(sockets: Path) -> Iterator[Any]:
    made: list[FakeWorker] = []

    def make(node: str, answer: dict[str, Any] | None) -> FakeWorker:
        made.append(FakeWorker(sockets, node, answer))
        return made[-1]

    yield make
    for worker in made:
        worker.close()


def test_no_worker_is_not_healthy(sockets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["health"]) == ExitCode.FAILED
    assert "no worker of this user" in capsys.readouterr().err


def test_a_host_that_never_had_a_worker_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert main(["health"]) == ExitCode.FAILED
    assert "no worker" in capsys.readouterr().err


def test_a_ready_worker_is_healthy(workers: Any, capsys: pytest.CaptureFixture[str]) -> None:
    workers("w@host", READY)
    assert main(["health"]) == ExitCode.OK
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split() == ["NODE", "PID", "HEALTH", "WHY"]
    assert row.split() == ["w@host", str(os.getpid()), "ok"]


def test_one_worker_that_is_not_ready_makes_the_host_unhealthy(
    workers: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    workers("a@host", READY | {"node": "a@host"})
    workers("b@host", {"ready": False, "reasons": ["there is no agent"], "node": "b@host"})
    assert main(["health", "--json"]) == ExitCode.FAILED
    found = {answer["node"]: answer for answer in json.loads(capsys.readouterr().out)}
    assert found["a@host"]["healthy"] is True
    assert found["b@host"]["reasons"] == ["there is no agent"]


def test_what_is_wrong_with_a_ready_worker_is_shown(workers: Any, capsys: pytest.CaptureFixture[str]) -> None:
    workers("w@host", READY | {"notes": ["3 children died in a row"]})
    assert main(["health"]) == ExitCode.OK
    assert "3 children died in a row" in capsys.readouterr().out


def test_a_worker_can_be_asked_by_name(workers: Any, capsys: pytest.CaptureFixture[str]) -> None:
    workers("a@host", READY)
    workers("b@host", {"ready": False, "node": "b@host"})
    assert main(["health", "-n", "a@*"]) == ExitCode.OK
    assert main(["health", "-n", "b@host"]) == ExitCode.FAILED
    capsys.readouterr()
    assert main(["health", "-n", "c@host"]) == ExitCode.FAILED
    assert "no such worker" in capsys.readouterr().err


def test_a_worker_of_another_environment_is_found_by_directory_pid_file_or_name(
    workers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a worker, and a caller whose runtime directory is another one
    workers("elsewhere@host", READY | {"node": "elsewhere@host"})
    (tmp_path / "pid").write_text(f"{os.getpid()}\n")
    (tmp_path / "caller").mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "caller"))
    assert main(["health"]) == ExitCode.FAILED
    assert "with this XDG_RUNTIME_DIR" in capsys.readouterr().err
    # Then it can be named in three ways
    for line in (
        ["--runtime-dir", str(tmp_path)],
        ["--pidfile", str(tmp_path / "pid")],
        ["-n", "elsewhere@*"],
    ):
        assert main(["health", *line]) == ExitCode.OK, line
        assert "elsewhere@host" in capsys.readouterr().out


def test_what_names_no_worker_is_said(
    sockets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / "pid").write_text(f"{dead.pid}\n")
    (tmp_path / "nonsense").write_text("me\n")
    expected = {
        ("--pidfile", str(tmp_path / "pid")): "no worker with the process number in",
        ("--pidfile", str(tmp_path / "nonsense")): "contains no process number but 'me'",
        ("--pidfile", str(tmp_path / "gone")): "No such file",
        ("--runtime-dir", str(sockets)): "no worker has a socket in",
        ("--runtime-dir", str(tmp_path / "gone")): "No such file",
    }
    for line, text in expected.items():
        assert main(["health", *line]) == ExitCode.FAILED
        assert text in capsys.readouterr().err, line


def test_a_worker_that_does_not_answer_is_not_healthy(
    workers: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    workers("silent@host", None)
    started = time.monotonic()
    assert main(["health", "-t", "0.2"]) == ExitCode.FAILED
    assert time.monotonic() - started < 5
    assert "no answer within 0.2 s" in capsys.readouterr().out


def test_what_a_killed_worker_left_is_ignored(
    sockets: Path, workers: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    left.bind(socket_path(str(sockets), "gone@host", dead.pid))
    left.close()
    workers("w@host", READY)
    assert main(["health"]) == ExitCode.OK
    assert "gone@host" not in capsys.readouterr().out


def test_a_socket_whose_process_number_is_somebody_elses_by_now_is_ignored(
    sockets: Path, workers: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given what a killed worker left, and a living process that was given its number
    somebody = subprocess.Popen(["sleep", "60"])
    try:
        left = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        left.bind(socket_path(str(sockets), "gone@host", somebody.pid))
        left.close()
        workers("w@host", READY)
        # When the host is asked, then nobody is missed
        assert main(["health"]) == ExitCode.OK
        assert "gone@host" not in capsys.readouterr().out
    finally:
        somebody.kill()
        somebody.wait()


def test_a_directory_that_others_could_write_is_not_trusted(
    sockets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sockets.chmod(0o777)
    assert main(["health"]) == ExitCode.FAILED
    assert "0700" in capsys.readouterr().err


def test_a_probe_loads_no_application_and_no_third_party_and_is_quick(workers: Any) -> None:
    workers("w@host", READY)
    program = (
        "import sys, time\n"
        "def waited():  # for a processor, which others had\n"
        "    return int(open('/proc/self/schedstat').read().split()[1]) / 1e9\n"
        "started, queued = time.perf_counter(), waited()\n"
        "from prefork.engine.cli.main import main\n"
        "code = int(main(['health']))\n"
        "took = time.perf_counter() - started - (waited() - queued)\n"
        "heavy = {'msgspec', 'kombu', 'psutil', 'billiard', 'celery', 'asyncio'}\n"
        "third = sorted({m.split('.')[0] for m in sys.modules} & heavy)\n"
        "ours = [m for m in ('prefork.engine.app', 'prefork.transports.base') if m in sys.modules]\n"
        "print(code, took, third + ours)\n"
    )
    took_s = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, cwd="/"
        )
        code, took, loaded = done.stdout.splitlines()[-1].split(" ", 2)
        assert (int(code), loaded) == (0, "[]"), done.stderr
        took_s.append(float(took))
    # The best of three: the promise is about the probe, not about a busy machine.
    assert min(took_s) < 0.1

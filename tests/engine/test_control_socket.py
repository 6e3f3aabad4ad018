"""The control socket from both ends: who may ask, what is answered, what a bad client can do."""

from __future__ import annotations

import json
import os
import resource
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine.control_socket import (
    REQUEST_BYTES_MAX,
    ControlError,
    RuntimeDirectoryError,
    decode_line,
    encode_line,
    find_sockets,
    remove_abandoned,
    request,
    runtime_directory,
    socket_path,
)
from support.supervised import Supervised, eventually


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervised]:
    with Supervised(tmp_path_factory.mktemp("control"), concurrency=2) as supervised:
        yield supervised.start()


def path_of(worker: Supervised) -> str:
    return next(iter(find_sockets(worker.environ)))


def raw(worker: Supervised, data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5.0)
        connection.connect(path_of(worker))
        connection.sendall(data)
        return connection.recv(65536)


# --- where it is ---------------------------------------------------------------------------------


def test_the_directory_and_the_socket_are_for_this_user_only(worker: Supervised) -> None:
    path = path_of(worker)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_directory_that_others_may_enter_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "prefork").mkdir()
    (tmp_path / "prefork").chmod(mode)
    with pytest.raises(RuntimeDirectoryError, match="mode 0700"):
        runtime_directory({"XDG_RUNTIME_DIR": str(tmp_path)}, create=True)


def test_a_link_in_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "prefork").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RuntimeDirectoryError):
        runtime_directory({"XDG_RUNTIME_DIR": str(tmp_path)}, create=True)


def test_without_a_runtime_directory_temporary_files_are_used(tmp_path: Path) -> None:
    environ = {"TMPDIR": str(tmp_path)}
    assert runtime_directory(environ, create=True) == str(tmp_path / f"prefork-{os.getuid()}")
    assert runtime_directory({**environ, "XDG_RUNTIME_DIR": str(tmp_path / "no")}) == runtime_directory(
        environ
    )


def test_where_no_worker_ever_ran_none_is_found(tmp_path: Path) -> None:
    assert find_sockets({"XDG_RUNTIME_DIR": str(tmp_path)}) == []


def test_a_worker_removes_what_killed_ones_have_left_and_nothing_else(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = {"killed": f"a-{dead.pid}.sock", "starting": f"a-{os.getpid()}.sock", "odd": "a-b.sock"}
    ends = {what: socket.socket(socket.AF_UNIX) for what in (*names, "listening")}
    names["listening"] = f"b-{dead.pid}.sock"
    for what, end in ends.items():
        end.bind(str(tmp_path / names[what]))
    ends["listening"].listen(1)
    (tmp_path / f"c-{dead.pid}.sock").write_text("a file")
    (tmp_path / "other").write_text("")
    assert remove_abandoned(str(tmp_path)) == 2
    assert sorted(os.listdir(tmp_path)) == sorted(
        [names["starting"], names["odd"], names["listening"], "other"]
    )
    for end in ends.values():
        end.close()


def test_a_worker_does_not_mind_that_another_one_removes_the_same_just_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    really_unlink = os.unlink

    def after_another(path: str) -> None:
        really_unlink(path)
        really_unlink(path)

    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(tmp_path / f"a-{dead.pid}.sock"))
        with monkeypatch.context() as patch:
            patch.setattr(os, "unlink", after_another)
            assert remove_abandoned(str(tmp_path)) == 0
    assert os.listdir(tmp_path) == []


@given(st.text(min_size=1, max_size=300), st.integers(1, 4_194_304))
def test_any_node_name_gives_a_path_that_can_be_bound(node: str, pid: int) -> None:
    path = socket_path("/run/user/1000/prefork", node.replace("\ud800", "x"), pid)
    assert len(os.fsencode(path)) <= 107
    assert os.path.dirname(path) == "/run/user/1000/prefork"


# --- what is answered ----------------------------------------------------------------------------


def test_health_says_yes_or_why_not(worker: Supervised) -> None:
    assert worker.ask("health") == {
        "ready": True,
        "reasons": [],
        "notes": [],
        "node": "w@test",
        "pid": worker.pid,
    }


def test_active_shows_what_runs(worker: Supervised, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    start = worker.event("start", job=worker.job({"do": "until", "path": str(seen)}))
    [running] = worker.ask("active")["active"]
    assert (running["task_id"], running["task_name"]) == (f"{start['job']}-0", "until")
    assert running["pid"] == start["pid"]
    assert running["runtime_s"] >= 0
    seen.touch()
    eventually(lambda: worker.ask("active")["active"] == [])


def test_counters_survive_their_child(worker: Supervised) -> None:
    before = worker.ask("stats")["totals"]["executions"]
    worker.job({"do": "die", "signal": 9})
    eventually(lambda: worker.ask("stats")["totals"]["executions"] == before + 1)
    eventually(worker.complete)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"op": "scale"}, "n must be an integer"),
        ({"op": "scale", "n": 0}, "n must be an integer"),
        ({"op": "scale", "n": 10**6}, "n must be an integer"),
        ({"op": "scale", "n": "3"}, "n must be an integer"),
        ({"op": "scale", "n": True}, "n must be an integer"),
        ({"op": "stop"}, "graceful_s must be a number"),
        ({"op": "stop", "graceful_s": "now"}, "graceful_s must be a number"),
        ({"op": "stop", "graceful_s": True}, "graceful_s must be a number"),
        ({"op": "stop", "graceful_s": 10**400}, "graceful_s must be a number"),
        ({"op": "stop", "graceful_s": float("nan")}, "graceful_s must be a number"),
        ({"op": "format-disk"}, "is no request"),
        ({"op": ["health"]}, "is no request"),
        ({}, "not a request"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(
    worker: Supervised, message: dict[str, object], reason: str
) -> None:
    with pytest.raises(ControlError, match=reason):
        request(path_of(worker), message, 5.0)


@pytest.mark.parametrize(
    "line", [b"\n", b"[]\n", b"nonsense\n", b"\xff\xfe\n", b"[" * 30_000 + b"\n", b'{"op": NaN}\n']
)
def test_a_line_that_is_no_request_is_answered(worker: Supervised, line: bytes) -> None:
    assert "error" in json.loads(raw(worker, line))


@given(st.binary(max_size=300))
def test_any_bytes_are_an_object_or_nothing(data: bytes) -> None:
    message = decode_line(data)
    assert message is None or isinstance(message, dict)


@given(st.dictionaries(st.text(), st.one_of(st.none(), st.integers(), st.text()), max_size=5))
def test_a_line_comes_back_as_it_was(message: dict[str, object]) -> None:
    line = encode_line(message)
    assert line.count(b"\n") == 1
    assert decode_line(line) == message


def test_a_request_without_an_end_is_refused(worker: Supervised) -> None:
    assert b"at most" in raw(worker, b"x" * (REQUEST_BYTES_MAX + 1))


def test_several_requests_on_one_connection_are_answered_in_order(worker: Supervised) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5.0)
        connection.connect(path_of(worker))
        connection.sendall(b'{"op":"health"}\n{"op":"nothing"}\n')
        lines = connection.makefile("rb")
        assert "ready" in json.loads(lines.readline())
        assert "error" in json.loads(lines.readline())


# --- bad clients -----------------------------------------------------------------------------------


def test_clients_that_say_and_read_nothing_stall_nobody(worker: Supervised) -> None:
    idle = []
    try:
        for _ in range(60):
            connection = socket.socket(socket.AF_UNIX)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            connection.connect(path_of(worker))
            idle.append(connection)
            try:
                connection.setblocking(False)
                connection.send(b'{"op":"stats"}\n' * 2000)
            except OSError:
                continue  # dropped already, or it takes no more
        begun_s = time.monotonic()
        assert worker.ask("health")["ready"]
        assert time.monotonic() - begun_s < 1.0
        assert worker.ask("stats")["turn_longest_s"] < 0.25
    finally:
        for connection in idle:
            connection.close()


def test_a_client_that_vanishes_is_forgotten(worker: Supervised) -> None:
    before = len(os.listdir(f"/proc/{worker.pid}/fd"))
    for _ in range(50):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path_of(worker))
            # Reset instead of a plain end, with an answer on its way.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.sendall(b'{"op":"stats"}\n')
    eventually(lambda: len(os.listdir(f"/proc/{worker.pid}/fd")) <= before)


# --- bad workers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "without an answer"),
        (b"[]\n", "no JSON object"),
        (b"{}", "without an answer"),
    ],
)
def test_an_answer_that_is_none_is_an_error(tmp_path: Path, answer: bytes, reason: str) -> None:
    path = str(tmp_path / "s.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(ControlError, match=reason):
            request(path, {"op": "health"}, 5.0)
        thread.join()


def test_a_worker_that_does_not_answer_is_waited_for_only_so_long(tmp_path: Path) -> None:
    path = str(tmp_path / "s.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with pytest.raises(ControlError, match=r"no answer within 0.1 s"):
            request(path, {"op": "health"}, 0.1)


def test_a_socket_that_nobody_listens_at_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="cannot be reached"):
        request(str(tmp_path / "none.sock"), {"op": "health"}, 1.0)


def test_the_socket_goes_with_the_worker(tmp_path: Path) -> None:
    with Supervised(tmp_path) as worker:
        worker.start()
        assert len(find_sockets(worker.environ)) == 1
        worker.ask("stop", graceful_s=None)
        assert worker.wait() == 0
        assert find_sockets(worker.environ) == []


def test_a_stop_without_grace_gives_the_running_task_back(tmp_path: Path) -> None:
    with Supervised(tmp_path) as worker:
        job = worker.start().job({"do": "sleep", "s": 60})
        worker.event("start", job=job)
        worker.ask("stop", graceful_s=0)
        assert worker.wait(4.0) == 0
        assert worker.state(job) == "gave-back"


def test_a_worker_without_a_place_for_its_socket_runs_and_says_so(tmp_path: Path) -> None:
    with Supervised(tmp_path) as worker:
        (tmp_path / "run" / "prefork").mkdir(mode=0o755)
        (tmp_path / "run" / "prefork").chmod(0o755)
        worker.start(ready=False)
        worker.event("end", job=worker.job({"do": "sleep"}))
        assert "no control socket" in worker.log


def test_a_supervisor_out_of_descriptors_goes_on_and_answers_later(tmp_path: Path) -> None:
    with Supervised(tmp_path) as worker:
        worker.start()
        before = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (3, before[1]))  # none that is open is lower
        begun_s = time.monotonic()
        with pytest.raises(ControlError):
            request(path_of(worker), {"op": "health"}, 0.3)
        said = eventually(lambda: worker.log.count("not accepted for a while"))
        assert said <= 1 + (time.monotonic() - begun_s)  # one a second, as long as one waits to be accepted
        worker.event("end", job=worker.job({"do": "sleep"}))
        resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, before)
        assert worker.ask("health")["ready"]

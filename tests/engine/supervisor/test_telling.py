"""Whom the supervisor tells: the service manager, its host, whoever reads its pid file, banner and log."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine import log_lines
from prefork.engine.clock import mono_s
from prefork.engine.log_formats import LineFormatter
from prefork.engine.log_lines import LineHandler, pieces
from prefork.engine.supervisor import banner
from prefork.engine.supervisor.node_log import make_logger, reformat
from prefork.engine.supervisor.notify import HostNotifier, ServiceManager
from prefork.engine.supervisor.options import worker_options
from prefork.engine.supervisor.pidfile import Pidfile, PidfileError


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_is_told(tmp_path: Path, abstract: bool) -> None:
    name = f"@prefork-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind("\0" + name[1:] if abstract else name)
        end.settimeout(5.0)
        manager = ServiceManager(
            {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid())}
        )
        manager.ready()
        manager.keep_alive(100.0)
        manager.keep_alive(100.4)
        manager.keep_alive(100.5)
        manager.stopping()
        said = [end.recv(100).decode() for _ in range(4)]
        assert said == ["READY=1", "WATCHDOG=1", "WATCHDOG=1", "STOPPING=1"]
        assert manager.unheard == 0


@pytest.mark.parametrize("environ", [{"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "5", "WATCHDOG_PID": "1"}, {}])
def test_a_watchdog_that_is_not_ours_is_not_fed(tmp_path: Path, environ: dict[str, str]) -> None:
    manager = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone"), **environ})
    manager.keep_alive(100.0)
    assert manager.unheard == 0
    manager.ready()
    assert manager.unheard == 1


def test_the_host_is_told_once() -> None:
    reading, writing = os.pipe()
    host = HostNotifier(writing)
    host.failed("x" * 100_000 + "the end")
    host.ready("w@test", "/path")
    message = json.loads(os.read(reading, 65536))
    assert message["ready"] is False
    assert message["reason"].endswith("the end")
    os.close(reading)
    os.close(writing)
    HostNotifier(None).ready("w@test", "")


@pytest.mark.parametrize("character", ["\x01", "\U0001f980", "\udc80", "\u6f22"])
def test_a_long_reason_in_any_script_reaches_the_host_whole(character: str) -> None:
    reading, writing = os.pipe()
    HostNotifier(writing).failed(character * 50_000 + "the end")
    message = json.loads(os.read(reading, 65536))
    assert message["reason"].endswith(character + "the end")
    os.close(reading)
    os.close(writing)


def test_a_host_that_reads_no_more_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    HostNotifier(writing).ready("w@test", "")
    assert not os.get_blocking(writing)
    os.close(writing)


def test_a_pid_file_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("precious")
    (tmp_path / "pid").symlink_to(tmp_path / "target")
    with pytest.raises(PidfileError, match="cannot be opened"):
        Pidfile(str(tmp_path / "pid")).take()
    assert (tmp_path / "target").read_text() == "precious"


def test_a_pid_file_that_somebody_removed_is_no_error(tmp_path: Path) -> None:
    pidfile = Pidfile(str(tmp_path / "pid"))
    pidfile.release()
    pidfile.take()
    (tmp_path / "pid").unlink()
    pidfile.release()
    assert not (tmp_path / "pid").exists()


def test_a_pid_file_that_its_holder_removes_meanwhile_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a holder that leaves between our opening of the file and our lock
    path = tmp_path / "pid"
    path.write_text("1\n")
    lock = fcntl.lockf

    def leave_first(fd: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "lockf", lock)
        path.unlink()
        lock(fd, operation)

    monkeypatch.setattr(fcntl, "lockf", leave_first)
    pidfile = Pidfile(str(path))
    # When we take it
    pidfile.take()
    # Then what we hold is what others find
    assert path.read_text() == f"{os.getpid()}\n"
    assert pidfile.release() == ""
    assert not path.exists()


def test_a_pid_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pid")
    with pytest.raises(PidfileError, match="cannot be written"):
        Pidfile(str(tmp_path / "pid")).take()


def test_a_pid_file_that_cannot_be_removed_is_said_and_does_not_change_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pidfile = Pidfile(str(tmp_path / "pid"))
    pidfile.take()

    def refuse(_path: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "unlink", refuse)
    assert "cannot be removed: Permission denied" in pidfile.release()
    assert pidfile.release() == ""


def test_the_banner_names_what_matters_and_cuts_what_is_long() -> None:
    options = worker_options(
        {
            "autoscale": [8, 2],
            "app": "shop",
            "broker": "redis://:**@host/0",
            "queues": ["b", "a"],
            "tasks": [f"t{n:03}" for n in range(50)],
            "no_effect": ["worker_pool"],
        }
    )
    text = banner.text("w@test", 7, options, ["--without-gossip"])
    assert text.startswith("prefork w@test (pid 7)\n")
    assert "2 to 8 (prefork)" in text
    assert "a, b\n" in text
    assert "and 10 more" in text
    assert "at least once" in text
    assert "no effect:   --without-gossip, worker_pool\n" in text
    assert "no effect" not in banner.text("w@test", 7, worker_options({}), [])


def test_the_log_takes_over_the_format_of_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logger = make_logger("INFO", str(path))
    logger.info("one")
    reformat(logger, {"format": "<%(message)s>"})
    logger.info("two")
    reformat(logger, {"format": "%(nonsense"})
    reformat(logger, {"json": True})
    logger.info("three")
    lines = path.read_text().splitlines()
    assert lines[0].endswith("one")
    assert lines[1] == "<two>"
    assert "is no format" in lines[2]
    assert json.loads(lines[3])["message"] == "three"


def test_the_end_of_a_long_traceback_reaches_a_pipe() -> None:
    reading, writing = os.pipe()
    handler = LineHandler(writing, blocking=False)
    handler.setFormatter(LineFormatter())
    text = "\n".join(f"line {number} " + "x" * 70 for number in range(200)) + "\nRuntimeError: the reason"
    handler.emit(logging.makeLogRecord({"msg": text, "levelno": logging.ERROR}))
    written = os.read(reading, 65536).decode()
    assert written.endswith("    RuntimeError: the reason\n")
    assert written.count("\n") == 201
    assert handler.dropped == 0
    os.close(reading)
    os.close(writing)


@given(st.binary(max_size=500), st.integers(1, 60))
def test_pieces_are_bounded_and_lose_nothing(data: bytes, limit: int) -> None:
    parts = pieces(data, limit)
    assert b"".join(parts) == data
    assert all(len(part) <= limit for part in parts)


def test_the_supervisor_follows_its_log_file_when_it_is_rotated_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    logger = make_logger("INFO", str(path))
    logger.info("one")
    path.rename(tmp_path / "log.1")
    monkeypatch.setattr(log_lines, "mono_s", lambda: mono_s() + 10.0)
    logger.info("two")
    assert "two" in path.read_text()
    assert "two" not in (tmp_path / "log.1").read_text()

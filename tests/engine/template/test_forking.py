"""The template forks on request, and says what became of it."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from prefork.engine import orphans
from prefork.engine.exceptions import ImproperlyConfigured
from prefork.engine.loaded_app import Loaded
from prefork.engine.process_link import PACKET_BYTES_MAX, ProcessLink, encode
from prefork.engine.scoreboard import Scoreboard
from prefork.engine.template import main as template
from prefork.engine.template import roles
from support.apps import memory_app
from support.one_child import link_of, loaded, unlink


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the template sends to the supervisor."""
    messages: list[dict[str, Any]] = []
    monkeypatch.setattr(template, "send", lambda channel, message: messages.append(message))
    return messages


@pytest.fixture
def link() -> Iterator[ProcessLink]:
    made = link_of(Scoreboard())
    yield made
    unlink(made)


@pytest.fixture
def application() -> Iterator[Loaded]:
    with memory_app() as app:
        yield loaded(app)


REQUEST = {"op": "fork", "kind": "child", "slot": 3, "generation": 5}


def open_descriptors() -> int:
    gc.collect()  # what earlier tests have left to the collector is not closed between two counts
    return len(os.listdir("/proc/self/fd"))


def test_a_fork_is_reported_with_its_pid(
    link: ProcessLink, application: Loaded, said: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()

    def be_child(link: ProcessLink, loaded: Loaded, slot: int, generation: int) -> None:
        os.write(writing, f"{os.getpid()} {slot} {generation}".encode())
        os._exit(0)

    monkeypatch.setattr(roles, "run_child", be_child)
    template.Template(link, application)._fork(REQUEST, [])
    (answer,) = said
    assert (answer["op"], answer["slot"], answer["generation"]) == ("forked", 3, 5)
    assert os.read(reading, 100).decode() == f"{answer['pid']} 3 5"
    os.close(reading)
    os.close(writing)


def test_a_role_that_raises_never_gets_back_into_the_template(
    link: ProcessLink, application: Loaded, said: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()

    def broken(*_: Any) -> None:
        raise OSError("no role")

    monkeypatch.setattr(roles, "run_child", broken)
    template.Template(link, application)._fork(REQUEST, [])
    os.close(writing)
    assert os.read(reading, 1) == b"", "every copy of the pipe is closed: the new process has ended"
    os.close(reading)
    assert [answer["op"] for answer in said] == ["forked"]


def test_a_template_that_was_killed_while_it_forked_leaves_no_traceback(
    link: ProcessLink, application: Loaded, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(roles, "run_child", lambda *_: os._exit(0))
    reading, writing = os.pipe()
    gate, opened = os.pipe()
    intermediate = os.fork()
    if intermediate == 0:
        os.close(opened)
        os.read(gate, 1)
        template.Template(link, application)._become(REQUEST, [], reading, writing)
    for fd in (reading, writing, opened, gate):
        os.close(fd)  # as the kernel does for whom it kills, before the other one writes
    assert os.waitstatus_to_exitcode(os.waitpid(intermediate, 0)[1]) == 1
    assert capfd.readouterr().err == ""


def test_a_role_that_cannot_be_played_is_said_in_one_piece(
    link: ProcessLink, application: Loaded, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    written: list[int] = []
    write = os.write

    def write_once(fd: int, data: bytes) -> int:
        written.append(fd)
        assert written.count(2) <= 1
        return write(fd, data)

    def broken(*_: Any) -> None:
        raise OSError("no answer of redis://user:s3cr3t@host/0")

    monkeypatch.setattr(os, "write", write_once)
    monkeypatch.setattr(template.Template, "_intermediate", broken)
    reading, writing = os.pipe()
    intermediate = os.fork()
    if intermediate == 0:
        template.Template(link, application)._become(REQUEST, [], reading, writing)
    for fd in (reading, writing):
        os.close(fd)
    assert os.waitstatus_to_exitcode(os.waitpid(intermediate, 0)[1]) == 1
    said = capfd.readouterr().err
    assert said.startswith("Traceback") and said.endswith("\n")
    assert "OSError: no answer" in said and "s3cr3t" not in said


def test_a_fork_that_fails_is_reported_and_leaks_nothing(
    link: ProcessLink, application: Loaded, said: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    before = open_descriptors()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    maker = template.Template(link, application)
    for _ in range(3):
        maker._fork(REQUEST, [os.dup(0)])
    assert [answer["op"] for answer in said] == ["fork-failed"] * 3
    assert "temporarily" in said[0]["error"]
    assert open_descriptors() == before
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask


def test_a_second_fork_that_fails_is_reported(
    link: ProcessLink, application: Loaded, said: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    fork, here = os.fork, os.getpid()

    def only_here() -> int:
        if os.getpid() != here:
            raise BlockingIOError(11, "nö" * 40)
        return fork()

    monkeypatch.setattr(os, "fork", only_here)
    template.Template(link, application)._fork(REQUEST, [])
    assert said[0]["op"] == "fork-failed"
    assert "nö" in said[0]["error"]


def test_without_descriptors_a_fork_fails_and_the_template_goes_on(
    link: ProcessLink, application: Loaded, said: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> tuple[int, int]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pipe", refuse)
    template.Template(link, application)._fork(REQUEST, [])
    assert (said[0]["op"], said[0]["kind"]) == ("fork-failed", "child")


def test_any_traceback_fits_into_a_packet() -> None:
    text = template._shortened("\x00" * PACKET_BYTES_MAX)
    assert len(encode({"op": "boot-failed", "traceback": text})) <= PACKET_BYTES_MAX


def test_the_options_of_an_application_of_many_tasks_fit_into_a_packet(link: ProcessLink) -> None:
    with memory_app() as app:
        for number in range(5000):
            app.task(lambda: None, name=f"project.module.with.a.long.name.tasks.{number:06}")
        options = loaded(app).options
    assert options["task_count"] == 5000
    assert len(encode({"op": "ready", "options": options})) < PACKET_BYTES_MAX


@pytest.mark.parametrize(
    ("method", "reasons", "warned"),
    [("auto", ["a thread"], False), ("template", [], True), ("fresh", None, False)],
)
def test_what_speaks_against_forking_decides_unless_a_method_is_asked_for(
    link: ProcessLink,
    application: Loaded,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    reasons: list[str] | None,
    warned: bool,
) -> None:
    monkeypatch.setattr(template, "unsafe_to_fork", lambda allowed: ["a thread"])
    application.options["start_method"] = method
    found = template._reasons_against_forking(link, application)
    assert found == (["worker_start_method = fresh"] if reasons is None else reasons)
    assert bool(application.options["warnings"]) is warned


class Left(BaseException):
    """The process has ended (`os._exit`)."""


@pytest.fixture
def cleared_up(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """With what exit codes a template left that found its supervisor gone."""
    codes: list[int] = []

    def leave(code: int) -> None:
        codes.append(code)
        raise Left

    monkeypatch.setattr(orphans, "clear_up_after", lambda pidfd, board: codes.append(-1))
    monkeypatch.setattr(os, "_exit", leave)
    return codes


@pytest.mark.parametrize("error", [None, ImproperlyConfigured("no broker"), LookupError("no module")])
def test_a_report_that_nobody_reads_means_that_the_supervisor_died(
    link: ProcessLink,
    application: Loaded,
    monkeypatch: pytest.MonkeyPatch,
    cleared_up: list[int],
    error: Exception | None,
) -> None:
    def load(_link: ProcessLink) -> Loaded:
        if error is not None:
            raise error
        return application

    for name in ("leave_signals_to_supervisor", "show_stacks_on_request"):
        monkeypatch.setattr(template, name, lambda: None)
    monkeypatch.setattr(template, "load", load)
    monkeypatch.setattr(template, "preload", lambda *_, **__: None)
    try:
        with pytest.raises(Left):
            template.main(link)
    finally:
        gc.enable()
    assert cleared_up == [-1, 1]


class _Gone:
    """An output that cannot be written any more."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def flush(self) -> None:
        raise self._error


@pytest.mark.parametrize(
    ("output", "code"),
    [(_Gone(OSError("no space")), 1), (_Gone(ValueError("closed")), 0), (None, 0)],
)
def test_an_output_that_is_not_there_keeps_no_process(
    monkeypatch: pytest.MonkeyPatch, output: _Gone | None, code: int
) -> None:
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    monkeypatch.setattr(sys, "stdout", output)
    roles._leave(0)
    assert codes == [code]


def test_what_ends_a_process_is_in_its_log_without_secrets(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise RuntimeError("no answer of redis://user:s3cr3t@host/0")
    except RuntimeError:
        roles._explain()
    (record,) = caplog.records
    assert record.levelname == "CRITICAL"
    assert "RuntimeError: no answer" in record.message and "s3cr3t" not in record.message

"""`prefork status`, `inspect` and `control`, against a worker in a thread of the test."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefork.engine.cli import control, inspect
from prefork.engine.cli.failures import ExitCode
from prefork.engine.cli.main import main
from prefork.engine.cli.remote import shown
from prefork.engine.testing import start_worker

SOURCE = """
from prefork.engine import App
app = App("shop", broker={url!r}, result_backend={url!r}, set_as_current=False)

@app.task(name="shop.add")
def add(x, y):
    return x + y
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    name = f"shop_{uuid.uuid4().hex[:8]}"
    root = tmp_path_factory.mktemp("shop")
    (root / f"{name}.py").write_text(SOURCE.format(url=f"memory://{name}"))
    before = list(sys.path)
    sys.path.insert(0, str(root))
    yield name
    sys.path[:] = before
    sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def app(module: str) -> Iterator[Any]:
    """The application, with a worker."""
    found = __import__(module).app
    with start_worker(found):
        yield found


class Run:
    """Runs a command line and keeps what it printed."""

    def __init__(self, module: str, capsys: pytest.CaptureFixture[str]) -> None:
        self._module = module
        self._capsys = capsys
        self.out = self.err = ""

    def __call__(self, *line: str) -> int:
        self._capsys.readouterr()
        code = main(["-A", self._module, *line])
        self.out, self.err = self._capsys.readouterr()
        return code


@pytest.fixture
def run(module: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    return Run(module, capsys)


def node(app: Any) -> str:
    (only,) = app.control.ping(limit=1, timeout=10)[0]
    return str(only)


def test_status_lists_who_is_there(run: Run, app: Any) -> None:
    assert run("status", "-t", "2") == ExitCode.OK
    assert run.out == f"{node(app)}: OK\n\n1 node online.\n"
    assert run("status", "-t", "2", "--json") == ExitCode.OK
    assert json.loads(run.out) == {node(app): {"ok": "pong"}}


def test_nobody_there_is_an_exit_code_of_its_own(run: Run, app: Any) -> None:
    for line in (("status",), ("inspect", "ping"), ("control", "revoke", "x")):
        assert run(*line, "-t", "0.1", "-d", "nobody@h") == ExitCode.UNAVAILABLE
        assert "no worker replied within 0.1 s" in run.err
        assert run.out == ""


def test_inspect_prints_the_answers(run: Run, app: Any) -> None:
    name = node(app)
    assert run("inspect", "ping", "-d", name) == ExitCode.OK
    assert run.out == f"->  {name}: OK\n        pong\n\n1 node online.\n"
    assert run("inspect", "-d", name, "active") == ExitCode.OK
    assert "        - empty -" in run.out
    assert run("inspect", "registered", "-d", name) == ExitCode.OK
    assert "        * shop.add" in run.out
    assert run("-q", "inspect", "ping", "-d", name) == ExitCode.OK
    assert "online" not in run.out


def test_arguments_of_inspect_reach_the_worker(run: Run, app: Any) -> None:
    name = node(app)
    assert run("inspect", "conf", "true", "-d", name, "-j") == ExitCode.OK
    assert "task_acks_late" in json.loads(run.out)[name]
    assert run("inspect", "query_task", "a", "b", "-d", name, "-j") == ExitCode.OK
    assert json.loads(run.out) == {name: {}}


def test_control_changes_things(run: Run, app: Any) -> None:
    name = node(app)
    assert run("control", "revoke", "one", "two", "-d", name) == ExitCode.OK
    assert "flagged as revoked" in run.out
    assert run("inspect", "revoked", "-d", name, "-j") == ExitCode.OK
    assert {"one", "two"} <= set(json.loads(run.out)[name])
    assert run("control", "rate_limit", "shop.add", "10/m", "-d", name) == ExitCode.OK
    assert "new rate limit set successfully" in run.out
    assert run("control", "rate_limit", "shop.add", "none", "-d", name) == ExitCode.OK
    assert "disabled" in run.out


def test_an_error_of_the_worker_is_shown(run: Run, app: Any) -> None:
    assert run("control", "pool_grow", "-d", node(app)) == ExitCode.OK
    assert ": ERROR\n" in run.out
    assert "no pool" in run.out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (("inspect",), "which command"),
        (("control", "nothing"), "no command 'nothing'"),
        (("inspect", "revoke", "x"), "no command 'revoke'"),
        (("control", "rate_limit", "t"), "takes: <task_name> <rate_limit>"),
        (("inspect", "ping", "x"), "takes: no arguments"),
        (("control", "pool_grow", "x"), "whole number"),
        (("control", "time_limit", "t", "x"), "seconds, or none"),
        (("inspect", "conf", "perhaps"), "true or false"),
    ],
)
def test_what_was_typed_wrong_is_said(run: Run, app: Any, line: tuple[str, ...], said: str) -> None:
    assert run(*line) == ExitCode.USAGE
    assert said in run.err


@pytest.mark.parametrize("kind", [inspect, control])
def test_the_commands_are_listed_with_their_arguments(run: Run, kind: Any) -> None:
    assert run(kind.__name__.rpartition(".")[2], "--list") == ExitCode.OK
    assert [line.split()[0] for line in run.out.splitlines()] == list(kind.COMMANDS)


@pytest.mark.parametrize(
    ("answer", "status", "text"),
    [
        ({"ok": "x"}, "OK", "x"),
        ({"error": "y"}, "ERROR", "y"),
        ([], "OK", "- empty -"),
        (None, "OK", ""),
        ({}, "OK", "- empty -"),
        ([{"a": 1}], "OK", '* {"a": 1}'),
        ({"clock": 1}, "OK", '{\n    "clock": 1\n}'),
    ],
)
def test_answers_are_shown_for_people(answer: Any, status: str, text: str) -> None:
    assert shown(answer) == (status, text)


def test_a_broker_without_remote_control_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-b", "kombu+memory://", "status", "-t", "0.1"]) == ExitCode.CONFIG
    assert "carries no remote control" in capsys.readouterr().err


def test_shutdown_is_not_answered(run: Run, module: str) -> None:
    found = __import__(module).app
    with start_worker(found):
        assert run("control", "shutdown", "-t", "0.1", "-d", "nobody@h") == ExitCode.OK
    assert "do not answer" in run.out

"""`prefork unique`, on a file broker of its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from prefork.engine.cli.failures import ExitCode
from prefork.engine.cli.main import main

SOURCE = """
from prefork.engine import App, Unique
app = App("once", broker="filesystem://{root}/broker", backend="filesystem://{root}/broker")

@app.task(name="once.add", unique=True)
def add(x, y=0):
    return x + y

@app.task(name="once.by_tenant", unique=Unique(by="tenant"))
def by_tenant(tenant, value):
    return value
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "once_project", raising=False)
    (tmp_path / "once_project.py").write_text(SOURCE.format(root=tmp_path))

    def command(*line: str) -> tuple[int, str, str]:
        code = main(["-A", "once_project", *line])
        shown = capsys.readouterr()
        return code, shown.out.strip(), shown.err.strip()

    yield command
    sys.modules.pop("once_project", None)


def test_the_task_that_has_the_lock_is_shown_and_the_lock_is_freed(run: Any) -> None:
    code, sent, _ = run("call", "once.add", "-a", "[1]")
    assert code == 0
    assert run("call", "once.add", "-k", '{"x": 1}')[1] == sent, "it is unique whoever sends it"
    assert run("unique", "show", "once.add", "-a", "[1]")[:2] == (0, sent)
    assert run("unique", "free", "once.add", "-k", '{"x": 1}')[:2] == (0, sent)
    code, out, err = run("unique", "show", "once.add", "-a", "[1]")
    assert (code, out) == (ExitCode.FAILED, "")
    assert "nothing keeps such a call" in err
    assert run("unique", "free", "once.add", "-a", "[1]")[0] == ExitCode.FAILED
    assert run("call", "once.add", "-a", "[1]")[1] != sent


def test_the_key_of_the_task_counts(run: Any) -> None:
    _code, sent, _ = run("call", "once.by_tenant", "-a", '["acme", 1]')
    assert run("unique", "show", "once.by_tenant", "-a", '["acme", 2]')[1] == sent
    assert run("unique", "show", "once.by_tenant", "-a", '["other", 1]')[0] == ExitCode.FAILED


def test_wrong_arguments_are_said(run: Any) -> None:
    code, _out, err = run("unique", "show", "once.by_tenant", "-a", "[]")
    assert code == ExitCode.USAGE
    assert "tenant" in err
    assert run("unique", "show", "once.add", "-a", "{}")[0] == ExitCode.USAGE


def test_a_purge_frees_what_it_drops_and_says_so(run: Any) -> None:
    _code, ready, _ = run("call", "once.add", "-a", "[1]")
    run("call", "once.add", "-a", "[2]", "--countdown", "3600")
    code, out, _err = run("purge", "-f")
    assert (code, out) == (0, "celery: 2 dropped, with the locks of 2 unique ones")
    assert run("call", "once.add", "-a", "[1]")[1] != ready
    assert run("unique", "show", "once.add", "-a", "[2]")[0] == ExitCode.FAILED

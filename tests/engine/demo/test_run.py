"""`prefork demo`, as somebody types it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from prefork.engine.cli.failures import ExitCode
from prefork.engine.cli.main import main
from prefork.engine.demo import own_worker as own_worker_module
from prefork.engine.demo.own_worker import own_worker


def demo(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    environment = os.environ | {"TMPDIR": str(scratch), "XDG_RUNTIME_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "prefork.engine", "demo", *arguments]
    done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, timeout=100)
    assert list(scratch.iterdir()) == [], "the demonstration left something behind"
    return done


def test_everything_goes_as_planned(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number}.txt").write_text("four words a file\n" * number)
    done = demo(tmp_path, str(folder), "--timeout", "60")
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    # The file of no lines is empty and has no words to count.
    expected = r"demo: 22 tasks, 21 succeeded, 1 failed as planned, 1 crash recovered, 0 lost, \d+\.\d s"
    assert re.fullmatch(expected, last), done.stdout
    assert done.stderr == ""


def test_work_that_is_not_done_in_time_is_called_lost(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    done = demo(tmp_path, str(tmp_path), "--timeout", "0", "--max-files", "1")
    assert done.returncode == ExitCode.FAILED
    assert re.search(r"4 tasks, 0 succeeded, .* 4 lost", done.stdout.splitlines()[-1]), done.stdout


@pytest.mark.parametrize("line", [["/no/such/folder"], ["--concurrency", "0"]])
def test_a_wrong_argument_is_a_usage_error(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", *line]) == ExitCode.USAGE
    assert line[-1] in capsys.readouterr().err


def test_a_worker_whose_application_is_not_there_ends_by_itself() -> None:
    with own_worker("no_such_module_anywhere", {}) as worker:
        assert worker.wait(30) == ExitCode.USAGE


def test_a_worker_that_does_not_stop_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    ready, writing = os.pipe()
    ignore = "import os, signal, time; signal.signal(15, signal.SIG_IGN)"
    deaf = f"{ignore}; os.write({writing}, b'up'); time.sleep(60)"
    monkeypatch.setattr(own_worker_module, "_STOP_S", 0.05)
    monkeypatch.setattr(own_worker_module, "supervisor_command", lambda _: [sys.executable, "-c", deaf])
    monkeypatch.setattr(own_worker_module, "write_spec", lambda _: writing)
    with own_worker("unused", {}) as worker:
        assert os.read(ready, 10) == b"up"
    assert worker.returncode == -9
    os.close(ready)

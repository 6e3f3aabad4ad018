"""Test commands side by side: all run, all is shown, and one failure is a failure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "support" / "side_by_side.py"


def side_by_side(*codes: str) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, str(SCRIPT)]
    for code in codes:
        arguments += ["--", sys.executable, "-c", code]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=60)


def test_all_commands_are_run_and_shown_in_order() -> None:
    done = side_by_side("print('one')", "import sys; print('two', file=sys.stderr)")
    assert done.returncode == 0
    assert done.stdout.index("one\n") < done.stdout.index("two\n")


def test_commands_run_at_the_same_time(tmp_path: Path) -> None:
    # Each waits for what the other makes: one after the other they would never end.
    wait = (
        "import pathlib, time\npathlib.Path({!r}).touch()\n"
        "while not pathlib.Path({!r}).exists(): time.sleep(0.01)"
    )
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    assert side_by_side(wait.format(here, there), wait.format(there, here)).returncode == 0


def test_one_failure_is_the_status_of_all() -> None:
    done = side_by_side("raise SystemExit(3)", "print('fine')")
    assert done.returncode == 3
    assert "fine" in done.stdout

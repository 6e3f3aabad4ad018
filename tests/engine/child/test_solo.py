"""`-P solo`: a worker of one process, as it is started from the command line."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from prefork.engine.cli.failures import ExitCode
from support.host import DEADLINE_S, Host

LINE = ("-A", "shop", "worker", "-P", "solo", "-l", "info")

SHOP = """
import os
from prefork.engine import App

app = App("shop", broker="filesystem://{root}/broker", backend="filesystem://{root}/broker")

@app.task
def pid():
    return os.getpid()
"""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    made.write("shop.py", SHOP.format(root=tmp_path))
    yield made
    made.close()


def call(host: Host, task: str, *line: str) -> str:
    """Call a task and return what the command printed."""
    called = host.run("-A", "shop", "call", f"shop.{task}", *line)
    assert called.returncode == 0, called.stderr + host.log()
    return called.stdout.strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_task_runs_in_the_one_process_and_a_signal_ends_it_with_0(host: Host, number: int) -> None:
    worker = host.start(*LINE)
    assert call(host, "pid", "--wait", "--timeout", "20") == str(worker.pid)
    assert psutil.Process(worker.pid).children() == []
    worker.send_signal(number)
    assert worker.wait(DEADLINE_S) == ExitCode.OK
    assert "Traceback" not in host.log()


def test_it_says_that_nobody_enforces_time_limits(host: Host) -> None:
    worker = host.start(*LINE, "--time-limit", "5")
    call(host, "pid", "--wait", "--timeout", "20")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(DEADLINE_S) == ExitCode.OK
    assert "enforces no time limits" in host.log()

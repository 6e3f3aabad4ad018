"""A directory that plays a host: an application in it, and the `prefork` command run there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

DEADLINE_S = 30.0

SHOP = """
import os, time
from prefork.engine import App

app = App("shop", broker="filesystem://{root}/broker", backend="filesystem://{root}/broker")

@app.task
def add(x, y):
    return x + y

@app.task
def nap(seconds):
    time.sleep(seconds)
    return os.getpid()
"""


class Host:
    """A directory with an application in it, and the command run there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._environment = {
            k: v for k, v in os.environ.items() if not k.startswith(("PREFORK_", "CELERY_"))
        } | {
            "XDG_RUNTIME_DIR": str(root / "run"),
            "XDG_STATE_HOME": str(root / "state"),
            "HOME": str(root),
        }
        (root / "run").mkdir(mode=0o700)
        self.write("shop.py", SHOP.format(root=root))
        self.workers: list[subprocess.Popen[str]] = []
        self.detached: list[int] = []

    def write(self, name: str, text: str) -> None:
        (self.root / name).write_text(textwrap.dedent(text))

    def command(self, *line: str) -> list[str]:
        return [sys.executable, "-m", "prefork.engine", *line]

    def run(self, *line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*line),
            cwd=self.root,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            stdin=subprocess.DEVNULL,
        )

    def start(self, *line: str, log: str = "worker.log") -> subprocess.Popen[str]:
        """Start a worker; what it says goes into a file."""
        with (self.root / log).open("w") as stream:
            worker = subprocess.Popen(
                self.command(*line),
                cwd=self.root,
                env=self._environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                text=True,
            )
        self.workers.append(worker)
        return worker

    def log(self, name: str = "worker.log") -> str:
        path = self.root / name
        return path.read_text() if path.exists() else ""

    def wait_for_log(self, text: str, name: str = "worker.log") -> str:
        wait_until(lambda: text in self.log(name), lambda: f"no {text!r} in:\n{self.log(name)}")
        return self.log(name)

    def close(self) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.terminate()
                try:
                    worker.wait(DEADLINE_S)
                except subprocess.TimeoutExpired:
                    worker.kill()
                    worker.wait()
        for pid in self.detached:
            with suppress(ProcessLookupError):  # it has ended
                os.kill(pid, signal.SIGKILL)


def wait_until(condition: Callable[[], bool], story: Callable[[], str]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, story()
        time.sleep(0.02)

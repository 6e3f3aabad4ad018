"""Real workers of both makes below one application: started, killed, and never left alive."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from support.stress_worker import MARKER, marked, search_path
from support.waiting import eventually

READY = {"celery": " ready.", "prefork": "is ready"}


class FleetWorker:
    """One worker, ``celery`` or ``prefork``, in processes of its own.

    :param config: of `support.fleet_app`.
    :param line: more of its command line.
    """

    def __init__(
        self, root: Path, make: str, name: str, config: dict[str, Any], *line: str, **environ: str
    ) -> None:
        self.make = make
        self.name = name
        self.directory = root / name
        self.directory.mkdir()
        (self.directory / "run").mkdir(mode=0o700)
        self.log_path = self.directory / "log"
        self.marker = secrets.token_hex(8)
        module = "celery" if make == "celery" else "prefork.engine"
        self.command = [sys.executable, "-m", module, "-A", "support.fleet_app:app", "worker"]
        self.command += ["-l", "info", "-n", f"{name}@fleet", *line]
        if make == "celery":
            self.command += ["--without-gossip", "--without-mingle"]
        self.environ = {
            **os.environ,
            "PYTHONPATH": search_path(),
            "XDG_RUNTIME_DIR": str(self.directory / "run"),
            "SPT_NOENV": "1",
            "C_FORCE_ROOT": "1",  # the tests may run as root in a container; Celery refuses pickle there
            "FLEET_CONFIG": json.dumps(config),
            "FLEET_MAKE": make,
            MARKER: self.marker,
            **environ,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self) -> FleetWorker:
        """Start, and wait for nothing."""
        self._seen = len(self.log)
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                start_new_session=True,
            )
        return self

    def await_ready(self, within_s: float = 40.0) -> FleetWorker:
        """Wait until it says that it is ready."""

        def ready() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, f"exit code {self.process.returncode}\n{self.log}"
            return READY[self.make] in self.log[self._seen :]

        eventually(ready, deadline_s=within_s, every_s=0.02)
        return self

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def processes(self) -> list[int]:
        """Every living process of this worker."""
        return marked(f"{MARKER}={self.marker}")

    def kill(self) -> list[int]:
        """SIGKILL to all its processes, as if its host was gone; returns who died."""
        victims = self.processes()
        for pid in victims:
            _kill(pid, signal.SIGKILL)
        assert self.process is not None
        self.process.wait(20)
        eventually(lambda: not self.processes(), deadline_s=5.0)
        return victims

    def stop(self, within_s: float = 30.0) -> int:
        """Stop warm; returns the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within_s)

    def close(self) -> None:
        if self.process is not None:
            self.kill()


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # it was faster

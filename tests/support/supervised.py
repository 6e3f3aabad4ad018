"""Drives a `fake_worker` from a test: starts it, gives it jobs, reads its events, leaves nothing alive."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefork.engine.boot import BootSpec
from prefork.engine.control_socket import request
from support.calibration import Waits

TESTS = Path(__file__).resolve().parents[1]
MARKER = "TEST_WORKER_MARKER"


def eventually(what: Callable[[], Any], within_s: float = 8.0, every_s: float = 0.005) -> Any:
    """The first true answer; fails when there is none in time."""
    deadline = time.monotonic() + within_s
    while True:
        answer = what()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s} s: {what}; last answer {answer!r}")
        time.sleep(every_s)


class Supervised:
    """One fake worker in a process of its own."""

    def __init__(self, directory: Path, spec: dict[str, Any] | None = None, **settings: Any) -> None:
        self.directory = directory
        self.marker = secrets.token_hex(8)
        self.log_path = directory / "log"
        runtime = directory / "run"
        runtime.mkdir(exist_ok=True, mode=0o700)
        values = {"dir": str(directory), "concurrency": 1, "lease_s": 4.0, "app": "fake", **settings}
        self.spec = BootSpec(app="fake", settings=values, loglevel="DEBUG", hostname="w@test", **(spec or {}))
        (directory / "spec").write_text(self.spec.to_json())
        self.environ = {
            **os.environ,
            "PYTHONPATH": str(TESTS),
            MARKER: self.marker,
            "XDG_RUNTIME_DIR": str(runtime),
        }
        self.process: subprocess.Popen[bytes] | None = None
        self._jobs = 0

    def start(self, *, ready: bool = True, pass_fds: tuple[int, ...] = (), **environ: str) -> Supervised:
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "support.fake_worker", str(self.directory / "spec")],
                env=self.environ | environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                start_new_session=True,
                pass_fds=pass_fds,
            )
        if ready:
            eventually(lambda: "is ready" in self.log or self.process.poll() is not None)  # type: ignore[union-attr]
            assert "is ready" in self.log, self.log
            eventually(self.complete)
        return self

    def complete(self) -> bool:
        """As many children are ready as there should be."""
        stats = self.ask("stats")
        return sum(child["phase"] == "ready" for child in stats["children"]) == stats["target"]

    def __enter__(self) -> Supervised:
        return self

    def __exit__(self, *_: object) -> None:
        process = self.process
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, within_s: float = 10.0) -> int:
        assert self.process is not None
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {within_s} s\n{self.log}") from None

    # --- jobs and events -----------------------------------------------------------------------

    def job(self, *steps: dict[str, Any]) -> str:
        """Give the children one batch; returns its name."""
        self._jobs += 1
        name = f"{self._jobs:05d}"
        draft = self.directory / f"{name}.draft"
        draft.write_text(json.dumps(steps))
        draft.rename(self.directory / f"{name}.job")
        return name

    def state(self, name: str) -> str:
        """``job``, ``taken-OWNER``, ``gave-back`` or ``done``."""
        for path in self.directory.glob(f"{name}.*"):
            return path.name.split(".", 1)[1]
        return ""

    def set(self, flag: str, text: str = "") -> None:
        draft = self.directory / f"{flag}.draft"
        draft.write_text(text)
        draft.rename(self.directory / flag)

    def unset(self, flag: str) -> None:
        (self.directory / flag).unlink()

    def events(self, what: str | None = None, **fields: Any) -> list[dict[str, Any]]:
        path = self.directory / "events"
        # A reader may see the first half of a write; the other half comes with the next look.
        lines = path.read_text().rpartition("\n")[0].splitlines() if path.exists() else []
        events = [json.loads(line) for line in lines]
        return [
            event
            for event in events
            if (what is None or event["what"] == what) and all(event.get(k) == v for k, v in fields.items())
        ]

    def event(self, what: str, within_s: float = 8.0, **fields: Any) -> dict[str, Any]:
        """The first such event, waited for."""
        try:
            found: list[dict[str, Any]] = eventually(lambda: self.events(what, **fields), within_s)
        except AssertionError:
            raise AssertionError(f"no {what} {fields}; events {self.events()}\n{self.log}") from None
        return found[0]

    # --- looking from outside --------------------------------------------------------------------

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        path = next((self.directory / "run" / "prefork").glob("*.sock"))
        return request(str(path), {"op": op, **fields}, 5.0)

    def processes(self) -> list[int]:
        """Every living process with this worker's marker in its environment."""
        marker = f"{MARKER}={self.marker}".encode()
        found = []
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            try:
                environ = Path("/proc", name, "environ").read_bytes()
                state = Path("/proc", name, "stat").read_bytes().rpartition(b")")[2].split()[0]
            except OSError:
                continue
            if marker in environ.split(b"\0") and state != b"Z":
                found.append(int(name))
        return found

    def programs(self, name: str) -> list[int]:
        """Those of `processes` that run this program."""
        found = []
        for pid in self.processes():
            try:
                if Path(f"/proc/{pid}/comm").read_text().strip() == name:
                    found.append(pid)
            except OSError:
                continue
        return found

    def gone(self) -> None:
        """Nothing of this worker is alive after a second; a failure says what the machine took meanwhile."""
        waits, taken_s, began_s = Waits(), 0.0, time.monotonic()
        while left := self.processes():
            # Looked at meanwhile: of what has ended nothing can be read.
            taken_s = max(taken_s, waits.together_s)
            assert time.monotonic() - began_s < 1.0, (left, taken_s)
            time.sleep(0.01)

"""Drives real workers from a fault test: starts, feeds, kills and watches them, leaves nothing alive."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from prefork.engine import App
from prefork.engine.boot import BootSpec, supervisor_command, write_spec
from prefork.engine.control_socket import ControlError, request
from prefork.transports.base import DeadLetter, Depth, Outgoing, Waiting
from support.ledger import Execution, Kill, Ledger, boot_ns
from support.waiting import eventually

TESTS = Path(__file__).resolve().parents[1]
APP = "support.stress_app:app"
MARKER = "STRESS_MARKER"
QUEUE = "celery"


class Site:
    """A directory with a broker, a ledger, and the workers that use them.

    :param url: of an empty broker; None makes one in the directory.
    :param results: of the result store; None for the broker.
    :param settings: of the application, for the client and for all workers.
    """

    def __init__(
        self, root: Path, url: str | None = None, *, results: str | None = None, **settings: Any
    ) -> None:
        self.root = root
        (root / "broker").mkdir(mode=0o700)
        self.ledger = Ledger(root / "ledger")
        self.url = url or f"filesystem://{root}/broker"
        self.results = results or self.url
        self.settings = settings
        self.app = App(
            "stress-client", broker=self.url, backend=self.results, set_as_current=False, **settings
        )
        self.accepted: list[str] = []
        self.kills: list[Kill] = []
        self.workers: list[StressWorker] = []

    def send(self, task: str, *args: Any, **options: Any) -> str:
        """Send one message; returns its id, once it is accepted."""
        task_id = str(self.app.send_task(task, args, **options).id)
        self.accepted.append(task_id)
        return task_id

    def result(self, task_id: str, timeout_s: float = 20.0) -> Any:
        """The result, or the exception as it is stored."""
        return self.app.AsyncResult(task_id).get(timeout=timeout_s, propagate=False)

    def state(self, task_id: str) -> str:
        return str(self.app.AsyncResult(task_id).state)

    def depth(self) -> Depth:
        return self.app.client.transport.depth(QUEUE)

    def dead(self) -> list[DeadLetter]:
        return list(self.app.client.transport.dead_letters(100_000))

    def send_documents(self, documents: list[bytes]) -> None:
        """Put documents into the queue as they are."""
        self.app.client.transport.send([Outgoing(QUEUE, document) for document in documents])

    def waiting(self) -> dict[str, Waiting]:
        """By id: the messages that are ready or delayed."""
        transport = self.app.client.transport
        ready = transport.peek(QUEUE, 100_000)
        found = [*ready, *transport.peek(QUEUE, 100_000, delayed=True)]
        return {json.loads(item.document)["headers"]["id"]: item for item in found}

    def started(self, task_id: str, within_s: float = 10.0) -> Execution:
        """The first execution of a task, waited for."""

        def look() -> list[Execution]:
            return [run for run in self.ledger.executions() if run.task_id == task_id]

        return eventually(look, deadline_s=within_s)[0]

    def finished(self, within_s: float, ids: list[str] | None = None) -> None:
        """Wait until everything that was accepted has ended, and nothing is held any more."""
        wanted = set(self.accepted if ids is None else ids)
        try:
            eventually(
                lambda: wanted <= self.ledger.read().finished and self.depth() == Depth(0, 0, 0),
                deadline_s=within_s,
                every_s=0.02,
            )
        except AssertionError:
            missing = sorted(wanted - self.ledger.finished)
            logs = "\n".join(worker.log[-4000:] for worker in self.workers)
            raise AssertionError(
                f"{len(missing)} not finished in {within_s} s: {missing[:5]}; {self.depth()}\n{logs}"
            ) from None

    def kill(self, pid: int, number: int = signal.SIGKILL) -> bool:
        """Kill one process, and note it; False if it is gone."""
        kill = Kill(pid, boot_ns())
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        self.kills.append(kill)
        return True

    def worker(self, **given: Any) -> StressWorker:
        """A worker, not started yet."""
        made = StressWorker(self, len(self.workers), **given)
        self.workers.append(made)
        return made

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
        self.app.close()


class StressWorker:
    """One real worker in processes of its own.

    :param environ: variables for the application.
    :param cli: started by the command ``prefork worker`` rather than by a boot specification.
    """

    def __init__(
        self,
        site: Site,
        number: int,
        *,
        concurrency: int = 2,
        environ: dict[str, str] | None = None,
        app: str = APP,
        loglevel: str = "INFO",
        **settings: Any,
    ) -> None:
        self.site = site
        self.directory = site.root / f"worker-{number}"
        self.directory.mkdir()
        (self.directory / "run").mkdir(mode=0o700)
        self.log_path = self.directory / "log"
        self.marker = secrets.token_hex(8)
        self.spec = BootSpec(
            app=app,
            settings={"worker_concurrency": concurrency, **site.settings, **settings},
            loglevel=loglevel,
            hostname=f"w{number}@stress",
            banner=False,
        )
        self.concurrency = concurrency
        # SPT_NOENV: process titles are not to be written over the environment, where the marker is.
        self.environ = {
            **os.environ,
            "PYTHONPATH": search_path(),
            "STRESS_DIR": str(site.root),
            "STRESS_BROKER": site.url,
            **({"STRESS_RESULTS": site.results} if site.results != site.url else {}),
            "XDG_RUNTIME_DIR": str(self.directory / "run"),
            "SPT_NOENV": "1",
            MARKER: self.marker,
            **(environ or {}),
        }
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self) -> StressWorker:
        """Start, and wait for nothing."""
        spec_fd = write_spec(self.spec)
        try:
            self._popen(supervisor_command(spec_fd), (spec_fd,))
        finally:
            os.close(spec_fd)
        return self

    def launch_by_command(self, *line: str) -> StressWorker:
        """Start ``prefork worker`` with these options, and wait for nothing."""
        command = [sys.executable, "-m", "prefork.engine", "-A", self.spec.app, "worker", *line]
        self._popen([*command, "-c", str(self.concurrency), "-l", "info"], ())
        return self

    def _popen(self, command: list[str], pass_fds: tuple[int, ...]) -> None:
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                command,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                start_new_session=True,
                pass_fds=pass_fds,
            )

    def start(self, within_s: float = 20.0) -> StressWorker:
        """Start, and wait until all children are ready."""
        self.launch()
        self.await_complete(within_s)
        return self

    def await_complete(self, within_s: float = 20.0) -> None:
        """Wait until as many children are ready as the test wants."""

        def complete() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, f"exit code {self.process.returncode}\n{self.log}"
            stats = self.try_stats()
            return stats is not None and len(_ready(stats)) == self.concurrency

        eventually(complete, deadline_s=within_s)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """Ask the supervisor through its control socket."""
        path = next((self.directory / "run" / "prefork").glob("*.sock"))
        return request(str(path), {"op": op, **fields}, 5.0)

    def stats(self) -> dict[str, Any]:
        return self.ask("stats")

    def try_stats(self) -> dict[str, Any] | None:
        """The statistics, or None from a worker that cannot answer yet."""
        try:
            return self.stats()
        except (StopIteration, ControlError):
            return None

    def children(self) -> list[int]:
        return _ready(self.stats())

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, within_s: float) -> int:
        """The exit code, waited for."""
        assert self.process is not None
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {within_s} s\n{self.log[-6000:]}") from None

    def stop(self, within_s: float = 35.0) -> int:
        """Stop warm; returns the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(within_s)

    def processes(self) -> list[int]:
        """Every living process with this worker's marker in its environment."""
        return marked(f"{MARKER}={self.marker}")

    def gone(self, within_s: float = 1.0) -> None:
        """Nothing of this worker is alive any more."""
        try:
            eventually(lambda: not self.processes(), deadline_s=within_s)
        except AssertionError:
            alive = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in self.processes()]
            raise AssertionError(f"alive after {within_s} s: {alive}\n{self.log[-4000:]}") from None

    def close(self) -> None:
        process = self.process
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def search_path() -> str:
    """PYTHONPATH with the directory of the tests in front."""
    return os.pathsep.join([str(TESTS), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))])


def marked(text: str) -> list[int]:
    """Living processes whose environment holds ``NAME=value``."""
    wanted = text.encode()
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            environ = Path("/proc", name, "environ").read_bytes()
            state = Path("/proc", name, "stat").read_bytes().rpartition(b")")[2].split()[0]
        except OSError:
            continue
        if wanted in environ.split(b"\0") and state not in b"ZX":
            found.append(int(name))
    return found


def group_members(group: int) -> list[int]:
    """Living processes of a process group."""
    members = []
    for name in os.listdir("/proc"):
        try:
            fields = Path("/proc", name, "stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] not in b"ZX":
            members.append(int(name))
    return members


def _ready(stats: dict[str, Any]) -> list[int]:
    return [child["pid"] for child in stats["children"] if child["phase"] == "ready"]

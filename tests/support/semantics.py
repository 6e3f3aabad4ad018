"""One project below a running worker, on each of the four brokers: what task semantics are tested with.

A test module says what its project is, and uses the fixture ``fleet``, which lives as long as the module:

    SOURCE = '''
    app = App("shop", **SETTINGS)

    @app.task
    def add(x, y):
        return x + y
    '''
    WORKER = {"task_max_crashes": 1}  # optional: settings of the worker (concurrency: 2)

    def test_it(fleet):
        assert fleet.task("add").delay(1, 2).get(timeout=20) == 3

`SOURCE` is put below `PREAMBLE`, which imports what most projects need and defines ``SETTINGS`` (broker,
results, transport options) and ``ROOT`` (a directory of its own, also `Fleet.root`). Write braces as they
are: nothing is formatted.

The memory broker lives in one process, so its worker is a thread of the test (`ThreadWorker`, as with
``-P solo``): nothing can kill it, and no time limit ends a task there. A test that needs processes says so,
``@pytest.mark.needs("several_processes")``, and is not generated for memory; likewise with any other field of
`prefork.transports.base.Capabilities` or name of `GAPS` (``rotates``: its consumers can look at other
priorities than the best).
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module, invalidate_caches
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil

from prefork.engine import App
from prefork.engine.embed import Worker, WorkerError
from prefork.engine.local import apps
from prefork.engine.message import TaskMessage, parse
from prefork.transports.base import Capabilities, DeadLetter, Depth, Outgoing, Transport
from support.rabbitmq_server import shared
from support.redis_server import RedisServer, running_redis
from support.thread_worker import ThreadWorker
from support.waiting import eventually

BROKERS = ("memory", "filesystem", "redis", "amqp")
SERVERS = ("redis", "amqp")
# What a test may need and a broker cannot do, beside the capabilities that a transport declares.
GAPS: dict[str, frozenset[str]] = {
    "memory": frozenset({"several_processes"}),
    "filesystem": frozenset(),
    "redis": frozenset(),
    "amqp": frozenset(
        {
            "leases",
            "recall_by_others",
            "inspects_schedule",
            "lists_queues",
            "counts_in_work",
            "rotates",
        }
    ),
}
OUTSIDE_S = 20.0

PREAMBLE = """
import os
import pathlib
import signal
import time

from prefork.engine import App, shared_task, signals
from prefork.engine.exceptions import *

SETTINGS = {settings!r}
ROOT = pathlib.Path({root!r})


def note(name, text):
    with open(ROOT / name, "a") as stream:
        stream.write(text + "\\n")

"""


class Fleet:
    """A project, a client of it, and its worker.

    :ivar name: which broker.
    :ivar project: the imported module; `app` is its application.
    :ivar root: the directory that the project knows as ``ROOT``.
    """

    def __init__(self, name: str, project: ModuleType, root: Path, worker: dict[str, Any]) -> None:
        self.name = name
        self.project = project
        self.app: App = project.app
        self.root = root
        self.worker_settings = worker
        self.log_path = root / "worker.log"
        self._workers = 0
        self.worker: Worker | ThreadWorker = self._make({})

    # -- the worker -----------------------------------------------------------------------------

    def _make(self, settings: dict[str, Any]) -> Worker | ThreadWorker:
        chosen = {"concurrency": 2, **self.worker_settings, **settings}
        self._workers += 1
        chosen.setdefault("hostname", f"worker{self._workers}@tests")
        if not self.several_processes:
            chosen.pop("concurrency")
            return ThreadWorker(self.app, log=self.log_path, **chosen)
        chosen.setdefault("loglevel", "INFO")
        return Worker(self.app, logfile=str(self.log_path), **chosen)

    @property
    def several_processes(self) -> bool:
        """Whether the worker consists of processes, so that tests may kill and limit them."""
        return "several_processes" not in GAPS[self.name]

    @contextmanager
    def another_worker(self, **settings: Any) -> Iterator[Worker | ThreadWorker]:
        """A second worker on the same broker; with settings of its own only where workers are processes."""
        worker = self._make(settings)
        worker.start()
        try:
            yield worker
        finally:
            worker.stop()

    def restart(self, **settings: Any) -> None:
        """Stop the worker and start a new one."""
        self.worker.stop()
        self.worker = self._make(settings)
        self.worker.start()

    def kill_worker(self) -> None:
        """SIGKILL to every process of the worker at once, as if its host was gone; `start_worker` follows."""
        assert isinstance(self.worker, Worker)
        supervisor = psutil.Process(self.worker.pid)
        supervisor.suspend()  # first, so that it starts nobody while the others are looked for
        victims = supervisor.children(recursive=True)
        for process in victims:
            with suppress(psutil.NoSuchProcess):  # it was about to end
                process.suspend()
        for process in [supervisor, *victims]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.worker.wait(OUTSIDE_S)

    def start_worker(self, **settings: Any) -> None:
        """Start a new worker in place of one that was killed or stopped."""
        self.worker = self._make(settings)
        self.worker.start()

    @property
    def log(self) -> str:
        """What all workers have logged so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def wait_for_log(self, text: str) -> str:
        """Wait until a worker has logged a text."""
        eventually(lambda: text in self.log, deadline_s=OUTSIDE_S, every_s=0.02)
        return self.log

    # -- tasks and notes ------------------------------------------------------------------------

    def task(self, name: str) -> Any:
        """A task of the project by the name of its function."""
        return getattr(self.project, name)

    def notes(self, name: str) -> list[str]:
        """The lines that tasks wrote with ``note(name, text)``."""
        path = self.root / name
        # Who reads while another writes may see the line that crosses into a new page in two parts.
        return path.read_text().rpartition("\n")[0].splitlines() if path.exists() else []

    def unique(self, name: str = "x") -> str:
        """A name that no other test uses."""
        return f"{name}-{uuid.uuid4().hex[:12]}"

    # -- the broker -----------------------------------------------------------------------------

    @property
    def transport(self) -> Transport:
        """The client's handle on the broker."""
        return self.app.client.transport

    @property
    def capabilities(self) -> Capabilities:
        """What the broker can do."""
        return self.transport.capabilities

    def send_raw(
        self, document: bytes, queue: str = "celery", priority: int = 0, due_wall_s: float | None = None
    ) -> None:
        """Send any bytes as a message."""
        self.transport.send([Outgoing(queue, document, priority, due_wall_s)])

    def depth(self, queue: str = "celery") -> Depth:
        """How many messages of a queue are where, as far as the broker can tell."""
        return self.transport.depth(queue)

    def waiting(self, queue: str = "celery", *, delayed: bool = False) -> list[TaskMessage]:
        """What waits in a queue, parsed."""
        found = self.transport.peek(queue, 1000, delayed=delayed)
        return [parse(item.document, self.app.client.table) for item in found]

    def dead(self) -> list[DeadLetter]:
        """The dead letters, oldest first."""
        return list(self.transport.dead_letters(1000))


@contextmanager
def addresses(name: str, root: Path, server: RedisServer | None = None) -> Iterator[dict[str, Any]]:
    """Settings that lead to an empty broker of this kind and a result store.

    :param server: for redis: one that the test ends itself; else one is started.
    """
    if name == "memory":
        url = f"memory://{uuid.uuid4().hex}"
        yield {"broker": url, "result_backend": url}
    elif name == "filesystem":
        url = f"filesystem://{root / 'broker'}"
        yield {"broker": url, "result_backend": url}
    elif server is not None:
        yield {"broker": server.url, "result_backend": server.url}
    else:
        with running_redis() as server:
            if name == "redis":
                yield {"broker": server.url, "result_backend": server.url}
                return
            yield {
                "broker": shared().vhost_url(),
                "result_backend": server.url,
                # 35 quorum queues for the delays take a second to declare.
                "broker_transport_options": {"native_delayed_delivery_queue_type": "classic"},
            }


@contextmanager
def fleet_of(
    name: str,
    module: str,
    source: str,
    root: Path,
    worker: dict[str, Any] | None = None,
    *,
    start: bool = True,
    server: RedisServer | None = None,
) -> Iterator[Fleet]:
    """A project of this source, with its worker running.

    :param module: what the project's module is to be called; no two that are open may share it.
    :param start: False leaves the worker to the test (`Fleet.start_worker`).
    :param server: see `addresses`.
    """
    with addresses(name, root, server) as settings:
        text = PREAMBLE.format(settings=settings, root=str(root)) + source
        (root / f"{module}.py").write_text(text)
        sys.path.insert(0, str(root))
        invalidate_caches()
        before = apps.current
        project = import_module(module)
        fleet = Fleet(name, project, root, worker or {})
        try:
            if start:
                fleet.worker.start()
            yield fleet
            if start:
                fleet.worker.stop()
        finally:
            _end(fleet.worker)
            fleet.app.close()
            apps.current = before
            sys.path.remove(str(root))
            del sys.modules[module]


def _end(worker: Worker | ThreadWorker) -> None:
    """End a worker of processes that a failing test has left; one that was stopped is left alone."""
    if isinstance(worker, Worker):
        try:
            worker.stop(0.0)
        except WorkerError:
            return  # it was never started

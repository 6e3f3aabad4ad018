"""A worker in a thread of the process that tests: the loop of ``-P solo``, started by a program."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from ..boot import BootSpec
from ..child.solo import Solo, link_here
from ..draining import await_empty
from ..embed import Worker, WorkerBootError, WorkerError
from ..execution import Interrupted
from ..loaded_app import load_here

DEFAULT_TIMEOUT_S: Final = 10.0

# How long an interrupted task, which may clean up, has until it counts as stuck.
_INTERRUPTED_S: Final = 2.0
# The innermost ones are the task's own.
_STACK_FRAMES_MAX: Final = 8


class WorkerStuck(WorkerError):
    """The worker's thread did not end: a task in it waits where nobody can interrupt it.

    :ivar task: id and name of the task, if one is known.
    :ivar stack: where it is, as text.
    """

    def __init__(self, timeout_s: float, task: tuple[str, str] | None, stack: str) -> None:
        super().__init__(timeout_s, task, stack)
        self.timeout_s = timeout_s
        self.task = task
        self.stack = stack

    def __str__(self) -> str:
        what = "its loop" if self.task is None else f"{self.task[1]}[{self.task[0]}]"
        return (
            f"the worker did not end within {self.timeout_s:g} s: {what} still runs, and a thread cannot be "
            "killed; it ends with the process. Give what the task waits for a timeout, or raise "
            f"shutdown_timeout. It is here:\n{self.stack}"
        )


class ThreadWorker:
    """A worker of an app in a thread of this process.

    :param app: any `App`, also one of a closure or a test function.
    :param queues: consume from these only; empty means all that the configuration has.
    :param hostname: node name; ``%h`` and the like are expanded.
    """

    def __init__(
        self,
        app: Any,
        *,
        queues: Sequence[str] = (),
        exclude_queues: Sequence[str] = (),
        hostname: str | None = None,
        include: Sequence[str] = (),
    ) -> None:
        self.app = app
        self._spec = BootSpec(
            app=app.main or "app",
            queues=list(queues),
            exclude_queues=list(exclude_queues),
            include=list(include),
            hostname=hostname,
            pool="solo",
            banner=False,
            without_mingle=True,  # what other workers know of revocations is not this test's
        )
        # The next four are written by the thread of the loop, before it says that it is ready or has ended.
        self._solo: Solo | None = None
        self._queues: list[str] = []
        self._error: BaseException | None = None
        self.hostname = ""
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prefork-worker", daemon=True)

    def start(self, timeout_s: float = DEFAULT_TIMEOUT_S) -> ThreadWorker:
        """Start the worker and wait until it takes messages.

        :raises WorkerBootError: it cannot start; the error is its cause.
        """
        self._thread.start()
        if not self._begun.wait(timeout_s):
            raise WorkerBootError(f"not ready within {timeout_s:g} s", None)
        if self._solo is None:
            self._thread.join(timeout_s)
            raise WorkerBootError(str(self._error), None) from self._error
        return self

    def _run(self) -> None:
        link = link_here(self._spec)
        solo: Solo | None = None
        try:
            loaded = load_here(link, self.app)
            solo = Solo(link, loaded, guest=True, on_ready=self._begun.set)
            self._queues, self.hostname = loaded.options["queues"], loaded.node
            self._solo = solo
            solo.run()
        except BaseException as error:  # noqa: BLE001 - raised again where the worker is stopped
            self._error = error
        finally:
            link.channel.close()
            os.close(link.supervisor_pidfd)
            os.close(link.doorbell_fd)
            self._begun.set()

    @property
    def alive(self) -> bool:
        """Whether the worker runs."""
        return self._thread.is_alive()

    def stop(self, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """End the worker after the task that runs; what waits stays in the broker. Safe to call twice.

        :param timeout_s: what runs longer is interrupted, and its message given back.
        :raises WorkerStuck: the task cannot be interrupted.
        :raises WorkerError: the worker had failed by itself; the error is its cause.
        """
        solo, self._solo = self._solo, None
        if solo is None:
            return
        solo.leave()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._interrupt(solo, timeout_s)
        solo.close()
        if self._error is not None:
            raise WorkerError(f"the worker had failed: {self._error!r}") from self._error

    def _interrupt(self, solo: Solo, timeout_s: float) -> None:
        running = solo.running()
        stack = _stack_of(self._thread.ident)
        if running is not None:
            # Raised between two instructions of the thread; a call that blocks has to return first.
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(self._thread.ident or 0), ctypes.py_object(Interrupted)
            )
        self._thread.join(_INTERRUPTED_S)
        if self._thread.is_alive():
            raise WorkerStuck(timeout_s, running, stack)

    def drain(self, timeout_s: float = DEFAULT_TIMEOUT_S, *, delayed: bool = True) -> None:
        """Wait until nothing is left in the worker's queues.

        :param delayed: wait for what is due later, too, such as retries.
        :raises TimeoutError: something still is; the error says what.
        :raises WorkerError: the worker has ended.
        """
        transport = self.app.client.transport
        await_empty(
            transport, self._queues, self._require_alive, self._begun_tasks, timeout_s, delayed=delayed
        )

    def _begun_tasks(self) -> int | None:
        solo = self._solo
        return None if solo is None else solo.executions()

    def _require_alive(self, left: str) -> None:
        if not self.alive:
            why = f" ({self._error!r})" if self._error is not None else ""
            raise WorkerError(f"the worker has ended{why}; left in its queues: {left}") from self._error

    def __enter__(self) -> ThreadWorker:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def _stack_of(ident: int | None) -> str:
    frame = sys._current_frames().get(ident or 0)
    if frame is None:
        return "  (the thread has just ended)"
    return "".join(traceback.format_stack(frame)[-_STACK_FRAMES_MAX:])


@contextmanager
def start_worker(
    app: Any,
    concurrency: int = 1,
    pool: str = "solo",
    loglevel: str | int | None = None,
    logfile: str | None = None,
    perform_ping_check: bool = True,
    ping_task_timeout: float = DEFAULT_TIMEOUT_S,
    shutdown_timeout: float = DEFAULT_TIMEOUT_S,
    *,
    queues: str | Sequence[str] = (),
    exclude_queues: str | Sequence[str] = (),
    hostname: str | None = None,
    include: Sequence[str] = (),
) -> Iterator[Any]:
    """Run a worker of an app while the block runs: in a thread, or with ``pool="prefork"`` in processes.

    The thread runs one task at a time and enforces no time limits. What the app logs is left to the test:
    `loglevel` and `logfile` concern processes only, and so does `concurrency`. The worker is ready when the
    block begins, so that `perform_ping_check`, which Celery's has, changes nothing.

    :param ping_task_timeout: seconds until the worker must be ready.
    :param shutdown_timeout: seconds that a task which runs at the end of the block has left.
    :raises WorkerBootError: it cannot start.
    :raises WorkerStuck: a task runs for ever, and cannot be interrupted.
    :raises ValueError: there is no such pool.
    """
    if pool == "prefork":
        with _processes(app, concurrency, loglevel, logfile, _names(queues), hostname, include) as worker:
            yield worker
        return
    if pool not in ("solo", "threads"):
        raise ValueError(f"pool={pool!r}: give 'solo' (a thread of this process) or 'prefork' (processes)")
    thread = ThreadWorker(
        app,
        queues=_names(queues),
        exclude_queues=_names(exclude_queues),
        hostname=hostname,
        include=include,
    )
    thread.start(ping_task_timeout)
    try:
        yield thread
    finally:
        thread.stop(shutdown_timeout)


def _processes(
    app: Any,
    concurrency: int,
    loglevel: str | int | None,
    logfile: str | None,
    queues: list[str],
    hostname: str | None,
    include: Sequence[str],
) -> Worker:
    return Worker(
        app,
        concurrency=concurrency,
        queues=queues,
        hostname=hostname,
        loglevel=str(loglevel or "WARNING").upper(),
        logfile=logfile,
        include=list(include),
    )


def _names(queues: str | Sequence[str]) -> list[str]:
    return [name for name in queues.split(",") if name] if isinstance(queues, str) else list(queues)

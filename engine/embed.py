"""A worker inside another program: ``with Worker(app, concurrency=4): ...``.

The supervisor is a new interpreter, because the program may have threads, and signal handlers of
its own that nobody must touch. It watches this process by a pidfd: when this process dies, the
worker goes with everything below it; when only the thread ends that started it, it stays.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
from typing import Any, Final

from ..transports.url import redact
from .boot import BootSpec, supervisor_command, write_spec
from .clock import mono_s
from .control_socket import ControlError, request
from .discovery import location_of
from .draining import await_empty
from .unset import UNSET, Unset

_REPLY_S: Final = 5.0
# On top of what the shutdown itself is given: handing over, the agent's farewell, a slow machine.
_FAREWELL_S: Final = 15.0
_READY_BYTES_MAX: Final = 256 * 1024

_SPEC_FIELDS: Final = frozenset(
    {"autoscale", "banner", "exclude_queues", "include", "logfile", "pidfile", "statedb", "task_events"}
)


class WorkerError(Exception):
    """An embedded worker cannot do what was asked."""


class WorkerBootError(WorkerError):
    """The worker did not become ready.

    :ivar reason: why; the traceback of the application, if that is what it was.
    :ivar exit_code: of the supervisor; None if it had to be killed.
    """

    def __init__(self, reason: str, exit_code: int | None) -> None:
        super().__init__(reason, exit_code)
        self.reason = reason
        self.exit_code = exit_code

    def __str__(self) -> str:
        return f"the worker could not start: {self.reason}"


class Worker:
    """A worker below this process.

    :param app: an `App` at the top level of an importable module, or of the running script.
    :param concurrency: number of children; None for what the configuration says.
    :param queues: consume from these only; None for all that the configuration has.
    :param hostname: node name, ``%h`` and the like expanded.
    :param options: ``autoscale``, ``banner``, ``exclude_queues``, ``include``, ``logfile``, ``pidfile``,
        ``statedb``, ``task_events`` as on the command line; everything else is a setting by its
        lower-case name. Settings that were changed on `app.conf` in this process reach the worker as
        far as they are plain data.
    :raises ImproperlyConfigured: the app cannot be imported by another process (a console, a closure).
    """

    def __init__(
        self,
        app: Any,
        *,
        concurrency: int | None = None,
        queues: list[str] | tuple[str, ...] | None = None,
        hostname: str | None = None,
        loglevel: str = "WARNING",
        **options: Any,
    ) -> None:
        settings = _plain(getattr(app.conf, "changes", {}))
        settings |= {name: value for name, value in options.items() if name not in _SPEC_FIELDS}
        if concurrency is not None:
            settings["worker_concurrency"] = concurrency
        fields = {name: value for name, value in options.items() if name in _SPEC_FIELDS}
        self._spec = BootSpec(
            app=location_of(app),
            workdir=os.getcwd(),
            sys_path=[os.path.abspath(entry) for entry in sys.path],
            settings=settings,
            hostname=hostname,
            queues=list(queues or ()),
            loglevel=loglevel,
            watch_pid=os.getpid(),
            **{"banner": False, **fields},
        )
        self.app = app
        self._lock = threading.Lock()  # one start or stop at a time
        self._process: subprocess.Popen[bytes] | None = None
        self._notify_fd = -1
        self._control = ""

    def start(self, timeout_s: float = 60.0) -> Worker:
        """Start the worker and wait until it is ready.

        :raises WorkerBootError: it is not ready in time, or cannot start; nothing of it is left then.
        :raises WorkerError: it has been started already.
        """
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                raise WorkerError(f"the worker runs already, with pid {self._process.pid}")
            self._launch()
            try:
                self._await_ready(mono_s() + timeout_s, timeout_s)
            except BaseException:
                self._kill()
                raise
        return self

    def _launch(self) -> None:
        reading, writing = os.pipe()
        self._spec.notify_fd = writing
        spec_fd = write_spec(self._spec)
        try:
            self._process = subprocess.Popen(
                supervisor_command(spec_fd),
                stdin=subprocess.DEVNULL,
                pass_fds=(spec_fd, writing),
                start_new_session=True,  # Ctrl-C is for this program, which then decides
            )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(spec_fd)
            os.close(writing)
        self._notify_fd = reading

    def _await_ready(self, deadline_s: float, timeout_s: float) -> None:
        poller = select.poll()
        poller.register(self._notify_fd, select.POLLIN)
        received = b""
        while not received.endswith(b"\n"):
            if not poller.poll(max(0.0, deadline_s - mono_s()) * 1000):
                raise WorkerBootError(f"not ready within {timeout_s:g} s", None)
            data = os.read(self._notify_fd, 65536)
            received += data
            if not data or len(received) > _READY_BYTES_MAX:
                raise WorkerBootError("it ended without a word; see its log", self._exit_code())
        message = json.loads(received)
        if not message["ready"]:
            raise WorkerBootError(str(message["reason"]), self._exit_code())
        self._control = message["control"]

    def _exit_code(self) -> int | None:
        assert self._process is not None
        try:
            return self._process.wait(_REPLY_S)
        except subprocess.TimeoutExpired:
            return None

    def stop(self, graceful_s: float | None | Unset = UNSET) -> int:
        """Stop the worker and wait for its end; returns its exit code. Safe to call twice.

        :param graceful_s: running tasks have so many seconds, then they are interrupted and given
            back; None waits for them without a bound; not given: as for SIGTERM
            (``worker_soft_shutdown_timeout``).
        """
        with self._lock:
            process = self._running()
            if process.poll() is None:
                self._ask_to_stop(process, graceful_s)
                self._await_end(process, graceful_s)
            self._close()
            return process.returncode

    def _ask_to_stop(self, process: subprocess.Popen[bytes], graceful_s: float | None | Unset) -> None:
        if graceful_s is UNSET or not self._control:
            process.send_signal(signal.SIGTERM)
            return
        try:
            request(self._control, {"op": "stop", "graceful_s": graceful_s}, _REPLY_S)
        except Exception:
            if process.poll() is None:
                raise

    def _await_end(self, process: subprocess.Popen[bytes], graceful_s: float | None | Unset) -> None:
        if graceful_s is None:
            process.wait()
            return
        if graceful_s is UNSET:
            process.wait()  # bounded by the worker itself, as its configuration says
            return
        try:
            process.wait(graceful_s + _FAREWELL_S)
        except subprocess.TimeoutExpired:
            self._kill()

    def _kill(self) -> None:
        """Have the supervisor stop at once; if it does not, kill it, and what is below it goes with it."""
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGQUIT)
            try:
                process.wait(_REPLY_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._close()

    def _close(self) -> None:
        if self._notify_fd >= 0:
            os.close(self._notify_fd)
            self._notify_fd = -1
        self._control = ""

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for the end of the worker, whoever stops it; returns its exit code.

        :raises TimeoutError: it still runs.
        """
        try:
            return self._running().wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"the worker still runs after {timeout_s:g} s") from None

    def stats(self) -> dict[str, Any]:
        """Children, counters, deaths by cause and the rest, as ``prefork health --stats`` shows them.

        :raises ControlError: the worker does not answer.
        :raises WorkerError: it is not running.
        """
        return self._request({"op": "stats"})

    def scale(self, n: int) -> None:
        """Have `n` children from now on.

        :raises ControlError: the worker does not answer, or refuses the number.
        """
        self._request({"op": "scale", "n": n})

    def drain(self, timeout_s: float = 10.0, *, delayed: bool = True) -> None:
        """Wait until nothing is left in the worker's queues and lanes (RabbitMQ does not tell of lanes).

        :param delayed: wait for what is due later, too, such as retries.
        :raises TimeoutError: something still is; the error says what.
        :raises ControlError: the worker does not answer.
        :raises WorkerError: the worker is not running, or has another broker than the app in this process.
        """
        stats = self.stats()
        here = redact(self.app.config.broker_url or "filesystem://")
        if stats["broker"] != here:
            raise WorkerError(
                f"the worker's queues are on {stats['broker']}, and the app in this process uses {here}: "
                "set broker_url in app.conf instead"
            )
        transport = self.app.client.transport
        await_empty(
            transport, stats["queues"], self._require_running, self._counted, timeout_s, delayed=delayed
        )

    def _counted(self) -> object:
        """What the children have counted; None when the worker has ended.

        Something else each time while the agent deals with a death: results may come of that.
        """
        try:
            stats = self.stats()
        except (ControlError, WorkerError):
            if self._exit_code() is None:
                raise
            return None
        return object() if stats["unrecovered"] else stats["totals"]

    def _require_running(self, left: str) -> None:
        process = self._running()
        if process.poll() is not None:
            raise WorkerError(
                f"the worker has ended with exit code {process.returncode}; left in its queues: {left}"
            )

    @property
    def pid(self) -> int:
        """Process id of the supervisor."""
        return self._running().pid

    def _request(self, message: dict[str, Any]) -> dict[str, Any]:
        process = self._running()
        if process.poll() is not None or not self._control:
            raise WorkerError(f"the worker has ended with exit code {process.returncode}")
        return request(self._control, message, _REPLY_S)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise WorkerError("the worker has not been started; call start(), or use it in a with statement")
        return self._process

    def __enter__(self) -> Worker:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """The settings that can be told to another process; the others come with the import of the app."""
    plain = {}
    for name, value in values.items():
        try:
            plain[name] = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError):
            continue  # a class, a function, an object: made by the module itself
    return plain

"""The application of the fault tests: every task writes into the ledger, some misbehave.

Imported by the workers' processes only. STRESS_DIR says where the ledger is, STRESS_BROKER
which broker it has, STRESS_RESULTS which result store if it is another.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from prefork.engine import App
from prefork.engine.signals import worker_process_init
from prefork.serializers.json import JsonSerializer
from support import ledger

ROOT = os.environ["STRESS_DIR"]
LEDGER = os.path.join(ROOT, "ledger")
BROKER = os.environ["STRESS_BROKER"]

app = App("stress", broker=BROKER, backend=os.environ.get("STRESS_RESULTS", BROKER))


def recorded(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Makes a task of a function; it is given no request."""

    def decorate(body: Callable[..., Any]) -> Any:
        @functools.wraps(body)
        def run(self: Any, *args: Any, **kwargs: Any) -> Any:
            task_id = self.request.id
            ledger.note(LEDGER, ledger.START, task_id, self.request.retries)
            try:
                return body(*args, **kwargs)
            finally:
                ledger.note(LEDGER, ledger.END, task_id, self.request.retries)

        return app.task(name=body.__name__, bind=True, typing=False, **options)(run)

    return decorate


@recorded(ignore_result=True)
def work(s: float = 0.0) -> None:
    time.sleep(s)


@recorded(acks_late=False)
def early(s: float = 0.0) -> None:
    time.sleep(s)


@recorded()
def timed(s: float = 0.0) -> str:
    """Like `work`, with a result."""
    time.sleep(s)
    return "done"


@recorded()
def held(path: str) -> str:
    """Like `timed`, until a file is there."""
    while not os.path.exists(path):
        time.sleep(0.005)
    return "done"


@recorded()
def poison() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


@recorded(acks_late=False)
def die_once() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@recorded()
def mixed(kind: str = "") -> str:
    """Short, mostly."""
    if kind:
        KINDS[kind](60.0)
    return "done"


@app.task(name="proj.add", typing=False)
def add(*args: Any, **kwargs: Any) -> int:
    """What the corpus of bad messages would like to run."""
    return len(args) + len(kwargs)


@recorded()
def failing(text: str = "") -> None:
    raise ValueError(text)


@recorded()
def misbehave(kind: str, s: float = 60.0) -> Any:
    """Do something that tasks should not do; see `KINDS`."""
    return KINDS[kind](s)


def _ignore_signals(s: float) -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):  # reserved by the C library
            signal.signal(number, signal.SIG_IGN)
    _nap(s)


def _mask_signals(s: float) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    _nap(s)


def _nap(s: float) -> None:
    end_s = time.monotonic() + s
    while (left_s := end_s - time.monotonic()) > 0:
        with contextlib.suppress(Exception):  # a soft limit, too
            time.sleep(left_s)


def _twice_locked(library: ctypes.CDLL) -> None:
    mutex = (ctypes.c_char * 64)()
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)


def _stuck(_: float) -> None:
    _twice_locked(ctypes.CDLL(None))


def _stuck_with_gil(_: float) -> None:
    _twice_locked(ctypes.PyDLL(None))


def _stop_self(_: float) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _grandchild(s: float) -> None:
    subprocess.Popen(["sleep", "300"])
    _nap(s)


def _daemon(s: float) -> None:
    subprocess.Popen(["sleep", "300"], start_new_session=True)
    _nap(s)


def _close_everything(_: float) -> str:
    os.closerange(0, 4096)
    return "closed"


def _garbage(_: float) -> str:
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # not writable, or gone
            os.set_blocking(int(name), False)
            os.write(int(name), b"\xff\x00garbage" * 400)
    return "written"


def _surroundings(_: float) -> str:
    os.chdir("/")
    os.umask(0o777)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)
    os.environ.clear()
    return "changed"


def _recurse(s: float) -> float:
    return _recurse(s) + 1


def _raise(error: BaseException) -> Callable[[float], None]:
    def body(_: float) -> None:
        raise error

    return body


KINDS: dict[str, Callable[[float], Any]] = {
    "sleep": _nap,
    "ignore": _ignore_signals,
    "mask": _mask_signals,
    "stuck": _stuck,
    "stuck with gil": _stuck_with_gil,
    "stop self": _stop_self,
    "grandchild": _grandchild,
    "daemon": _daemon,
    "close everything": _close_everything,
    "garbage": _garbage,
    "surroundings": _surroundings,
    "sys.exit": lambda _: sys.exit(7),
    "keyboard interrupt": _raise(KeyboardInterrupt("pressed")),
    "generator exit": _raise(GeneratorExit("left")),
    "base exception": _raise(BaseException("base")),
    "memory error": _raise(MemoryError("none left")),
    "recursion": _recurse,
    "os._exit": lambda _: os._exit(5),
    "segfault": lambda _: ctypes.string_at(0),
    "abort": lambda _: os.abort(),
}


def _log_for_ever() -> None:
    """Holds the lock of logging most of the time, as the thread of some library might."""
    logger = logging.getLogger("noise")
    logger.propagate = False
    handler = logging.StreamHandler(open(os.devnull, "w"))
    logger.addHandler(handler)
    while True:
        with handler.lock or contextlib.nullcontext():
            time.sleep(0.001)
        logger.warning("noise")


if os.environ.get("STRESS_NOISE"):
    threading.Thread(target=_log_for_ever, daemon=True).start()

if os.environ.get("STRESS_IMPORT_FAILS"):
    raise ImportError("the application of this test cannot be imported")


def _on_init(**_: Any) -> None:
    if "STRESS_INIT_FAILS" in os.environ:
        with open(os.path.join(ROOT, "inits"), "ab") as inits:
            inits.write(b"x")
        raise RuntimeError("the hook of this test fails")
    if "STRESS_DEADLY_DECODER" in os.environ:
        _make_decoder_deadly()
    time.sleep(float(os.environ.get("STRESS_INIT_S", "0")))


def _make_decoder_deadly() -> None:
    """Have the decoder of bodies end the process, as a defective extension module might."""
    loads = JsonSerializer.loads

    def deadly(self: JsonSerializer, data: bytes) -> Any:
        if b"DEADLY" in bytes(data):
            os._exit(9)
        return loads(self, data)

    JsonSerializer.loads = deadly  # type: ignore[method-assign]


worker_process_init.connect(_on_init, weak=False)

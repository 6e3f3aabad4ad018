"""Runs the demonstration and tells how it went."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from ..clock import mono_s
from ..exceptions import TimeLimitExceeded
from ..exceptions import TimeoutError as ResultTimeout
from ..version import __version__
from .app import app
from .files import text_files
from .own_worker import own_worker
from .progress import Progress
from .report import Case, Ending, Kind, report
from .tasks import OVERRUN_LIMIT_S, count, crash_once, overrun, second_try

APP = "prefork.engine.demo.app:app"
_OVERRUN_FACTOR = 60
_LOOK_S = 1.0


@dataclass(frozen=True)
class Plan:
    """What to demonstrate.

    :param folder: whose text files are counted.
    :param concurrency: processes of the worker.
    :param timeout_s: what has no result by then is called lost.
    """

    folder: Path
    concurrency: int
    files_max: int
    timeout_s: float


def run_demo(plan: Plan, out: TextIO | None = None) -> bool:
    """Start a worker on an embedded broker of its own, give it the work, and print the outcome.

    Everything is gone afterwards: processes, messages and results.

    :returns: everything went as planned, the misfortunes included.
    """
    stream = sys.stdout if out is None else out
    files = text_files(plan.folder, plan.files_max)
    stream.write(
        f"prefork {__version__}: {len(files)} text files below {plan.folder}, {plan.concurrency} processes\n"
    )
    started_mono_s = mono_s()
    with tempfile.TemporaryDirectory(prefix="prefork-demo-") as scratch:
        queue = f"filesystem://{scratch}/broker"
        settings = {"broker_url": queue, "result_backend": queue, "worker_concurrency": plan.concurrency}
        app.conf.resolve(cli=settings)
        with own_worker(APP, settings) as worker:
            cases = _send(files, Path(scratch, "crashed"))
            _collect(cases, worker, started_mono_s + plan.timeout_s, stream)
        app.close()
    return report(cases, mono_s() - started_mono_s, stream)


def _send(files: Sequence[Path], marker: Path) -> list[Case]:
    """Send everything. The slow ones first, so that the others do not wait for them in the end."""
    misfortunes = [
        Case(Kind.CRASH, "kills its own process, the first time", crash_once.delay(str(marker)), _is_a_pid),
        Case(Kind.LIMIT, "exceeds its time limit", overrun.delay(OVERRUN_LIMIT_S * _OVERRUN_FACTOR)),
        Case(Kind.RETRY, "asks to be tried again", second_try.delay(), lambda attempts: attempts == 2),
    ]
    honest = [Case(Kind.COUNT, str(path), count.delay(str(path)), _checker(path)) for path in files]
    return [*honest, *misfortunes]


def _collect(
    cases: Sequence[Case], worker: subprocess.Popen[bytes], until_mono_s: float, stream: TextIO
) -> None:
    """Wait for every result, at most until then, and no longer than there is a worker."""
    progress = Progress(stream, len(cases))
    for done, case in enumerate(cases):
        progress.show(done, case.kind.value)
        while case.ending is Ending.OPEN and mono_s() < until_mono_s and worker.poll() is None:
            _look(case, min(_LOOK_S, until_mono_s - mono_s()))
    progress.close()
    if worker.poll() is not None:
        stream.write(f"the worker ended early, with exit code {worker.returncode}\n")


def _look(case: Case, timeout_s: float) -> None:
    """Wait a moment for the result of one task."""
    try:
        case.settle(case.result.get(timeout=max(0.0, timeout_s)))
    except ResultTimeout:
        return
    except TimeLimitExceeded as error:
        case.fail(error, planned=case.kind is Kind.LIMIT)
    except Exception as error:  # noqa: BLE001 - whatever a task raised is what is to be reported
        case.fail(error, planned=False)


def _is_a_pid(value: Any) -> bool:
    return isinstance(value, int) and value > 1


def _checker(path: Path) -> Callable[[Any], bool]:
    """Compares with what this process reads, so that a wrong answer is no success."""

    def correct(value: Any) -> bool:
        content = path.read_bytes()
        expected = (hashlib.sha256(content).hexdigest(), len(content.split()))
        return (value["sha256"], value["words"]) == expected

    return correct

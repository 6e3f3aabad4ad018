"""The tasks as Celery has them."""

from __future__ import annotations

import os
import time

import run_log
from celery import Celery

_log = run_log.from_environment()
_results = os.environ["BENCH_RESULTS"] == "1"

app = Celery(
    "bench",
    broker=os.environ["BENCH_REDIS"],
    backend=os.environ["BENCH_REDIS"] if _results else None,
)
app.conf.task_ignore_result = not _results
app.conf.broker_connection_retry_on_startup = True
if "BENCH_PREFETCH" in os.environ:
    app.conf.worker_prefetch_multiplier = int(os.environ["BENCH_PREFETCH"])
if os.environ.get("BENCH_LIMITS") == "1":
    app.conf.update(task_time_limit=30, task_soft_time_limit=20, task_track_started=True)


@app.task
def noop(number: int) -> int:
    """Nothing but the record that it ran."""
    _log.ran(number)
    return number


@app.task(ignore_result=True)
def stamped(number: int, sent_ns: int) -> None:
    """How long ago it was sent."""
    _log.add(number, time.monotonic_ns() - sent_ns)


send = noop.delay
send_stamped = stamped.delay


def round_trip(number: int) -> int:
    """Send one and wait for its result."""
    returned: int = noop.delay(number).get(timeout=30)
    return returned

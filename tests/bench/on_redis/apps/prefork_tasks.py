"""The tasks as prefork has them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence

import run_log

from prefork.engine import App

_log = run_log.from_environment()
_results = os.environ["BENCH_RESULTS"] == "1"
_PART = 10_000
_limits = {"task_time_limit": 30, "task_soft_time_limit": 20, "task_track_started": True}

app = App(
    "bench",
    broker_url=os.environ["BENCH_REDIS"],
    result_backend=os.environ["BENCH_REDIS"] if _results else None,
    task_ignore_result=not _results,
    broker_transport_options={} if os.environ.get("BENCH_CONFIRMS") != "0" else {"confirm_publish": False},
    **(_limits if os.environ.get("BENCH_LIMITS") == "1" else {}),
)


@app.task
def noop(number: int) -> int:
    """Nothing but the record that it ran."""
    _log.ran(number)
    return number


@app.task(ignore_result=True)
def stamped(number: int, sent_ns: int) -> None:
    """How long ago it was sent, on a clock that all processes of a host share."""
    _log.add(number, time.monotonic_ns() - sent_ns)


send = noop.delay
send_stamped = stamped.delay


def round_trip(number: int) -> int:
    """Send one and wait for its result."""
    returned: int = noop.delay(number).get(timeout=30)
    return returned


def send_bulk(numbers: Sequence[int]) -> None:
    """Send many at once; the results of one part are let go before the next."""
    for at in range(0, len(numbers), _PART):
        noop.map_async(numbers[at : at + _PART])


def send_delayed(numbers: Iterable[int], eta_s: float) -> None:
    """Send many that are due much later."""
    with app.bulk():
        for number in numbers:
            noop.apply_async((number,), countdown=eta_s)

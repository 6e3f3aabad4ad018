"""The tasks as prefork has them."""

from __future__ import annotations

import os
import time

import recorder

from prefork.engine import App

_records = recorder.from_environment()
_fsync = os.environ["BENCH_FSYNC"] == "1"

app = App(
    "bench",
    broker_url=os.environ["BENCH_BROKER"],
    result_backend=os.environ["BENCH_BROKER"],
    broker_transport_options={"fsync": _fsync},
    result_backend_transport_options={"fsync": _fsync},
    task_ignore_result=os.environ["BENCH_RESULTS"] != "1",
)


@app.task
def noop(number: int) -> int:
    """Nothing but the record that it ran."""
    _records.now()
    return number


@app.task(ignore_result=True)
def start_delay(sent_ns: int) -> None:
    """How long ago it was sent, on a clock that all processes of a host share."""
    _records.add(time.monotonic_ns() - sent_ns)


send = noop.delay
send_stamped = start_delay.delay

"""The tasks as Huey has them, on its Redis storage."""

from __future__ import annotations

import os
import time

import run_log
from huey import RedisHuey

_log = run_log.from_environment()

huey = RedisHuey("bench", url=os.environ["BENCH_REDIS"], results=os.environ["BENCH_RESULTS"] == "1")


@huey.task()
def noop(number: int) -> int:
    """Nothing but the record that it ran."""
    _log.ran(number)
    return number


@huey.task()
def stamped(number: int, sent_ns: int) -> None:
    """How long ago it was sent."""
    _log.add(number, time.monotonic_ns() - sent_ns)


send = noop
send_stamped = stamped


def round_trip(number: int) -> int:
    """Send one and wait for its result, asking as fast as Huey allows."""
    returned: int = noop(number).get(blocking=True, timeout=30, backoff=1.0, max_delay=0.001)
    return returned

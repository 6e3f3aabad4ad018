"""The tasks as RQ has them."""

from __future__ import annotations

import os

import run_log
from redis import Redis
from rq import Queue

_log = run_log.from_environment()
_queue = Queue("bench", connection=Redis.from_url(os.environ["BENCH_REDIS"]))


def noop(number: int) -> None:
    """Nothing but the record that it ran."""
    _log.ran(number)


def send(number: int) -> None:
    """Send one; what it returns is not kept."""
    _queue.enqueue("rq_tasks.noop", number, result_ttl=0)

"""The tasks as taskiq has them, on its Redis list."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable

import run_log
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

_log = run_log.from_environment()

broker = ListQueueBroker(os.environ["BENCH_REDIS"], queue_name="bench")
if os.environ["BENCH_RESULTS"] == "1":
    broker = broker.with_result_backend(RedisAsyncResultBackend(os.environ["BENCH_REDIS"]))


@broker.task
async def noop(number: int) -> int:
    """Nothing but the record that it ran."""
    _log.ran(number)
    return number


@broker.task
async def stamped(number: int, sent_ns: int) -> None:
    """How long ago it was sent."""
    _log.add(number, time.monotonic_ns() - sent_ns)


_runner = asyncio.new_event_loop()


def send_each(numbers: Iterable[int]) -> None:
    """Send one after the other within one event loop, as a program that uses taskiq would."""

    async def every() -> None:
        for number in numbers:
            await noop.kiq(number)

    _runner.run_until_complete(every())


def send(number: int) -> None:
    """Send one."""
    send_each([number])

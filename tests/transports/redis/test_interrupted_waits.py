"""Waits for a silent server in a process that gets signals all the time."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from prefork.transports.errors import BrokerUnavailable
from prefork.transports.redis.link import Link
from prefork.transports.redis.settings import read_settings
from support.redis_server import RedisServer
from support.tcp_proxy import Mode, tcp_proxy
from support.waiting import eventually

PATIENT_S = 30.0
"""For an answer that must come, however long the machine stands still."""


@pytest.fixture
def interrupted() -> Iterator[list[float]]:
    """A signal every 20 ms, for five seconds; gives the moments at which they came."""
    came: list[float] = []

    def note(*_: object) -> None:
        came.append(time.monotonic())
        if came[-1] - came[0] > 5.0:
            signal.setitimer(signal.ITIMER_REAL, 0.0)

    before = signal.signal(signal.SIGALRM, note)
    left = signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    yield came
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    signal.signal(signal.SIGALRM, before)
    if left[0]:
        signal.setitimer(signal.ITIMER_REAL, *left)  # the timer of the test's own time limit


@pytest.mark.parametrize("size", [1, 8 << 20], ids=["answer", "request"])
def test_silence_ends_with_the_socket_timeout_however_often_a_signal_interrupts(
    shared_redis: RedisServer, interrupted: list[float], size: int
) -> None:
    with tcp_proxy(shared_redis.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}/0"
        options = {"socket_timeout": 0.5, "socket_connect_timeout": PATIENT_S}
        link = Link(read_settings(url, options), name="test link")
        assert link.call("PING", timeout_s=PATIENT_S) == b"PONG"
        proxy.set(Mode.BLACK_HOLE)
        with pytest.raises(BrokerUnavailable):
            link.call("SET", "key", b"x" * size)
        link.close()
    seen = len(interrupted)
    eventually(lambda: len(interrupted) > seen)  # they came all the time
    assert interrupted[-1] - interrupted[0] < 4.0

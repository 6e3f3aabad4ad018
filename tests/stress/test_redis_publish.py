"""Publishing over a bad network: done, not done or unknown, within the deadline, never for ever (I25)."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest

from prefork.engine import App
from prefork.engine.exceptions import OperationalError
from prefork.transports.errors import BrokerUnavailable
from support.calibration import Standstill
from support.redis_server import RedisServer, running_redis
from support.tcp_proxy import Mode, TcpProxy

PUBLISHES = 200
THREADS = 25
DEADLINE_S = 0.5
SLACK_S = 0.5
TROUBLES = [mode for mode in Mode if mode is not Mode.PASS]


class Outcome(NamedTuple):
    """What became of one publish, as its caller was told."""

    task_id: str
    told: str
    begun_s: float
    ended_s: float


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running_redis() as running:
        yield running


def publish(app: App, queue: str) -> Outcome:
    """Send one message; any other exception than those of a broker is a failure of the test."""
    task_id = str(uuid.uuid4())
    begun_s = time.monotonic()
    told = "ok"
    try:
        app.send_task("work", task_id=task_id, queue=queue)
    except (BrokerUnavailable, OperationalError) as error:
        cause = error if isinstance(error, BrokerUnavailable) else error.__cause__
        assert isinstance(cause, BrokerUnavailable), repr(error)
        told = "unknown" if cause.outcome_unknown else "failed"
    return Outcome(task_id, told, begun_s, time.monotonic())


@pytest.mark.parametrize("intermittent", [False, True], ids=["throughout", "now and then"])
@pytest.mark.parametrize("mode", TROUBLES, ids=lambda mode: mode.value)
def test_every_publish_has_an_outcome_within_its_deadline(
    server: RedisServer, mode: Mode, intermittent: bool
) -> None:
    queue = f"{mode.value} {intermittent}"
    proxy = TcpProxy(server.port)
    app = App(
        "publisher",
        broker=f"redis://127.0.0.1:{proxy.port}/0",
        broker_publish_timeout=DEADLINE_S,
        broker_transport_options={"max_connections": THREADS},
        set_as_current=False,
    )
    over = threading.Event()

    def disturb() -> None:
        while not over.wait(0.01):
            proxy.set(mode)
            if intermittent and not over.wait(0.02):
                proxy.set(Mode.PASS)

    try:
        assert publish(app, queue).told == "ok"
        proxy.set(mode)
        disturber = threading.Thread(target=disturb)
        if intermittent:
            disturber.start()
        with Standstill() as standstill, ThreadPoolExecutor(THREADS) as pool:
            outcomes = list(pool.map(lambda _: publish(app, queue), range(PUBLISHES)))
        over.set()
        if intermittent:
            disturber.join()
        proxy.set(Mode.PASS)
        again = publish(app, queue)
    finally:
        app.close()
        proxy.close()
    there = Counter(json.loads(document)["headers"]["id"] for document in waiting(server, queue))
    told = Counter(outcome.told for outcome in outcomes)
    # Where this process stood still, publishing did, too.
    slowest_s = max(
        one.ended_s - one.begun_s - standstill.between(one.begun_s, one.ended_s) for one in outcomes
    )
    print(f"{dict(told)}, slowest {slowest_s:.3f} s, {dict(proxy.hits)}")
    assert proxy.hits[mode.value] > 0
    assert slowest_s <= DEADLINE_S + SLACK_S
    assert again.told == "ok"
    for outcome in outcomes:
        if outcome.told == "ok":
            assert there[outcome.task_id] >= 1
        elif outcome.told == "failed":
            assert there[outcome.task_id] == 0


def waiting(server: RedisServer, queue: str) -> list[str]:
    """The documents of a queue."""
    documents: list[str] = json.loads(server.cli("--json", "LRANGE", queue, "0", "-1"))
    return documents

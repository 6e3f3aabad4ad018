"""Documents that a server never takes: said at once, and never tried again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from prefork.engine.app import App
from prefork.transports.base import Depth, Outcome, Outgoing, StoredResult
from prefork.transports.errors import Unacceptable
from prefork.transports.redis import open_results, open_transport
from support.one_child import OneChild
from support.redis_server import RedisServer, running_redis

LIMIT_BYTES = 1 << 20  # the least that a server can be told


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running_redis({"proto-max-bulk-len": str(LIMIT_BYTES)}) as running:
        yield running


@pytest.fixture
def app(server: RedisServer) -> Iterator[App]:
    server.cli("flushall")
    made = App("tests", broker=server.url, backend=server.url, set_as_current=False)
    yield made
    made.close()


@pytest.mark.parametrize("size", [LIMIT_BYTES + 1, 4 * LIMIT_BYTES, 50 * LIMIT_BYTES])
def test_what_is_too_large_for_the_server_is_refused_and_the_next_message_is_sent(
    server: RedisServer, size: int
) -> None:
    server.cli("flushall")
    transport = open_transport(server.url, {})
    for expected in (1, 2):
        # The larger it is, the sooner the server hangs up: while it is still being sent.
        with pytest.raises(Unacceptable, match="proto-max-bulk-len"):
            transport.send([Outgoing("celery", b"x" * size)])
        transport.send([Outgoing("celery", b"{}")])
        assert transport.depth("celery") == Depth(expected, 0, 0)
    transport.close()


def test_a_store_refuses_what_is_too_large_and_takes_the_next(server: RedisServer) -> None:
    results = open_results(server.url, {})
    with pytest.raises(Unacceptable):
        results.store([StoredResult("large", b"x" * 30 * LIMIT_BYTES)])
    results.store([StoredResult("small", b'{"status": "SUCCESS"}')])
    assert results.get(["large", "small"]) == [None, b'{"status": "SUCCESS"}']
    results.close()


def test_a_settle_that_is_refused_leaves_everything_held(server: RedisServer) -> None:
    server.cli("flushall")
    transport = open_transport(server.url, {})
    transport.send([Outgoing("celery", b"{}")])
    consumer = transport.consumer(["celery"], "worker.0.1", "worker")
    (delivery,) = consumer.reserve(1)
    with pytest.raises(Unacceptable):
        consumer.settle([Outcome(delivery.tag, results=(StoredResult("id", b"x" * 2 * LIMIT_BYTES),))])
    assert consumer.fetch(delivery.tag) == delivery
    assert consumer.settle([Outcome(delivery.tag)]) == [True]
    consumer.close()
    transport.close()


def test_delay_says_at_once_that_its_arguments_are_too_large(app: App) -> None:
    @app.task
    def take(data):
        return len(data)

    with pytest.raises(Unacceptable):
        take.delay("x" * 2 * LIMIT_BYTES)
    assert take.delay("x").id
    assert app.client.transport.depth("celery").ready == 1


def test_a_bulk_sends_everything_but_what_is_too_large(app: App) -> None:
    @app.task
    def take(data):
        return len(data)

    found = take.map_async(["x", "x" * 2 * LIMIT_BYTES, "xyz"])
    assert list(found.errors) == [1]
    assert isinstance(found.errors[1], Unacceptable)
    assert app.client.transport.depth("celery").ready == 2


def test_a_result_too_large_for_the_server_is_a_failure_and_the_others_of_its_batch_are_stored(
    app: App,
) -> None:
    @app.task
    def give(size):
        return "x" * size

    # Each of the last three is small enough, and all of them together are not.
    sizes = [3, 2 * LIMIT_BYTES, 5, *[LIMIT_BYTES // 2] * 3]
    results = [give.delay(size) for size in sizes]
    child = OneChild(app)
    child.parts.read_ahead._limit = len(sizes)
    try:
        child.run()
    finally:
        child.close()
    failed = results.pop(1)
    assert [len(result.get(timeout=5)) for result in results] == [3, 5, *[LIMIT_BYTES // 2] * 3]
    assert failed.state == "FAILURE"
    assert "proto-max-bulk-len" in str(failed.result)
    assert app.client.transport.depth("celery") == Depth(0, 0, 0)
    assert list(app.client.transport.dead_letters()) == []


def test_a_retry_too_large_for_the_server_leaves_a_failure_and_a_dead_letter(app: App) -> None:
    @app.task(bind=True)
    def grow(self, data):
        raise self.retry(args=("x" * 2 * LIMIT_BYTES,), countdown=0)

    result = grow.delay("x")
    child = OneChild(app)
    try:
        child.run()
    finally:
        child.close()
    assert result.state == "FAILURE"
    (letter,) = app.client.transport.dead_letters()
    assert letter.reason == "refused"
    assert "proto-max-bulk-len" in letter.causes[-1]
    assert app.client.transport.depth("celery") == Depth(0, 0, 0)

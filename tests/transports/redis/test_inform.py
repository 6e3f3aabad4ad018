"""What a task says on its way is stored without waiting, and only while its message is held."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis import Redis

from prefork.transports.base import Outcome, Outgoing, StoredResult
from prefork.transports.redis import open_transport
from prefork.transports.redis.transport import RedisTransport
from support.redis_server import RedisServer
from support.waiting import eventually

STARTED = b'{"status": "STARTED"}'
DONE = b'{"status": "SUCCESS"}'


@pytest.fixture
def transport(shared_redis: RedisServer, prefix: str) -> Iterator[RedisTransport]:
    opened = open_transport(shared_redis.url, {"global_keyprefix": prefix})
    yield opened
    opened.close()


@pytest.mark.parametrize("more", [False, True], ids=["at once", "with what follows"])
def test_what_is_said_is_stored_before_what_is_settled_later(
    transport: RedisTransport, shared_redis: RedisServer, prefix: str, more: bool
) -> None:
    transport.send([Outgoing("q", b"document")])
    consumer = transport.consumer(["q"], "owner", "worker")
    (delivery,) = consumer.reserve(1)
    server = Redis(port=shared_redis.port)
    consumer.inform(delivery.tag, [StoredResult(f"{prefix}one", STARTED, 60.0, False)], more=more)
    found = eventually(lambda: list(server.scan_iter(f"*{prefix}one")), deadline_s=2.0)
    assert [server.get(name) for name in found] == [STARTED]
    assert 0 < server.pttl(found[0]) <= 60_000
    assert consumer.settle([Outcome(delivery.tag, results=(StoredResult(f"{prefix}one", DONE),))]) == [True]
    assert server.get(found[0]) == DONE
    consumer.close()


def test_nothing_is_said_about_a_message_that_is_not_held_any_more(
    transport: RedisTransport, shared_redis: RedisServer, prefix: str
) -> None:
    transport.send([Outgoing("q", b"document")])
    consumer = transport.consumer(["q"], "owner", "worker")
    (delivery,) = consumer.reserve(1)
    assert consumer.settle([Outcome(delivery.tag)]) == [True]
    consumer.inform(delivery.tag, [StoredResult(f"{prefix}two", STARTED, None, False)])
    assert consumer.reserve(1) == []  # which reads the answer
    assert list(Redis(port=shared_redis.port).scan_iter(f"*{prefix}two")) == []
    consumer.close()

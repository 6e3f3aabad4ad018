"""The rights that the reference page names are enough for everything, and little else is allowed."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefork.transports.amqp import AmqpTransport, Refused, open_transport
from prefork.transports.base import Message, Outcome, Outgoing, Verdict
from support.rabbitmq_server import RabbitMQ
from support.waiting import eventually

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "rabbitmq.md"


@pytest.fixture(scope="module")
def limited(rabbitmq: RabbitMQ) -> Iterator[str]:
    """The address of a virtual host for a user with those rights."""
    found = re.search(r"^\$ names='(.*)'$", PAGE.read_text(), re.MULTILINE)
    assert found is not None
    host = rabbitmq.vhost_url().rpartition("/")[2]
    user = f"u{uuid.uuid4().hex[:8]}"
    rabbitmq.control("add_user", user, "secret")
    rabbitmq.control("set_permissions", "-p", host, user, *[found[1]] * 3)
    yield f"amqp://{user}:secret@127.0.0.1:{rabbitmq.port}/{host}"
    rabbitmq.control("delete_user", user)


@pytest.fixture
def transport(limited: str) -> Iterator[AmqpTransport]:
    opened = open_transport(limited, {"native_delayed_delivery_queue_type": "classic"})
    yield opened
    opened.close()


def test_messages_of_every_fate_pass(transport: AmqpTransport) -> None:
    transport.send([Outgoing("orders", b"now"), Outgoing("celery", b"later", due_wall_s=time.time() + 0.1)])
    consumer = transport.consumer(["orders", "celery"], "o", "w")
    (now,) = eventually(lambda: consumer.reserve(1, timeout_s=1.0))
    assert consumer.mark_started(now.tag)
    assert consumer.settle([Outcome(now.tag, Verdict.DEFER, due_wall_s=time.time() + 0.05)]) == [True]
    bodies = set()
    for _ in range(2):
        (one,) = eventually(lambda: consumer.reserve(1, timeout_s=1.0))
        bodies.add(one.document)
        assert consumer.settle([Outcome(one.tag, Verdict.DEAD, reason="test")]) == [True]
    assert bodies == {b"now", b"later"}
    assert len(list(transport.dead_letters())) == 2
    transport.entomb("id", b"{}")
    transport.send([Outgoing("orders.limited.shop.pack", b"m")])
    assert [one.document for one in consumer.reserve_from("orders.limited.shop.pack", 1)] == [b"m"]


def test_workers_may_agree(transport: AmqpTransport) -> None:
    assert transport.take_tokens("b", 1.0, 1.0, 1).tokens == 1
    assert transport.take_slot("s", 1, "w", "o/1")
    assert transport.lock("l", "v", 10.0) is None
    transport.revoke(["k"], 10.0)
    assert transport.revoked() == ["k"]


def test_workers_may_be_controlled(transport: AmqpTransport) -> None:
    node, client = transport.mailbox("celery", "w@h"), transport.replies("celery", uuid.uuid4().hex)
    transport.broadcast("celery", Message(b"{}", "application/json", "utf-8", {}, {}))
    assert node.receive(5.0)
    transport.reply("reply.celery.pidbox", client._routing_key, Message(b"{}", "a", "b", {}, {}))
    assert client.receive(5.0)
    node.close()
    client.close()


def test_other_queues_are_out_of_bounds(transport: AmqpTransport) -> None:
    with pytest.raises(Refused, match="ACCESS_REFUSED"):
        transport.send([Outgoing("theirs", b"m")])

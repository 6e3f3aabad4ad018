"""Remote control on a real RabbitMQ: what is declared, names that are taken, connections that end."""

from __future__ import annotations

import json
import socket
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from kombu import Connection, pidbox

from prefork.transports.amqp import AmqpTransport
from prefork.transports.amqp.mailbox import AmqpMailbox
from prefork.transports.base import Message
from prefork.transports.errors import BrokerUnavailable
from prefork.transports.mailbox import ControlQueue, reply_exchange, reply_queue, request_queue
from support.rabbitmq_server import RabbitMQ
from support.waiting import Background, eventually, readable

from .conftest import Open


@pytest.fixture
def namespace() -> str:
    return f"ns{uuid.uuid4().hex[:8]}"


@pytest.fixture
def node(open_amqp: Open, namespace: str) -> Iterator[AmqpMailbox]:
    mailbox = open_amqp().mailbox(namespace, "w@h")
    yield mailbox
    mailbox.close()


def request(body: bytes = b"{}") -> Message:
    return Message(body, "application/json", "utf-8", {"clock": 1, "expires": 0}, {"delivery_mode": 2})


def heard(mailbox: AmqpMailbox) -> list[bytes]:
    """What comes, over lost connections."""
    found: list[Message] = []

    def look() -> bool:
        try:
            found.extend(mailbox.receive(0.1))
        except BrokerUnavailable:
            return False
        return bool(found)

    eventually(look)
    return [one.body for one in found]


def declared(transport: AmqpTransport, queue: str, **arguments: int) -> None:
    """Declare a queue as Celery does, but durable; clashes if it is another."""
    transport._publisher.ask(
        lambda channel: channel.queue_declare(
            queue, durable=True, exclusive=False, auto_delete=True, arguments=dict(arguments)
        )
    )


def test_queues_are_declared_as_celery_declares_them(open_amqp: Open, namespace: str) -> None:
    transport = open_amqp()
    shared = ControlQueue(ttl_s=300.0, expires_s=10.0, exclusive=False)
    expected = {"x-expires": 10000, "x-message-ttl": 300000}
    node = transport.mailbox(namespace, "w@h", shared)
    client = transport.replies(namespace, "me", shared)
    declared(transport, request_queue(namespace, "w@h"), **expected)
    declared(transport, reply_queue(reply_exchange(namespace), "me"), **expected)
    node.close()
    client.close()


def test_a_second_worker_of_one_name_is_refused_and_told_why(
    open_amqp: Open, namespace: str, node: AmqpMailbox
) -> None:
    with pytest.raises(BrokerUnavailable, match="--hostname"):
        open_amqp().mailbox(namespace, "w@h")
    node.close()
    open_amqp().mailbox(namespace, "w@h").close()


def test_a_lost_connection_is_made_anew(open_amqp: Open, namespace: str, node: AmqpMailbox) -> None:
    wire = node._link.current()
    assert wire is not None
    wire.sock.shutdown(socket.SHUT_RDWR)
    assert readable(node.fileno(), 5.0)
    with pytest.raises(BrokerUnavailable):
        node.receive()
    with pytest.raises(BrokerUnavailable, match="broken"):
        node.receive()
    assert readable(node.fileno(), 5.0), "nobody says when to try again"
    assert node.receive() == []
    open_amqp().broadcast(namespace, request(b"after"))
    assert heard(node) == [b"after"]


def test_a_queue_that_is_deleted_is_declared_anew(open_amqp: Open, namespace: str) -> None:
    transport = open_amqp()
    mailbox = transport.mailbox(namespace, "w@h", ControlQueue(exclusive=False))
    transport._publisher.ask(lambda channel: channel.queue_delete(request_queue(namespace, "w@h")))
    with pytest.raises(BrokerUnavailable, match="cancelled"):
        mailbox.receive(5.0)
    assert eventually(lambda: _quiet(mailbox))
    transport.broadcast(namespace, request(b"after"))
    assert heard(mailbox) == [b"after"]
    mailbox.close()


def _quiet(mailbox: AmqpMailbox) -> bool:
    try:
        return mailbox.receive() == []
    except BrokerUnavailable:
        return False


def test_a_request_cannot_have_its_reply_sent_to_another_kind_of_exchange(
    open_amqp: Open, queue: str
) -> None:
    transport = open_amqp()
    transport._publisher.declare(lambda _, channel: channel.exchange_declare(queue, "topic", durable=True))
    with pytest.raises(BrokerUnavailable, match=queue):
        transport.reply(queue, "me", request())


def test_a_mailbox_that_cannot_be_opened_leaves_nothing_open(open_amqp: Open, namespace: str) -> None:
    transport = open_amqp("amqp://guest:guest@127.0.0.1:1//", socket_connect_timeout=0.2)
    with pytest.raises(BrokerUnavailable, match="cannot be reached"):
        transport.mailbox(namespace, "w@h")


def test_heartbeats_are_sent_when_their_time_has_come(node: AmqpMailbox) -> None:
    wire = node._link.current()
    assert wire is not None
    assert wire.heartbeat == 60
    node._beat_mono_s = 0.0
    node.receive()
    assert node._beat_mono_s > 0.0


def pidbox_of(namespace: str) -> pidbox.Mailbox:
    return pidbox.Mailbox(
        namespace,
        type="fanout",
        accept=["json"],
        serializer="json",
        queue_ttl=300.0,
        queue_expires=10.0,
        reply_queue_ttl=300.0,
        reply_queue_expires=10.0,
    )


def test_kombus_pidbox_hears_us(rabbitmq: RabbitMQ, open_amqp: Open, namespace: str) -> None:
    transport = open_amqp()
    with Connection(rabbitmq.url) as connection:
        found: list[Any] = []
        channel = connection.channel()
        node = pidbox_of(namespace)(connection).Node("celery@h", state=None, channel=channel)
        node.handlers["ping"] = lambda state, **_: found.append("ping") or {"ok": "pong"}
        consumer = node.listen(callback=node.handle_message)
        replies = transport.replies(namespace, "me")
        reply_to = b'{"exchange": "%s", "routing_key": "me"}' % reply_exchange(namespace).encode()
        body = b'{"method": "ping", "arguments": {}, "ticket": "t", "reply_to": ' + reply_to + b"}"
        transport.broadcast(namespace, request(body))
        while not found:
            connection.drain_events(timeout=5.0)
        (answer,) = replies.receive(5.0)
        assert (answer.body, answer.headers["ticket"]) == (b'{"celery@h": {"ok": "pong"}}', "t")
        replies.close()
        consumer.cancel()


def test_we_hear_kombus_pidbox(
    rabbitmq: RabbitMQ, open_amqp: Open, namespace: str, node: AmqpMailbox
) -> None:
    transport = open_amqp()
    with Connection(rabbitmq.url) as connection:
        asking = pidbox_of(namespace)(connection)
        answers = Background(lambda: asking.call(["w@h"], "ping", timeout=5.0))
        (asked,) = node.receive(5.0)
        assert b'"method": "ping"' in asked.body
        assert asked.content_type == "application/json"
        ticket, oid = _reply_to(asked)
        answer = Message(
            b'{"w@h": {"ok": "pong"}}', "application/json", "utf-8", {"ticket": ticket, "clock": 2}, {}
        )
        transport.reply(reply_exchange(namespace), oid, answer)
        assert answers.result() == [{"w@h": {"ok": "pong"}}]


def _reply_to(asked: Message) -> tuple[str, str]:
    said = json.loads(asked.body)
    return said["ticket"], said["reply_to"]["routing_key"]

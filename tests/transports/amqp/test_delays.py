"""Delayed messages on a real RabbitMQ: they reach the queues that they would have reached undelayed."""

from __future__ import annotations

import re
import shlex
import time
from pathlib import Path
from typing import Any

import amqp
import kombu
import pytest
from kombu.transport.native_delayed_delivery import (
    bind_queue_to_native_delayed_delivery_exchange,
    calculate_routing_key,
)

from prefork.transports.amqp import AmqpTransport, Refused, Unroutable
from prefork.transports.amqp.consumer import AmqpConsumer
from prefork.transports.amqp.errors import DeclarationClash
from prefork.transports.amqp.ladder import STRAYS_QUEUE
from prefork.transports.amqp.publisher import Publisher
from prefork.transports.amqp.settings import read_settings
from prefork.transports.amqp.strays import Strays
from prefork.transports.amqp.topology import Topology
from prefork.transports.base import Delivery, Message, Outcome, Outgoing, QueueDeclaration, Verdict
from prefork.transports.envelope import decode, encode
from prefork.transports.errors import BrokerUnavailable
from prefork.transports.url import parse
from support.rabbitmq_server import RabbitMQ
from support.waiting import eventually

from .conftest import Open
from .test_publishing import raw_channel

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "rabbitmq.md"
DELAYS_S = (0.1, 1.1, 2.1)
"""Below a second, on the level that Celery has for one, and above."""


def document(body: bytes = b"[[], {}, {}]") -> bytes:
    return encode(Message(body, "application/json", "utf-8", {"task": "t", "id": "i"}, {}))


def later(queue: str, delay_s: float = 0.1, **to: str) -> Outgoing:
    return Outgoing(queue, document(), due_wall_s=time.time() + delay_s, **to)


def taken(consumer: AmqpConsumer, within_s: float = 8.0) -> list[str]:
    """The queues whose messages come, up to the first that does, and whatever came together with it."""
    return [one.queue for one in eventually(lambda: consumer.reserve(10, timeout_s=0.2), deadline_s=within_s)]


def deleted(rabbitmq: RabbitMQ, queue: str, url: str = "") -> None:
    host = parse(url).path[1:] if url else "/"
    with amqp.Connection(f"127.0.0.1:{rabbitmq.port}", virtual_host=host) as connection:
        connection.channel().queue_delete(queue)


def taken_after_all(consumer: AmqpConsumer) -> list[Delivery]:
    """What comes; where the broker has just closed the channel, none."""
    try:
        return consumer.reserve(1, timeout_s=0.1)
    except BrokerUnavailable:
        return []


@pytest.mark.parametrize("idle", [True, False])
def test_a_queue_that_was_deleted_under_its_consumer_gets_delayed_messages_again(
    open_amqp: Open, rabbitmq: RabbitMQ, queue: str, idle: bool
) -> None:
    client, consumer = open_amqp(), open_amqp().consumer([queue], f"{queue}.o", "w")
    client.send([later(queue)])
    (first,) = eventually(lambda: taken_after_all(consumer))
    assert consumer.settle([Outcome(first.tag)]) == [True]
    if idle:
        assert consumer.reserve(1, timeout_s=0.05) == []
    client.send([later(queue, 60.0)])  # it knows now, for a second, that all is bound
    deleted(rabbitmq, queue)
    eventually(lambda: taken_after_all(consumer) == [] and exists(client, queue))
    client.send([later(queue)])
    (again,) = eventually(lambda: taken_after_all(consumer))
    outcome = Outcome(again.tag, Verdict.DEFER, due_wall_s=time.time() + 0.1)
    assert consumer.settle([outcome]) == [True]
    assert taken(consumer) == [queue]


def exists(transport: AmqpTransport, queue: str) -> bool:
    return queue in transport.queues()


def test_a_queue_that_was_deleted_after_plain_messages_takes_the_first_delayed_one(
    open_amqp: Open, queue: str, rabbitmq: RabbitMQ
) -> None:
    transport = open_amqp()
    transport.send([Outgoing(queue, b"plain")])
    deleted(rabbitmq, queue)
    transport.send([Outgoing(queue, b"delayed", due_wall_s=time.time() + 0.5)])
    eventually(lambda: transport.depth(queue).ready == 1)


def test_a_queue_that_was_deleted_while_nobody_reads_it_is_bound_again_by_who_sends(
    rabbitmq: RabbitMQ, queue: str
) -> None:
    now_s = 100.0
    options = {"native_delayed_delivery_queue_type": "classic"}
    topology = Topology(read_settings(rabbitmq.url, options), lambda: now_s)
    channel = raw_channel(rabbitmq)
    topology.delayed(channel, queue)
    channel.queue_delete(queue)
    now_s += 1.0
    topology.delayed(channel, queue)
    key = ".".join("0" * 27) + ".prefork." + ".".join("00000001") + f".queue.{queue}"
    channel.basic_publish(amqp.Message("m"), "prefork_ladder_8ms", key)
    eventually(lambda: channel.queue_declare(queue, passive=True).message_count == 1)
    channel.connection.close()


def test_who_awaits_no_confirms_is_told_that_a_queue_is_another_one_by_now(
    rabbitmq: RabbitMQ, queue: str
) -> None:
    now_s = 100.0
    options = {"native_delayed_delivery_queue_type": "classic", "confirm_publish": False}
    topology = Topology(read_settings(rabbitmq.url, options), lambda: now_s)
    channel = raw_channel(rabbitmq)
    topology.delayed(channel, queue)
    channel.queue_delete(queue)
    channel.queue_declare(queue, durable=True, auto_delete=False, arguments={"x-max-priority": 3})
    now_s += 1.0
    with pytest.raises(DeclarationClash):
        topology.delayed(channel, queue)
    channel.connection.close()


@pytest.mark.parametrize("delay_s", DELAYS_S)
@pytest.mark.parametrize(
    ("kind", "binding", "key", "reached"),
    [
        ("direct", "dk", "dk", ["one"]),
        ("topic", "orders.*", "orders.new", ["one", "two"]),
        ("topic", "orders.new", "orders.new", ["one", "two"]),
        ("fanout", "", "celery", ["one", "two"]),
    ],
)
def test_an_exchange_leads_the_delayed_where_it_leads_others(
    open_amqp: Open, queue: str, kind: str, binding: str, key: str, reached: list[str], delay_s: float
) -> None:
    exchange = f"{queue}.x"
    declarations = {
        f"{queue}.one": QueueDeclaration(f"{queue}.one", exchange, kind, binding or "celery"),
        f"{queue}.two": QueueDeclaration(f"{queue}.two", exchange, kind, "#" if kind == "topic" else "other"),
        f"{queue}.three": QueueDeclaration(f"{queue}.three", f"{queue}.y", kind, binding or "celery"),
        queue: QueueDeclaration(queue, exchange=queue, routing_key=key),
    }
    transport = open_amqp(declarations=declarations)
    consumer = transport.consumer(list(declarations), f"{queue}.o", "w")
    consumer.reserve(1)
    transport.send([later(f"{queue}.one", delay_s, exchange=exchange, routing_key=key)])
    found: list[Any] = []

    def come() -> bool:
        found.extend(consumer.reserve(10, timeout_s=0.2))
        return len(found) >= len(reached)

    eventually(come)
    found.extend(consumer.reserve(10, timeout_s=0.3))
    assert sorted(one.queue for one in found) == [f"{queue}.{name}" for name in reached]
    for one in found:
        info = decode(one.document).message().properties["delivery_info"]
        assert info == {"exchange": exchange, "routing_key": key}


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_delayed_broadcasts_that_nobody_is_there_for_hold_up_nothing_else(
    open_amqp: Open, rabbitmq: RabbitMQ, queue_type: str
) -> None:
    news = QueueDeclaration("news", "news", "fanout", broadcast=True)
    url = rabbitmq.vhost_url()
    transport = open_amqp(url, declarations={"news": news}, native_delayed_delivery_queue_type=queue_type)
    consumer = transport.consumer(["celery"], "o", "w")
    consumer.reserve(1)
    to = {"exchange": "news", "routing_key": "news"}
    transport.send([later("news", 0.1, **to) for _ in range(40)])  # RabbitMQ hands on 32 at a time
    eventually(lambda: transport.depth(STRAYS_QUEUE).ready == 40, deadline_s=8.0)
    transport.send([later("celery")])
    assert taken(consumer) == ["celery"]
    copy = transport.consumer(["news~here"], "o2", "w")
    copy.reserve(1)
    transport.send([later("news", 0.1, **to)])
    assert taken(copy) == ["news~here"]


@pytest.mark.parametrize("length", [160, 170, 240])
@pytest.mark.parametrize("kind", ["direct", "topic", "fanout"])
def test_a_queue_is_read_however_long_the_name_of_its_exchange_is(
    open_amqp: Open, queue: str, kind: str, length: int, caplog: pytest.LogCaptureFixture
) -> None:
    exchange = f"{queue}.".ljust(length, "x")
    transport = open_amqp(declarations={queue: QueueDeclaration(queue, exchange, kind, "key")})
    consumer = transport.consumer([queue], f"{queue}.o", "w")
    consumer.reserve(1)
    transport.send([Outgoing(queue, document(), exchange=exchange, routing_key="key")])
    assert taken(consumer) == [queue]
    transport.send([later(queue)])
    assert taken(consumer) == [queue]
    assert not caplog.records


def test_a_delayed_message_to_a_key_that_leads_nowhere_is_refused_and_makes_no_queue(
    open_amqp: Open, queue: str
) -> None:
    described = QueueDeclaration(queue, exchange=f"{queue}.x", routing_key="dk")
    transport = open_amqp(declarations={queue: described})
    with pytest.raises(Unroutable):
        transport.send([later(f"{queue}.no", exchange=f"{queue}.x", routing_key=f"{queue}.no")])
    with pytest.raises(Refused):
        transport.send([later(f"{queue}.no", exchange=f"{queue}.nowhere", routing_key="k")])
    assert not exists(transport, f"{queue}.no")


def test_who_does_not_know_where_an_exchange_leads_sends_at_once(open_amqp: Open, queue: str) -> None:
    described = QueueDeclaration(queue, exchange=f"{queue}.x", routing_key="dk")
    consumer = open_amqp(declarations={queue: described}).consumer([queue], f"{queue}.o", "w")
    consumer.reserve(1)
    sender = open_amqp()
    sender.send([later("dk", 60.0, exchange=f"{queue}.x", routing_key="dk")])
    (early,) = eventually(lambda: consumer.reserve(1, timeout_s=0.2))
    assert consumer.settle([Outcome(early.tag, Verdict.DEFER, due_wall_s=time.time() + 0.2)]) == [True]
    assert taken(consumer) == [queue]
    assert not exists(sender, "dk")


@pytest.mark.parametrize("delay_s", DELAYS_S)
def test_what_a_worker_of_celery_has_bound_makes_no_copies_of_a_delayed_message(
    open_amqp: Open, rabbitmq: RabbitMQ, delay_s: float
) -> None:
    url = rabbitmq.vhost_url()
    transport = open_amqp(url)
    consumer = transport.consumer(["celery"], "o", "w")
    consumer.reserve(1)
    transport.send([later("celery", 60.0)])
    theirs = [
        kombu.Queue("events", kombu.Exchange("events", type="fanout"), routing_key="celery"),
        kombu.Queue("audit", kombu.Exchange("audit", type="topic"), routing_key="celery"),
        kombu.Queue("all", kombu.Exchange("all", type="topic"), routing_key="#"),
    ]
    with kombu.Connection(url) as connection:
        for one in theirs:
            one.bind(connection.channel()).declare()
            bind_queue_to_native_delayed_delivery_exchange(connection, one)
    transport.send([later("celery", delay_s)])
    assert taken(consumer) == ["celery"]
    assert consumer.reserve(1, timeout_s=0.2) == []
    assert [transport.depth(one.name).ready for one in theirs] == [0, 0, 0]


def test_a_worker_of_celery_may_send_a_delayed_message_back_where_it_came_from(
    open_amqp: Open, rabbitmq: RabbitMQ, queue: str
) -> None:
    transport = open_amqp()
    transport.send([later(queue)])
    channel = raw_channel(rabbitmq)
    came = eventually(lambda: channel.basic_get(queue, no_ack=True))
    info = came.delivery_info  # which is where Celery sends a retry
    channel.basic_publish(amqp.Message("again"), info["exchange"], info["routing_key"])
    eventually(lambda: channel.queue_declare(queue, passive=True).message_count == 1)
    channel.connection.close()


@pytest.mark.parametrize("by_exchange", [False, True])
def test_what_found_no_queue_when_its_time_came_is_brought_to_it_as_soon_as_there_is_one(
    open_amqp: Open, rabbitmq: RabbitMQ, queue: str, caplog: pytest.LogCaptureFixture, by_exchange: bool
) -> None:
    declared = {queue: QueueDeclaration(queue, f"{queue}.x", "topic", "k.*")}
    url, to = rabbitmq.vhost_url(), {"exchange": f"{queue}.x", "routing_key": "k.1"} if by_exchange else {}
    settings = read_settings(url, {"declarations": declared})
    now_s = 0.0
    transport = open_amqp(url, declarations=declared)
    strays = Strays(publisher := Publisher(settings), settings, lambda: now_s)
    try:
        # The queue goes before they are due, wherever the machine stands still.
        transport.send([later(queue, 2.1, **to), later(queue, 2.0, **to)])
        deleted(rabbitmq, queue, url)
        eventually(lambda: transport.depth(STRAYS_QUEUE).ready == 2)
        if not by_exchange:  # to send to an exchange declares its queues
            assert strays.bring_home() == 0
            assert caplog.text == "", "a worker that starts has not declared its queues yet"
            now_s += 6.0
            assert strays.bring_home() == 0
            assert f"queue {queue!r}" in caplog.text
            assert transport.depth(STRAYS_QUEUE).ready == 2
        consumer = transport.consumer([queue], "o", "w")
        consumer.reserve(1)
        now_s += 60.0
        assert strays.bring_home() == 2
        first = taken(consumer)  # an idle consumer is given one, and then the other
        assert (first if len(first) == 2 else first + taken(consumer)) == [queue, queue]
        assert strays.bring_home() == 0  # too early to look
        assert transport.depth(STRAYS_QUEUE).ready == 0
    finally:
        publisher.close()


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_a_policy_of_the_operator_has_strays_of_celerys_clients_brought_home_as_well(
    open_amqp: Open, rabbitmq: RabbitMQ, queue_type: str
) -> None:
    found = re.search(r"^\$ rabbitmqctl (set_policy .*)$", PAGE.read_text(), re.MULTILINE)
    assert found is not None
    url = rabbitmq.vhost_url()
    host = parse(url).path[1:]
    rabbitmq.control(*[host if word == "shop" else word for word in shlex.split(found[1])])
    transport = open_amqp(url, native_delayed_delivery_queue_type=queue_type)
    transport.send([later("other", 60.0)])
    with amqp.Connection(f"127.0.0.1:{rabbitmq.port}", virtual_host=host) as connection:
        key = calculate_routing_key(1, "celery")
        connection.channel().basic_publish(amqp.Message(b"m"), "celery_delayed_27", key)
    eventually(lambda: transport.depth(STRAYS_QUEUE).ready == 1)
    consumer = transport.consumer(["celery"], "o", "w")
    consumer.reserve(1)
    transport.promote()
    assert taken(consumer) == ["celery"]

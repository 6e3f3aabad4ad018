"""Sending to a real RabbitMQ: confirmed, within its time, and every refusal an error with a name."""

from __future__ import annotations

import threading
import time
from typing import Any

import amqp
import pytest

from prefork.transports.amqp import AmqpTransport, DeclarationClash, Unroutable
from prefork.transports.amqp.codec import Unencodable
from prefork.transports.amqp.ladder import KEY_BYTES_MAX
from prefork.transports.base import Message, Outcome, Outgoing, QueueDeclaration
from prefork.transports.envelope import encode
from prefork.transports.errors import BrokerFull, BrokerUnavailable
from support.forked import in_child
from support.rabbitmq_server import RabbitMQ
from support.tcp_proxy import Mode, TcpProxy
from support.waiting import Background, eventually

from .conftest import Open


def raw_channel(rabbitmq: RabbitMQ) -> Any:
    connection = amqp.Connection(f"127.0.0.1:{rabbitmq.port}", connect_timeout=5)
    connection.connect()
    return connection.channel()


def test_a_peer_sees_the_message_that_celery_would_send(
    open_amqp: Open, rabbitmq: RabbitMQ, queue: str
) -> None:
    headers = {"task": "t", "id": "i", "eta": None, "timelimit": [None, 3], "retries": 0}
    document = encode(
        Message(
            b"[[1], {}, {}]", "application/json", "utf-8", headers, {"correlation_id": "i", "reply_to": "r"}
        )
    )
    open_amqp().send([Outgoing(queue, document, priority=4)])
    channel = raw_channel(rabbitmq)
    message = channel.basic_get(queue, no_ack=True)
    assert message.body == "[[1], {}, {}]" or message.body == b"[[1], {}, {}]"
    assert message.properties == {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "application_headers": headers,
        "delivery_mode": 2,
        "priority": 4,
        "correlation_id": "i",
        "reply_to": "r",
    }
    assert message.delivery_info["exchange"] == ""
    channel.connection.close()


def test_queues_are_declared_as_celery_declares_them(open_amqp: Open, rabbitmq: RabbitMQ, queue: str) -> None:
    open_amqp().send([Outgoing(queue, b"m")])
    channel = raw_channel(rabbitmq)
    channel.exchange_declare(queue, "direct", durable=True, auto_delete=False)
    channel.queue_declare(queue, durable=True, auto_delete=False)
    channel.basic_publish(amqp.Message("x"), exchange=queue, routing_key=queue)
    eventually(lambda: channel.queue_declare(queue, passive=True).message_count == 2)
    channel.connection.close()


def test_a_queue_of_quorum_and_one_of_priorities(open_amqp: Open, queue: str) -> None:
    declarations = {
        f"{queue}.q": QueueDeclaration(f"{queue}.q", arguments={"x-queue-type": "quorum"}),
        f"{queue}.p": QueueDeclaration(f"{queue}.p", arguments={"x-max-priority": 9}),
    }
    transport = open_amqp(declarations=declarations)
    for name in declarations:
        transport.send([Outgoing(name, b"low"), Outgoing(name, b"high", priority=9)])
    by_priority = transport.consumer([f"{queue}.p"], f"{queue}.o1", "w").reserve(2)
    assert [one.document for one in by_priority] == [b"high", b"low"]
    of_quorum = transport.consumer([f"{queue}.q"], f"{queue}.o2", "w").reserve(2)
    # RabbitMQ 4 knows two priorities in such a queue, RabbitMQ 3 none.
    assert sorted(one.document for one in of_quorum) == [b"high", b"low"]


@pytest.mark.parametrize(
    ("kind", "key", "routing_key", "arrives"),
    [
        ("topic", "orders.*", "orders.new", True),
        ("topic", "orders.*", "invoices.new", False),
        ("fanout", "", "whatever", True),
        ("direct", "k", "k", True),
    ],
)
def test_an_exchange_leads_where_its_bindings_lead(
    open_amqp: Open, queue: str, kind: str, key: str, routing_key: str, arrives: bool
) -> None:
    described = QueueDeclaration(queue, exchange=f"{queue}.x", exchange_type=kind, routing_key=key or queue)
    transport = open_amqp(declarations={queue: described})
    message = Outgoing(queue, b"m", exchange=f"{queue}.x", routing_key=routing_key)
    if arrives:
        transport.send([message])
    else:
        with pytest.raises(Unroutable) as raised:
            transport.send([message])
        assert (raised.value.exchange, raised.value.routing_key) == (f"{queue}.x", routing_key)
    assert transport.depth(queue).ready == int(arrives)


def test_a_clash_names_queue_and_argument_and_hurts_no_other_queue(open_amqp: Open, queue: str) -> None:
    open_amqp().send([Outgoing(queue, b"m")])
    other = f"{queue}.other"
    declarations = {queue: QueueDeclaration(queue, arguments={"x-max-priority": 9})}
    transport = open_amqp(declarations=declarations)
    with pytest.raises(DeclarationClash) as raised:
        transport.send([Outgoing(queue, b"m")])
    assert (raised.value.name, raised.value.argument) == (queue, "x-max-priority")
    transport.send([Outgoing(other, b"m")])
    consumer = transport.consumer([queue, other], f"{queue}.o", "w")
    assert [one.queue for one in consumer.reserve(10)] == [other]


def test_a_clash_of_an_exchange_names_the_exchange(open_amqp: Open, rabbitmq: RabbitMQ, queue: str) -> None:
    channel = raw_channel(rabbitmq)
    channel.exchange_declare(f"{queue}.x", "topic", durable=True, auto_delete=False)
    transport = open_amqp(declarations={queue: QueueDeclaration(queue, f"{queue}.x", "direct", "k")})
    with pytest.raises(DeclarationClash, match=f"exchange '{queue}.x' exists and differs in 'type'") as clash:
        transport.send([Outgoing(queue, b"m")])
    assert (clash.value.name, clash.value.argument) == (f"{queue}.x", "type")
    channel.connection.close()


def test_a_queue_that_was_deleted_is_declared_again_by_the_next_message(
    open_amqp: Open, rabbitmq: RabbitMQ, queue: str
) -> None:
    transport = open_amqp()
    transport.send([Outgoing(queue, b"lost with its queue")])
    channel = raw_channel(rabbitmq)
    channel.queue_delete(queue)
    transport.send([Outgoing(queue, b"one"), Outgoing(queue, b"two")])
    assert transport.depth(queue).ready == 2
    channel.connection.close()


def test_what_has_no_form_in_amqp_is_refused_before_anything_is_sent(open_amqp: Open, queue: str) -> None:
    transport = open_amqp()
    huge = encode(Message(b"[]", "application/json", "utf-8", {"n": 1 << 70}, {}))
    for bad in (
        Outgoing(queue, huge),
        Outgoing("q" * 256, b"m"),
        Outgoing(queue + "q" * KEY_BYTES_MAX, b"m", due_wall_s=time.time() + 60),
        Outgoing(queue, b"m", due_wall_s=time.time() + 2.0**28 + 60),
    ):
        with pytest.raises((Unencodable, ValueError)):
            transport.send([Outgoing(queue, b"good"), bad])
    assert transport.depth(queue).ready == 0


def test_without_confirms_nothing_is_waited_for(open_amqp: Open, queue: str) -> None:
    transport = open_amqp(confirm_publish=False)
    for _ in range(50):
        transport.send([Outgoing(queue, b"m")])
    deadline = time.monotonic() + 5
    while transport.depth(queue).ready < 50:
        assert time.monotonic() < deadline


def test_many_messages_of_any_size_are_one_call(open_amqp: Open, queue: str) -> None:
    transport = open_amqp()
    sizes = [0, 1, 131_064, 131_065, 300_000]
    transport.send([Outgoing(queue, b"x" * size) for size in sizes] + [Outgoing(queue, b"m")] * 2000)
    received = transport.consumer([queue], f"{queue}.o", "w").reserve(5)
    assert [len(one.document) for one in received] == sizes
    assert transport.depth(queue).ready == 2000


def test_threads_share_one_connection(open_amqp: Open, queue: str) -> None:
    transport = open_amqp()
    start = threading.Barrier(8)

    def sending() -> None:
        start.wait()
        for _ in range(25):
            transport.send([Outgoing(queue, b"m")])

    for one in [Background(sending) for _ in range(8)]:
        one.result(30)
    assert transport.depth(queue).ready == 200


def test_a_fork_opens_a_connection_of_its_own_and_leaves_the_parents_alone(
    open_amqp: Open, queue: str
) -> None:
    transport = open_amqp()
    transport.send([Outgoing(queue, b"parent")])

    def child() -> None:
        transport.send([Outgoing(queue, b"child")])
        transport.close()

    in_child(child)
    transport.send([Outgoing(queue, b"parent again")])
    assert transport.depth(queue).ready == 3


def test_the_next_server_of_a_failover_list_takes_over(
    open_amqp: Open, rabbitmq: RabbitMQ, queue: str
) -> None:
    transport = open_amqp(f"amqp://guest:hush@127.0.0.1:1//;{rabbitmq.url}")
    transport.send([Outgoing(queue, b"m")])
    assert transport.depth(queue).ready == 1


@pytest.mark.parametrize(
    ("user", "path", "said"),
    [("guest:wrong-secret", "//", "ACCESS_REFUSED"), ("guest:guest", "/no-such-vhost", "no-such-vhost")],
)
def test_who_is_not_let_in_is_told_why_and_without_secrets(
    open_amqp: Open, rabbitmq: RabbitMQ, queue: str, user: str, path: str, said: str
) -> None:
    transport = open_amqp(f"amqp://{user}@127.0.0.1:{rabbitmq.port}{path}")
    with pytest.raises(BrokerUnavailable) as raised:
        transport.send([Outgoing(queue, b"m")])
    assert said in str(raised.value)
    assert "wrong-secret" not in str(raised.value)
    assert raised.value.outcome_unknown is False


@pytest.mark.parametrize("mode", [Mode.BLACK_HOLE, Mode.RESET, Mode.HALF_OPEN])
def test_a_broken_network_ends_in_an_error_within_the_deadline(
    open_amqp: Open, rabbitmq: RabbitMQ, queue: str, mode: Mode
) -> None:
    proxy = TcpProxy(rabbitmq.port)
    # It connects and sends within this time, wherever the machine stands still.
    deadline_s = 3.0
    transport = open_amqp(f"amqp://guest:guest@127.0.0.1:{proxy.port}//", publish_deadline=deadline_s)
    try:
        transport.send([Outgoing(queue, b"m")])
        proxy.set(mode)
        started_mono_s = time.monotonic()
        with pytest.raises(BrokerUnavailable) as raised:
            transport.send([Outgoing(queue, b"m")])
        assert time.monotonic() - started_mono_s < deadline_s + 1.0
        assert raised.value.outcome_unknown is True
        proxy.set(Mode.PASS)
        transport.send([Outgoing(queue, b"m")])
        assert transport.depth(queue).ready >= 2
    finally:
        transport.close()
        proxy.close()


def test_an_alarm_is_an_error_within_the_deadline_and_ends_with_the_alarm(
    open_amqp: Open, rabbitmq: RabbitMQ, queue: str
) -> None:
    transport = open_amqp(publish_deadline=1.0)
    transport.send([Outgoing(queue, b"before"), Outgoing(queue, b"before too")])
    consumer = transport.consumer([queue], f"{queue}.o", "w")
    (held,) = consumer.reserve(1)
    with rabbitmq.alarm():
        started_mono_s = time.monotonic()
        for _ in range(2):
            with pytest.raises(BrokerFull):
                transport.send([Outgoing(queue, b"during")])
        assert time.monotonic() - started_mono_s < 4.0
        assert consumer.settle([Outcome(held.tag)]) == [True], "acknowledgements go on"
        (given,) = consumer.reserve(1)
        assert consumer.give_back([given.tag]) == 1, "and so does giving back"
    deadline = time.monotonic() + 10
    while True:
        try:
            transport.send([Outgoing(queue, b"after")])
            break
        except BrokerFull:
            assert time.monotonic() < deadline


def of_a_task(task_id: str, body: bytes = b"[]") -> bytes:
    headers = {"task": "t", "id": task_id}
    return encode(Message(body, "application/json", "utf-8", headers, {"correlation_id": task_id}))


def sent(transport: AmqpTransport, *messages: Outgoing) -> bool:
    try:
        transport.send(messages)
    except BrokerFull:
        return False
    return True


def tried_until_stored(transport: AmqpTransport, message: Outgoing) -> None:
    eventually(lambda: sent(transport, message), deadline_s=10.0)


def refused_by_an_alarm(transport: AmqpTransport, message: Outgoing) -> bool:
    """Whether the sender is left in doubt."""
    with pytest.raises(BrokerFull, match="alarm") as raised:
        transport.send([message])
    return raised.value.outcome_unknown


@pytest.mark.parametrize("delay_s", [0.0, 8.0])
def test_what_is_sent_again_and_again_during_an_alarm_is_stored_once(
    open_amqp: Open, rabbitmq: RabbitMQ, queue: str, delay_s: float
) -> None:
    transport = open_amqp(publish_deadline=1.0)
    due_wall_s = time.time() + delay_s if delay_s else None
    doubtful = Outgoing(queue, of_a_task("first"), due_wall_s=due_wall_s)
    transport.send([Outgoing(queue, of_a_task("before"), due_wall_s=due_wall_s)])
    with rabbitmq.alarm():
        for _ in range(3):
            assert refused_by_an_alarm(transport, doubtful), "it may come"
        for number in range(2):
            other = Outgoing(queue, of_a_task(f"other {number}"))
            assert not refused_by_an_alarm(transport, other), "it cannot come"
        begun_mono_s = time.monotonic()
        transport.depth(queue)
        assert time.monotonic() - begun_mono_s < 1.0, "questions are answered"
    tried_until_stored(transport, doubtful)
    tried_until_stored(transport, Outgoing(queue, of_a_task("after")))
    eventually(lambda: transport.depth(queue).ready >= 3, deadline_s=delay_s + 5.0)
    rabbitmq.control("list_connections")  # in the meantime everything would have come that is to come
    assert transport.depth(queue).ready == 3
    tried_until_stored(transport, doubtful)
    assert transport.depth(queue).ready == 4, "what is sent once more after that is meant to be"


def test_an_alarm_lasts_for_who_has_lost_the_connection_that_knew_of_it(
    open_amqp: Open, rabbitmq: RabbitMQ, queue: str
) -> None:
    transport = open_amqp(publish_deadline=1.0)
    transport.send([Outgoing(queue, of_a_task("before"))])
    doubtful = Outgoing(queue, of_a_task("first"))
    with rabbitmq.alarm():
        assert refused_by_an_alarm(transport, doubtful)
        for _ in range(3):
            kept = transport._publisher._kept
            assert kept is not None
            kept.link.drop()
            assert not refused_by_an_alarm(transport, doubtful), "only that was asked"
    tried_until_stored(transport, doubtful)
    rabbitmq.control("list_connections")
    assert transport.depth(queue).ready <= 3, "one of before, one that was on its way, one sent again"


def test_of_several_messages_those_are_sent_again_that_were_not_stored(
    open_amqp: Open, rabbitmq: RabbitMQ, queue: str
) -> None:
    transport = open_amqp(publish_deadline=1.0)
    # RabbitMQ takes one without a body even then, and stops at the next.
    several = [Outgoing(queue, of_a_task("stored", b"")), Outgoing(queue, of_a_task("not read"))]
    transport.send([Outgoing(queue, of_a_task("before"))])
    with rabbitmq.alarm():
        with pytest.raises(BrokerFull):
            transport.send(several)
        assert transport.depth(queue).ready == 2
    eventually(lambda: sent(transport, *several, Outgoing(queue, of_a_task("after"))), deadline_s=10.0)
    rabbitmq.control("list_connections")
    assert transport.depth(queue).ready == 4


def test_a_fork_in_an_alarm_asks_for_itself(open_amqp: Open, rabbitmq: RabbitMQ, queue: str) -> None:
    transport = open_amqp(publish_deadline=1.0)
    message = Outgoing(queue, of_a_task("first"))
    transport.send([Outgoing(queue, b"before")])
    with rabbitmq.alarm():
        assert refused_by_an_alarm(transport, message)
        in_child(lambda: bool(refused_by_an_alarm(transport, Outgoing(queue, b"of the child"))))
    tried_until_stored(transport, message)
    rabbitmq.control("list_connections")
    assert transport.depth(queue).ready == 2


def test_a_queue_at_its_limit_refuses(open_amqp: Open, queue: str) -> None:
    arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
    transport = open_amqp(declarations={queue: QueueDeclaration(queue, arguments=arguments)})
    transport.send([Outgoing(queue, b"fits")])
    with pytest.raises(BrokerFull):
        transport.send([Outgoing(queue, b"does not")])
    assert transport.depth(queue).ready == 1


def test_a_delay_ladder_of_another_type_names_the_setting(rabbitmq: RabbitMQ, open_amqp: Open) -> None:
    url = rabbitmq.vhost_url()
    open_amqp(url).send([Outgoing("q", b"m", due_wall_s=time.time() + 60.0)])
    other = open_amqp(url, native_delayed_delivery_queue_type="quorum")
    with pytest.raises(DeclarationClash, match="broker_native_delayed_delivery_queue_type") as clash:
        other.send([Outgoing("q", b"m", due_wall_s=time.time() + 60.0)])
    assert clash.value.argument == "x-queue-type"

"""What RabbitMQ refuses for good: said as what it is, and the next message goes."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator

import pytest

from prefork.engine.app import App
from prefork.engine.refusals import REASON_REFUSED
from prefork.transports.amqp import AmqpTransport
from prefork.transports.amqp.errors import Refused, refused
from prefork.transports.base import Outcome, Outgoing
from prefork.transports.errors import TransportError, Unacceptable
from support.one_child import OneChild
from support.rabbitmq_server import RabbitMQ

Open = Callable[..., AmqpTransport]
LIMIT_BYTES = 100_000


def document(size: int) -> bytes:
    """An envelope with a body of so many bytes."""
    body = base64.b64encode(b"x" * size).decode()
    properties = {"body_encoding": "base64", "delivery_info": {}, "delivery_tag": "tag"}
    types = {"content-type": "application/json", "content-encoding": "utf-8"}
    return json.dumps({"body": body, **types, "headers": {}, "properties": properties}).encode()


@pytest.fixture
def small(rabbitmq: RabbitMQ) -> Iterator[None]:
    """A server that takes no large messages, for a while."""
    # RabbitMQ 3 looks it up in the one, RabbitMQ 4 in the other.
    limit = "application:set_env(rabbit, max_message_size, {0}), persistent_term:put(max_message_size, {0})."
    rabbitmq.control("eval", limit.format(LIMIT_BYTES))
    yield
    rabbitmq.control("eval", limit.format(16_777_216))


@pytest.mark.parametrize(
    ("code", "said", "kind", "permanent"),
    [
        (311, "CONTENT_TOO_LARGE", Unacceptable, True),
        (
            406,
            "PRECONDITION_FAILED - message size 9 is larger than max size 8",
            Unacceptable,
            True,
        ),
        (406, "PRECONDITION_FAILED - invalid expiration", Refused, True),
        (406, "PRECONDITION_FAILED - queue limit in vhost '/' (5) is reached", Refused, False),
        (404, "NOT_FOUND - no exchange 'x' in vhost '/'", Refused, True),
        (404, "NOT_FOUND - home node 'r@h' of durable queue 'q' is down or inaccessible", Refused, False),
        (403, "ACCESS_REFUSED - access to exchange 'x' refused", Refused, False),
    ],
)
def test_what_can_be_mended_is_told_from_what_never_can(
    code: int, said: str, kind: type[TransportError], permanent: bool
) -> None:
    error = refused("a message", code, said)
    assert type(error) is kind
    assert error.permanent is permanent
    assert said in str(error)


def test_a_message_that_is_too_large_is_refused_and_the_next_is_sent(
    small: None, open_amqp: Open, queue: str
) -> None:
    transport = open_amqp()
    for expected in (1, 2):
        with pytest.raises(Unacceptable, match="max_message_size"):
            transport.send([Outgoing(queue, document(LIMIT_BYTES + 1))])
        transport.send([Outgoing(queue, document(10))])
        assert transport.depth(queue).ready == expected


def test_an_exchange_that_is_not_there_is_an_error_of_the_port(open_amqp: Open, queue: str) -> None:
    transport = open_amqp()
    with pytest.raises(Refused, match="no exchange 'nowhere'") as caught:
        transport.send([Outgoing(queue, document(10), 0, None, "nowhere", "key")])
    assert caught.value.permanent
    transport.send([Outgoing(queue, document(10))])
    assert transport.depth(queue).ready == 1


def test_a_follow_up_that_is_refused_leaves_its_message_held(
    small: None, open_amqp: Open, queue: str
) -> None:
    transport = open_amqp()
    transport.send([Outgoing(queue, document(10))])
    consumer = transport.consumer([queue], "worker.0.1", "worker")
    (delivery,) = consumer.reserve(1, 5)
    with pytest.raises(Unacceptable):
        consumer.settle([Outcome(delivery.tag, follow_ups=(Outgoing(queue, document(LIMIT_BYTES + 1)),))])
    assert consumer.settle([Outcome(delivery.tag)]) == [True]


@pytest.mark.parametrize("what", ["a retry", "a callback to an exchange that is not there"])
def test_a_task_whose_consequence_is_refused_leaves_a_dead_letter_and_the_next_task_runs(
    small: None, rabbitmq: RabbitMQ, open_amqp: Open, queue: str, what: str
) -> None:
    app = App("tests", broker=rabbitmq.url, set_as_current=False)
    app.conf.task_default_queue = queue
    app.conf.broker_transport_options = {"dead_letter_queue": f"{queue}.dead"}
    ran = []

    @app.task(bind=True)
    def run(self, number):
        ran.append(number)
        if number == 1 and what == "a retry":
            raise self.retry(args=("x" * LIMIT_BYTES,), countdown=0)

    link = run.si(3).set(exchange="nowhere", routing_key="key") if what != "a retry" else None
    run.apply_async((1,), link=link)
    run.delay(2)
    child = OneChild(app)
    child.idle._before = lambda: len(ran) < 2  # type: ignore[attr-defined]
    try:
        child.run()
    finally:
        child.parts.give_back()
        child.close()
    assert ran == [1, 2]
    transport = app.client.transport
    (letter,) = transport.dead_letters()
    assert (letter.queue, letter.reason) == (queue, REASON_REFUSED)
    assert transport.depth(queue).ready == 0
    app.close()

"""Conformance: `Controls` and `Mailbox`. Requests reach whoever listens, replies reach who asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from prefork.transports.base import Message, Transport
from prefork.transports.mailbox import RECEIVED_MAX, ControlQueue, Controls, Mailbox, reply_exchange
from support.waiting import Background, eventually, readable

from .conftest import Broker

pytestmark = pytest.mark.needs("controls")

Listen = Callable[..., Mailbox]

WAIT_S = 5.0
SILENCE_S = 0.3


def message(body: bytes = b"{}", **headers: object) -> Message:
    return Message(body, "application/json", "utf-8", dict(headers), {"delivery_mode": 2, "priority": 0})


def received(mailbox: Mailbox, count: int) -> list[bytes]:
    """The bodies of so many messages, which must come within the deadline."""
    found: list[bytes] = []

    def look() -> bool:
        found.extend(one.body for one in mailbox.receive(0.05))
        return len(found) >= count

    eventually(look)
    return found


@pytest.fixture
def controls(transport: Transport) -> Controls:
    assert isinstance(transport, Controls)
    return transport


@pytest.fixture
def namespace(broker: Broker) -> str:
    return broker.unique("ns")


@pytest.fixture
def opened() -> Iterator[list[Mailbox]]:
    mailboxes: list[Mailbox] = []
    yield mailboxes
    for mailbox in mailboxes:
        mailbox.close()


@pytest.fixture
def listen(broker: Broker, namespace: str, opened: list[Mailbox]) -> Listen:
    """A worker's mailbox, through a handle of its own."""

    def _listen(node: str = "w@h", exchange: str = namespace) -> Mailbox:
        handle = broker.open()
        assert isinstance(handle, Controls)
        opened.append(handle.mailbox(exchange, node))
        return opened[-1]

    return _listen


@pytest.fixture
def ask(controls: Controls, namespace: str, opened: list[Mailbox]) -> Listen:
    """A client's mailbox."""

    def _ask(address: str) -> Mailbox:
        opened.append(controls.replies(namespace, address))
        return opened[-1]

    return _ask


def test_a_mailbox_has_the_shape_of_its_port(listen: Listen) -> None:
    assert isinstance(listen(), Mailbox)


def test_every_worker_hears_a_request(controls: Controls, namespace: str, listen: Listen) -> None:
    first, second = listen("a@h"), listen("b@h")
    controls.broadcast(namespace, message(b"hello"))
    assert received(first, 1) == [b"hello"]
    assert received(second, 1) == [b"hello"]


def test_a_request_arrives_as_it_was_sent(controls: Controls, namespace: str, listen: Listen) -> None:
    mailbox = listen()
    sent = Message(
        '{"method": "é"}'.encode(), "application/json", "utf-8", {"clock": 7, "expires": 1.5}, {"priority": 0}
    )
    controls.broadcast(namespace, sent)
    found: list[Message] = []
    eventually(lambda: found.extend(mailbox.receive(0.05)) or found)
    (only,) = found
    assert only.body == sent.body
    assert (only.content_type, only.content_encoding) == ("application/json", "utf-8")
    assert {name: only.headers[name] for name in ("clock", "expires")} == {"clock": 7, "expires": 1.5}


def test_requests_arrive_in_the_order_in_which_they_were_sent(
    controls: Controls, namespace: str, listen: Listen
) -> None:
    mailbox = listen()
    bodies = [b"%d" % number for number in range(20)]
    for body in bodies:
        controls.broadcast(namespace, message(body))
    assert received(mailbox, 20) == bodies


def test_a_request_makes_the_descriptor_readable(controls: Controls, namespace: str, listen: Listen) -> None:
    mailbox = listen()
    while readable(mailbox.fileno(), 0.0):
        mailbox.receive()
    controls.broadcast(namespace, message())
    assert readable(mailbox.fileno())
    assert received(mailbox, 1) == [b"{}"]


def test_what_was_sent_before_is_not_heard(controls: Controls, namespace: str, listen: Listen) -> None:
    controls.broadcast(namespace, message(b"before"))
    mailbox = listen()
    controls.broadcast(namespace, message(b"after"))
    assert received(mailbox, 1) == [b"after"]
    assert mailbox.receive(SILENCE_S) == []


def test_a_request_is_heard_once(controls: Controls, namespace: str, listen: Listen) -> None:
    mailbox = listen()
    controls.broadcast(namespace, message())
    received(mailbox, 1)
    assert mailbox.receive(SILENCE_S) == []


def test_another_namespace_is_not_heard(
    broker: Broker, controls: Controls, namespace: str, listen: Listen
) -> None:
    mailbox = listen()
    controls.broadcast(broker.unique("other"), message(b"theirs"))
    controls.broadcast(namespace, message(b"ours"))
    assert received(mailbox, 1) == [b"ours"]
    assert mailbox.receive(SILENCE_S) == []


def test_a_request_to_nobody_is_no_error(broker: Broker, controls: Controls) -> None:
    controls.broadcast(broker.unique("empty"), message())
    late = controls.mailbox(broker.unique("empty"), "w@h")
    assert late.receive(SILENCE_S) == []
    late.close()


def test_at_most_a_hundred_come_at_once_and_none_is_lost(
    controls: Controls, namespace: str, listen: Listen
) -> None:
    mailbox = listen()
    for number in range(RECEIVED_MAX + 20):
        controls.broadcast(namespace, message(b"%d" % number))
    found: list[bytes] = []

    def look() -> bool:
        batch = mailbox.receive(0.05)
        assert len(batch) <= RECEIVED_MAX
        found.extend(one.body for one in batch)
        return len(found) == RECEIVED_MAX + 20

    eventually(look)
    assert found == [b"%d" % number for number in range(RECEIVED_MAX + 20)]


def test_receive_waits_for_a_request(controls: Controls, namespace: str, listen: Listen) -> None:
    mailbox = listen()
    waiting = Background(lambda: mailbox.receive(WAIT_S))
    controls.broadcast(namespace, message(b"now"))
    assert [one.body for one in waiting.result()] == [b"now"]


def test_an_empty_mailbox_answers_at_once_or_after_its_time(listen: Listen) -> None:
    mailbox = listen()
    assert mailbox.receive() == []
    assert mailbox.receive(0.05) == []


def test_a_reply_reaches_who_asked_and_nobody_else(
    broker: Broker, namespace: str, ask: Listen, listen: Listen
) -> None:
    worker = broker.open()
    assert isinstance(worker, Controls)
    mine, yours, node = ask("me"), ask("you"), listen()
    worker.reply(reply_exchange(namespace), "me", message(b'{"w@h": 1}', ticket="t"))
    found: list[Message] = []
    eventually(lambda: found.extend(mine.receive(0.05)) or found)
    assert [one.body for one in found] == [b'{"w@h": 1}']
    assert found[0].headers["ticket"] == "t"
    assert yours.receive(SILENCE_S) == []
    assert node.receive() == []


def test_replies_of_several_workers_come_together(broker: Broker, namespace: str, ask: Listen) -> None:
    mine = ask("me")
    handles = [broker.open() for _ in range(3)]

    def answer(handle: Transport) -> None:
        assert isinstance(handle, Controls)
        handle.reply(reply_exchange(namespace), "me", message(b"{}"))

    threads = [threading.Thread(target=answer, args=(handle,)) for handle in handles]
    for thread in threads:
        thread.start()
    assert received(mine, 3) == [b"{}"] * 3
    for thread in threads:
        thread.join()


def test_a_reply_to_a_client_that_has_gone_is_no_error(
    controls: Controls, namespace: str, ask: Listen
) -> None:
    ask("gone").close()
    controls.reply(reply_exchange(namespace), "gone", message())
    controls.reply(reply_exchange(namespace), "never was", message())
    assert ask("gone").receive(SILENCE_S) == []


def test_a_client_may_ask_again_under_its_name(controls: Controls, namespace: str, ask: Listen) -> None:
    ask("me").close()
    again = ask("me")
    controls.reply(reply_exchange(namespace), "me", message(b"again"))
    assert received(again, 1) == [b"again"]


def test_the_queue_is_declared_as_the_configuration_says(controls: Controls, broker: Broker) -> None:
    queue = ControlQueue(ttl_s=20.0, expires_s=30.0, exclusive=False, durable=False)
    name = broker.unique("declared")
    node, client = controls.mailbox(name, "w@h", queue), controls.replies(name, "me", queue)
    controls.broadcast(name, message(b"q"))
    controls.reply(reply_exchange(name), "me", message(b"a"))
    assert received(node, 1) == [b"q"]
    assert received(client, 1) == [b"a"]
    node.close()
    client.close()


def test_closing_twice_is_harmless_and_a_closed_mailbox_hears_nothing(
    controls: Controls, namespace: str, listen: Listen, ask: Listen
) -> None:
    mailbox, replies = listen(), ask("me")
    for one in (mailbox, replies, mailbox, replies):
        one.close()
    controls.broadcast(namespace, message())
    assert mailbox.fileno() == -1

"""What is revoked on a real RabbitMQ: many of them, bundles, deaths in between, alarms."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.transports.amqp import AmqpTransport
from prefork.transports.amqp import revocations as module
from prefork.transports.amqp.parcels import Parcel
from prefork.transports.coordination import REVOKED_MAX
from prefork.transports.errors import BrokerFull
from support.rabbitmq_server import RabbitMQ
from support.waiting import Background

from .conftest import Open

LONG_S = 600.0
OpenHere = Callable[[], AmqpTransport]


@pytest.fixture
def open_here(open_amqp: Open, rabbitmq: RabbitMQ) -> OpenHere:
    """Opens handles on a virtual host of the test's own: what is revoked is one queue."""
    url = rabbitmq.vhost_url()
    return lambda: open_amqp(url)


def messages(transport: AmqpTransport) -> int:
    found = transport._publisher.ask(lambda channel: channel.queue_declare(module.QUEUE, passive=True))
    return int(found.message_count)


def revoke_singly(transport: AmqpTransport, keys: list[str], lifetime_s: float = LONG_S) -> None:
    """As so many calls would, but confirmed together."""
    transport.revoke(keys[:1], lifetime_s)
    ends_wall_s = time.time() + lifetime_s
    transport._publisher.publish(
        [module._parcel([module._Revoked(key, ends_wall_s, lifetime_s)], lifetime_s) for key in keys[1:]]
    )


def test_a_message_that_is_no_revocation_is_passed_over(open_here: OpenHere) -> None:
    transport = open_here()
    transport.revoke(["a"], LONG_S)
    transport._publisher.publish([Parcel("", module.QUEUE, {"expiration": "2000"}, b"[1]")])
    assert transport.revoked() == ["a"]
    assert open_here().revoked() == ["a"]


def test_readers_at_the_same_time_all_see_everything(open_here: OpenHere) -> None:
    transports = [open_here() for _ in range(4)]
    keys = [str(number) for number in range(600)]
    revoke_singly(transports[0], keys)
    readers = [Background(one.revoked) for one in transports for _ in range(2)]
    for one in readers:
        assert one.result(20.0) == keys


def test_while_others_take_messages_the_mark_stays(open_here: OpenHere) -> None:
    one, other = open_here(), open_here()
    revoke_singly(one, [str(number) for number in range(600)])
    one.revoked()
    mark = one.revoked_mark()
    for _ in range(5):
        readers = [Background(reader.revoked) for reader in (one, other)]
        while any(reader.running for reader in readers):
            assert one.revoked_mark() == mark
        assert [len(reader.result()) for reader in readers] == [600, 600]


def test_as_many_as_are_kept_at_all_are_revoked_in_one_call_and_read(open_here: OpenHere) -> None:
    keys = [f"{number:036}" for number in range(REVOKED_MAX)]
    transport, other = open_here(), open_here()
    transport.revoke(keys, LONG_S)
    assert messages(transport) == REVOKED_MAX // 500
    assert other.revoked() == keys
    # One more, and the oldest is forgotten.
    transport.revoke(["newest"], LONG_S)
    assert other.revoked() == [*keys[1:], "newest"]


def test_whoever_reads_many_puts_them_together_so_that_the_next_has_few(open_here: OpenHere) -> None:
    # Given more revocations, each made by itself, than RabbitMQ takes back within a publish's deadline,
    transport, other = open_here(), open_here()
    keys = [str(number) for number in range(12_000)]
    revoke_singly(transport, keys)
    before = transport.revoked_mark()
    # when they are read,
    assert other.revoked() == keys
    # then few messages are there, which say the same, and what comes has a mark of its own again.
    assert messages(transport) == 24
    mark = other.revoked_mark()
    assert mark != before
    assert transport.revoked() == other.revoked() == keys
    assert transport.revoked_mark() == other.revoked_mark() == mark
    transport.revoke(["later", keys[0]], LONG_S)
    assert other.revoked_mark() != mark
    assert other.revoked() == [*keys[1:], "later", keys[0]]


def test_what_was_put_together_is_older_than_what_lies_before_it(open_here: OpenHere) -> None:
    # Given that a key was revoked again while another reader put all together,
    transport, other = open_here(), open_here()
    keys = [str(number) for number in range(1_100)]
    revoke_singly(transport, keys)
    publish = other._publisher.publish

    def is_late(parcels: list[Any]) -> None:
        transport.revoke(["5"], LONG_S)
        publish(parcels)

    other._publisher.publish = is_late  # type: ignore[assignment]
    assert other.revoked() == keys
    # then it is the newest for whoever reads later.
    assert messages(transport) == 4
    assert transport.revoked() == [*keys[:5], *keys[6:], "5"]


def test_while_the_broker_takes_no_message_the_many_are_known_all_the_same(
    open_here: OpenHere, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    transport = open_here()
    keys = [str(number) for number in range(1_500)]
    revoke_singly(transport, keys)

    def refuses(parcels: list[Parcel]) -> None:
        raise BrokerFull("a memory alarm")

    with monkeypatch.context() as patch:
        patch.setattr(transport._publisher, "publish", refuses)
        assert transport.revoked() == keys
    assert "could not be put together: a memory alarm" in caplog.text
    # None is lost by it, and when the alarm is over they are put together.
    assert open_here().revoked() == keys
    assert messages(transport) == 3


def test_a_reader_whose_clock_is_ahead_forgets_nothing_for_others(
    open_here: OpenHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport, ahead = open_here(), open_here()
    keys = [str(number) for number in range(1_200)]
    revoke_singly(transport, keys)
    assert ahead.revoked_mark() != "0"
    agreed = ahead._agreements
    assert agreed is not None
    monkeypatch.setattr(agreed.revocations, "_wall", lambda: time.time() + 3600.0)
    assert ahead.revoked() == []
    assert messages(transport) == 3
    assert transport.revoked() == keys


def test_more_keys_than_are_kept_are_put_together_however_few_messages_they_are(
    open_here: OpenHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REVOKED_MAX", 100)
    transport = open_here()
    for call in range(3):
        transport.revoke([f"{call}.{number}" for number in range(60)], LONG_S)
    assert messages(transport) == 3
    assert transport.revoked()[-60:] == [f"2.{number}" for number in range(60)]
    assert messages(transport) == 1


KEYS = st.sampled_from("abcdefgh")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("revoke"), st.lists(KEYS, min_size=1, max_size=3), st.integers(1, 30)),
        st.tuples(st.just("gather"), st.booleans(), st.integers(0, 4)),
        st.tuples(st.just("wait"), st.integers(1, 10), st.none()),
    ),
    max_size=30,
)


@given(STEPS)
def test_however_often_and_however_far_they_are_put_together_the_same_is_revoked(
    steps: list[tuple[Any, Any, Any]],
) -> None:
    # A queue, and what should be known: the end of each key. Who gathers may die after so many bundles.
    queue: list[bytes] = []
    ends: dict[str, float] = {}
    now = 1_000.0
    for kind, first, second in steps:
        if kind == "wait":
            now += first
        elif kind == "revoke":
            bundle = [module._Revoked(key, now + second, second) for key in first]
            queue.append(module._encode(module._Bundle(bundle)))
            for key in first:
                ends[key] = now + second
        else:
            living = _found(queue).newest(now)
            bundles = [module._encode(module._Bundle([one], True)) for one in living]
            queue = [*queue, *bundles[:second]] if first else bundles
        found = {one.key: one.ends_wall_s for one in _found(queue).newest(now) if one.ends_wall_s > now}
        assert found == {key: end for key, end in ends.items() if end > now}


def _found(queue: list[bytes]) -> module._Found:
    found = module._Found()
    for body in queue:
        found.note(body)
    return found

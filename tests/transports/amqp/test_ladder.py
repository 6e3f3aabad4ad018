"""The delay ladder: a message rests as long as its digits say, and comes to its own queue alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.transports.amqp import ladder
from prefork.transports.declarations import topic_matches

QUEUES = ["celery", "high", "orders.high", "orders.high.very", "a.1.0.b", "prefork", "0"]
NAMES = st.sampled_from(QUEUES)
WORDS = ["", "a", "b", "*", "#", "a*", "%", "%2A", "%23", "%252A", "%2523", "%25", "%2E", "%25252A"]
DOTTED = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(".".join)


class Broker:
    """Bindings and dead-lettering of the ladder, as RabbitMQ follows them; time is only added up."""

    def __init__(self, queues: list[str]) -> None:
        self.to_queue: list[tuple[str, str, str]] = []
        self.to_exchange: list[tuple[str, str, str]] = []
        self.rungs: dict[str, ladder.Rung] = {}
        for rung in [*ladder.celery_levels("classic"), *ladder.our_rungs("classic")]:
            self.rungs[rung.name] = rung
            self.to_queue.append((rung.name, rung.waits, rung.name))
            self.to_exchange.append((rung.name, rung.passes, rung.next_exchange))
        source, destination, key = ladder.WAY_OUT
        self.to_exchange.append((source, key, destination))
        for queue in queues:
            self.to_queue.append((ladder.END_EXCHANGE, ladder.end_key(ladder.to_queue(queue)), queue))
            self.to_queue.append((ladder.DELIVERY_EXCHANGE, ladder.celery_key(queue), queue))

    def send(self, exchange: str, key: str) -> list[tuple[str, int]]:
        """Which queues it reaches in the end, and after how many milliseconds."""
        arrived: list[tuple[str, int]] = []
        for where, pattern, queue in self.to_queue:
            if where == exchange and topic_matches(pattern, key):
                rung = self.rungs.get(queue)
                if rung is None:
                    arrived.append((queue, 0))
                    continue
                rest = self.send(rung.next_exchange, key)
                arrived += [(name, ms + rung.arguments["x-message-ttl"]) for name, ms in rest]
        for where, pattern, following in self.to_exchange:
            if where == exchange and topic_matches(pattern, key):
                arrived += self.send(following, key)
        return arrived


BROKER = Broker(QUEUES)


@given(
    st.one_of(st.floats(0, 3), st.floats(0, 200), st.floats(0, ladder.DELAY_S_MAX), st.integers(0, 1000)),
    NAMES,
)
def test_a_delay_is_never_cut_short_and_lengthened_by_8_ms_at_most(delay_s: float, queue: str) -> None:
    exchange, key = ladder.address(delay_s, ladder.to_queue(queue))
    ((reached, waited_ms),) = BROKER.send(exchange, key)
    assert reached == queue
    assert delay_s * 1000 <= waited_ms + 1e-4
    assert waited_ms < math.floor(delay_s * 1000) + ladder.RUNG_MS + 1
    assert ladder.origin(ladder.END_EXCHANGE, key) == ("", queue)


@given(st.floats(0, 200))
def test_what_celery_has_bound_takes_nothing_of_ours(delay_s: float) -> None:
    broker = Broker(["celery"])
    for key in ("#.celery", "#", "#.q1"):
        broker.to_queue.append((ladder.DELIVERY_EXCHANGE, key, f"bound by Celery with {key}"))
    ((queue, waited_ms),) = broker.send(*ladder.address(delay_s, ladder.to_queue("celery")))
    assert queue == "celery"
    assert delay_s * 1000 <= waited_ms + 1e-4


def test_what_celery_delays_arrives_too() -> None:
    digits = ".".join(format(5, "028b"))
    assert BROKER.send("celery_delayed_27", f"{digits}.celery") == [("celery", 5000)]


@pytest.mark.parametrize("delay_s", [-0.1, math.nan, math.inf, 2.0**28])
def test_a_delay_that_the_ladder_has_no_rung_for_is_refused(delay_s: float) -> None:
    with pytest.raises(ValueError):
        ladder.address(delay_s, ladder.to_queue("q"))


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
def test_the_levels_are_those_of_celery(queue_type: str) -> None:
    levels = list(ladder.celery_levels(queue_type))
    assert [level.name for level in levels] == [f"celery_delayed_{number}" for number in range(27, -1, -1)]
    extra: dict[str, Any] = {"x-dead-letter-strategy": "at-least-once"} if queue_type == "quorum" else {}
    assert levels[-1].arguments == {
        "x-queue-type": queue_type,
        "x-overflow": "reject-publish",
        "x-message-ttl": 1000,
        "x-dead-letter-exchange": "celery_delayed_delivery",
        **extra,
    }
    assert levels[0].arguments["x-message-ttl"] == 2**27 * 1000
    assert levels[0].arguments["x-dead-letter-exchange"] == "celery_delayed_26"
    assert (levels[0].waits, levels[1].passes) == ("1.#", "*.0.#")


def test_the_longest_name_that_may_be_delayed_fits() -> None:
    target = ladder.to_queue("q" * ladder.KEY_BYTES_MAX)
    assert ladder.fits(target)
    assert not ladder.fits(target + "q")
    for delay_s in (1.5, 0.5, 2.0, ladder.DELAY_S_MAX):
        _exchange, key = ladder.address(delay_s, target)
        assert len(key) <= 255
    assert len(ladder.end_key(target)) <= 255


@given(st.text(max_size=40))
def test_a_key_that_never_was_on_the_ladder_stays(key: str) -> None:
    assert ladder.origin("x", key) == ("x", key)


@pytest.mark.parametrize("exchange", ["orders", "orders.high", "a%2Eb", ""])
@pytest.mark.parametrize("key", ["k", "new.order", "", "prefork.0.1"])
def test_exchange_and_key_are_the_same_after_the_ladder(exchange: str, key: str) -> None:
    _first, delayed = ladder.address(3.5, ladder.via_exchange(exchange, key))
    assert ladder.origin(ladder.END_EXCHANGE, delayed) == (exchange, key)


def test_a_key_of_one_exchange_is_never_that_of_another() -> None:
    _first, key = ladder.address(0.5, ladder.via_exchange("orders", "high.new"))
    assert topic_matches(ladder.end_key(ladder.pattern_via_exchange("orders", "high.*")), key)
    assert not topic_matches(ladder.end_key(ladder.via_exchange("orders.high", "new")), key)
    assert not topic_matches(ladder.end_key(ladder.to_queue("orders.high.new")), key)


@given(DOTTED, DOTTED)
def test_a_queue_gets_what_is_delayed_for_its_name_whatever_words_that_has(queue: str, other: str) -> None:
    _first, key = ladder.address(0.5, ladder.to_queue(queue))
    assert ladder.origin(ladder.END_EXCHANGE, key) == ("", queue)
    assert topic_matches(ladder.end_key(ladder.to_queue(queue)), key)
    assert topic_matches(ladder.end_key(ladder.to_queue(other)), key) is (other == queue)


@given(DOTTED, DOTTED, DOTTED, DOTTED)
def test_exchanges_hand_on_what_is_delayed_as_they_hand_on_what_is_not(
    exchange: str, key: str, other_exchange: str, binding: str
) -> None:
    _first, delayed = ladder.address(0.5, ladder.via_exchange(exchange, key))
    assert ladder.origin(ladder.END_EXCHANGE, delayed) == (exchange, key)

    def reaches(target: str) -> bool:
        return topic_matches(ladder.end_key(target), delayed)

    for name in (exchange, other_exchange):
        same = name == exchange
        assert reaches(ladder.via_exchange(name, binding)) is (same and binding == key)
        assert reaches(ladder.pattern_via_exchange(name, binding)) is (same and topic_matches(binding, key))
        assert reaches(ladder.pattern_via_exchange(name, "#")) is same

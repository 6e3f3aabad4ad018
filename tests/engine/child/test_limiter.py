"""Limits in one child: tokens, lanes, slots; a broker that cannot keep them, or fails."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from prefork.engine.app import App
from prefork.engine.exceptions import ImproperlyConfigured, Retry
from prefork.engine.limits import shared as shared_module
from prefork.engine.limits.lanes import lane_of
from prefork.transports.base import Outgoing, Transport
from prefork.transports.errors import BrokerUnavailable
from support.faulty import Faulty
from support.limiter_scene import Ran, board_of, delayed, ready
from support.one_child import WORKER, OneChild

Make = Callable[..., OneChild]


def test_what_has_no_token_is_moved_once_and_in_order(app: App, child_of: Make, ran: Ran) -> None:
    @app.task(rate_limit="1/h", rate_limit_burst=2)
    def limited(number: int) -> None:
        ran(number)

    @app.task
    def other(number: int) -> None:
        ran(number)

    for number in range(8):
        limited.delay(number)
    other.delay("other")
    child = child_of(app)
    child.run()
    assert ran.numbers == [0, 1, "other"]
    lane = lane_of("celery", limited.name)
    assert (ready(app), ready(app, lane)) == (0, 6)
    child.run()
    assert ran.numbers == [0, 1, "other"]
    board_of(child).set_rate(limited.name, None)
    child.run()
    assert ran.numbers == [0, 1, "other", 2, 3, 4, 5, 6, 7]


def test_a_message_keeps_behind_those_that_wait(app: App, child_of: Make, ran: Ran) -> None:
    @app.task(rate_limit="1/h")
    def limited(number: int) -> None:
        ran(number)

    for number in range(3):
        limited.delay(number)
    child = child_of(app)
    child.run()
    limited.delay(3)
    board_of(child).set_rate(limited.name, 1000)
    child.idle._before = lambda: time.sleep(0.01) or len(ran.numbers) < 4  # type: ignore[func-returns-value]
    child.run()
    assert ran.numbers == [0, 1, 2, 3]


def test_what_comes_from_a_lane_is_a_message_of_its_queue(app: App, child_of: Make) -> None:
    seen: list[str] = []

    @app.task(rate_limit=0, bind=True, max_retries=1)
    def limited(self: Any) -> None:
        seen.append(self.request.delivery_info["routing_key"])
        raise self.retry(countdown=3600)

    limited.delay()
    child = child_of(app)
    child.run()
    board_of(child).set_rate(limited.name, None)
    child.run()
    assert seen == ["celery"]
    assert (delayed(app), delayed(app, lane_of("celery", limited.name))) == (1, 0)
    assert issubclass(Retry, Exception)


def test_a_token_that_is_not_needed_returns(app: App, child_of: Make, ran: Ran) -> None:
    @app.task(rate_limit="1/h")
    def limited(number: int) -> None:
        ran(number)

    limited.delay(0)
    revoked = limited.delay(1)
    limited.delay(2)
    child = child_of(app)
    child.run()
    assert ran.numbers == [0]
    # From here on it is as if an hour had passed, once.
    bucket = board_of(child).bucket(limited.name)
    assert bucket is not None
    bucket.give_back(1)
    child.parts.revoked = lambda message: message.id == revoked.id  # type: ignore[method-assign]
    child.run()
    assert ran.numbers == [0, 2]
    assert ready(app, lane_of("celery", limited.name)) == 0


def test_a_message_with_a_record_waits_with_it(app: App, child_of: Make, ran: Ran) -> None:
    @app.task(rate_limit="1/h")
    def limited(number: int) -> None:
        ran(number)

    transport = app.client.transport
    limited.delay(0)
    dead = transport.consumer(["celery"], "dead", "dead")
    (held,) = dead.reserve(1)
    transport.recover("dead", running=held.tag, cause="killed", max_crashes=3)
    limited.delay(1)
    child = child_of(app)
    child.run()
    # It ran, by the token of the hour; the other one is parked.
    assert ran.numbers == [0]
    (held,) = transport.consumer([lane_of("celery", limited.name)], "other", "other").reserve(1)
    transport.recover("other", running=held.tag, cause="killed", max_crashes=3)
    child.run()
    # Its crash counts, so it takes a token before its time; the next one with a record has to wait.
    assert ran.numbers == [0]
    board_of(child).set_rate(limited.name, None)
    child.run()
    assert ran.numbers == [0, 1]


def test_who_crashed_is_put_off_and_keeps_its_record(app: App, child_of: Make, ran: Ran) -> None:
    @app.task(rate_limit=0)
    def paused(number: int) -> None:
        ran(number)

    transport = app.client.transport
    paused.delay(0)
    dead = transport.consumer(["celery"], "dead", "dead")
    (held,) = dead.reserve(1)
    transport.recover("dead", running=held.tag, cause="killed", max_crashes=3)
    child = child_of(app)
    child.run()
    assert ran.numbers == []
    (waiting,) = transport.peek("celery", delayed=True)
    assert waiting.crashes == 1
    assert waiting.due_wall_s is not None
    assert 0 < waiting.due_wall_s - time.time() < 6


def test_what_comes_from_a_queue_of_this_worker_alone_is_put_off(app: App, child_of: Make, ran: Ran) -> None:
    @app.task(rate_limit=0)
    def paused(number: int) -> None:
        ran(number)

    paused.delay(1)
    child = child_of(app)
    child.parts.limiter._queues = ["another"]  # as of a queue whose name the broker made
    board_of(child).set_rate(paused.name, 0)
    child.run()
    assert ran.numbers == []
    assert (delayed(app), ready(app, lane_of("celery", paused.name))) == (1, 0)


# --- shared limits ---------------------------------------------------------------------------------


def test_slots_are_taken_and_freed(app: App, child_of: Make, ran: Ran) -> None:
    @app.task(max_concurrency=1)
    def narrow(number: int) -> None:
        ran(number)

    for number in range(3):
        narrow.delay(number)
    child = child_of(app)
    child.parts.storage.transport.heartbeat(WORKER, 60)
    transport: Any = child.parts.storage.transport
    transport.heartbeat("elsewhere", 60)
    name = f"slots:{narrow.name}"
    assert transport.take_slot(name, 1, "elsewhere", "elsewhere.1.1/1")
    child.run()
    assert ran.numbers == []
    assert ready(app, lane_of("celery", narrow.name)) == 3
    transport.free_slot(name, "elsewhere.1.1/1")
    child.idle._before = lambda: time.sleep(0.02) or len(ran.numbers) < 3  # type: ignore[func-returns-value]
    child.run()
    assert ran.numbers == [0, 1, 2]
    assert transport.take_slot(name, 1, "elsewhere", "elsewhere.1.1/2")


def test_no_slot_at_all_pauses(app: App, child_of: Make, ran: Ran) -> None:
    @app.task(max_concurrency=0)
    def narrow(number: int) -> None:
        ran(number)

    narrow.delay(1)
    child_of(app).run()
    assert ran.numbers == []
    assert ready(app, lane_of("celery", narrow.name)) == 1


def test_a_global_rate_of_nothing_pauses(app: App, child_of: Make, ran: Ran) -> None:
    @app.task(global_rate_limit=0)
    def paused(number: int) -> None:
        ran(number)

    paused.delay(1)
    child_of(app).run()
    assert ran.numbers == []
    assert ready(app, lane_of("celery", paused.name)) == 1


def test_tokens_that_were_taken_ahead_are_used(app: App, child_of: Make, ran: Ran) -> None:
    @app.task(global_rate_limit=1000)
    def shared(number: int) -> None:
        ran(number)

    for number in range(30):
        shared.delay(number)
    child = child_of(app)
    coordinates = Faulty(child.parts.storage.transport)
    child.parts.limiter._sharing._coordinates = coordinates  # type: ignore[assignment]
    child.idle._before = lambda: time.sleep(0.005) or len(ran.numbers) < 30  # type: ignore[func-returns-value]
    child.run()
    assert ran.numbers == list(range(30))
    assert coordinates.calls["take_tokens"] <= 15


@pytest.mark.parametrize("failing", ["take_tokens", "take_slot", "free_slot"])
def test_a_broker_that_cannot_be_asked_holds_nothing_up_for_good(
    app: App, child_of: Make, ran: Ran, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    @app.task(global_rate_limit=1000, max_concurrency=1)
    def shared(number: int) -> None:
        ran(number)

    for number in range(4):
        shared.delay(number)
    child = child_of(app)
    child.parts.storage.transport.heartbeat(WORKER, 60)
    child.parts.pause = lambda seconds: None  # type: ignore[method-assign]
    coordinates = Faulty(child.parts.storage.transport)
    coordinates.fail(failing, 3, lambda: BrokerUnavailable("away", outcome_unknown=True), after=True)
    child.parts.limiter._sharing._coordinates = coordinates  # type: ignore[assignment]
    child.idle._before = lambda: time.sleep(0.01) or len(ran.numbers) < 4  # type: ignore[func-returns-value]
    child.run()
    assert sorted(ran.numbers) == [0, 1, 2, 3]
    transport: Any = child.parts.storage.transport
    child.parts.limiter._sharing.free_late()
    transport.heartbeat("elsewhere", 60)
    assert transport.take_slot(f"slots:{shared.name}", 1, "elsewhere", "elsewhere.1.1/1")


def test_a_lane_that_cannot_be_looked_at_costs_no_token(app: App, child_of: Make, ran: Ran) -> None:
    @app.task(rate_limit="1/h")
    def limited(number: int) -> None:
        ran(number)

    limited.delay(0)
    limited.delay(1)
    child = child_of(app)
    child.parts.pause = lambda seconds: None  # type: ignore[method-assign]
    child.run()
    bucket = board_of(child).bucket(limited.name)
    assert bucket is not None
    bucket.give_back(1)
    selects = Faulty(child.parts.consumer)
    selects.fail("reserve_from", 3)
    child.parts.limiter._selects = selects  # type: ignore[assignment]
    child.idle._before = lambda: len(ran.numbers) < 2
    child.run()
    assert ran.numbers == [0, 1]


# --- what cannot be kept ---------------------------------------------------------------------------


class Bare:
    """A transport or a consumer without more than the port asks for."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        for name in ("capabilities", "owner", "reserve", "settle", "give_back", "close"):
            if hasattr(inner, name):
                setattr(self, name, getattr(inner, name))

    def consumer(self, *args: Any) -> Bare:
        return Bare(self._inner.consumer(*args))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"rate_limit": 1}, "rate_limit"),
        ({"global_rate_limit": 1}, "global_rate_limit"),
        ({"max_concurrency": 1}, "max_concurrency"),
    ],
)
def test_a_broker_that_cannot_keep_a_limit_is_refused(
    app: App, child_of: Make, options: dict[str, Any], named: str
) -> None:
    @app.task(name="shop.pay", **options)
    def limited() -> None:
        """Nothing."""

    child = OneChild(app)
    child.parts.storage.transport = bare = Bare(child.parts.storage.transport)  # type: ignore[assignment]
    assert not isinstance(bare, shared_module.Coordinates)
    with pytest.raises(ImproperlyConfigured, match=f"'shop.pay': {named} cannot be kept on memory"):
        OneChild(app, storage=child.parts.storage)
    child.close()


def test_whatever_is_in_a_lane_is_judged_by_itself(app: App, child_of: Make, ran: Ran) -> None:
    @app.task(rate_limit=0)
    def paused(number: int) -> None:
        ran(number)

    @app.task
    def other(number: int) -> None:
        ran(number)

    lane = lane_of("celery", other.name)
    paused.apply_async((1,), queue=lane)
    other.apply_async((2,), queue=lane)
    transport: Transport = app.client.transport
    transport.send([Outgoing(lane, b"no message")])
    child = child_of(app)
    board_of(child).enter(other.name).park()
    child.run()
    assert ran.numbers == [2]
    assert ready(app, lane_of("celery", paused.name)) == 1
    assert len(list(transport.dead_letters())) == 1

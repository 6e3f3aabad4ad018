"""Outcomes that broker or store refuse for good: a failure or a dead letter, and the others go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from prefork.engine.app import App
from prefork.engine.refusals import REASON_REFUSED
from prefork.engine.scoreboard import S_STOP, Stop
from prefork.engine.storage import Storage, open_storage
from prefork.transports.base import Depth, Outcome, Outgoing
from prefork.transports.errors import (
    BrokerFull,
    BrokerUnavailable,
    ResultStoreUnavailable,
    TransportError,
    Unacceptable,
)
from support.apps import memory_app, sent
from support.faulty import Faulty
from support.one_child import OneChild
from support.refusing import LIMIT_BYTES, Small, letters

Make = Callable[..., OneChild]


@pytest.fixture(params=["together", "apart"])
def app(request: pytest.FixtureRequest) -> Iterator[App]:
    """An app whose results are kept by the broker itself, or elsewhere."""
    with memory_app() as made:
        made.conf.result_backend = (
            made.conf.broker_url if request.param == "together" else f"memory://{request.node.name}"
        )
        yield made


@pytest.fixture
def child_of() -> Iterator[Make]:
    made: list[OneChild] = []

    def make(app: App, **options: Any) -> OneChild:
        storage = open_storage(app)
        child = OneChild(app, storage=storage, **options)
        made.append(child)
        child.small = Small(child.parts.consumer)  # type: ignore[attr-defined]
        child.parts.consumer = child.small  # type: ignore[attr-defined]
        child.parts.pause = lambda seconds: None  # type: ignore[method-assign]
        if storage.store is not None:
            storage.store = storage.settler._store = Small(storage.store)  # type: ignore[assignment]
        storage.transport = Small(storage.transport)  # type: ignore[assignment]
        return child

    yield make
    for child in made:
        child.close()


def test_a_result_that_is_refused_is_a_failure_and_its_batch_goes_on(app: App, child_of: Make) -> None:
    failed = []

    @app.task
    def give(size):
        return "x" * size

    @app.task
    def note(task_id):
        failed.append(task_id)

    results = [give.apply_async((size,), link_error=note.s()) for size in (1, 9000, 2)]
    child = child_of(app)
    child.parts.read_ahead._limit = 3
    child.run()
    assert [result.state for result in results] == ["SUCCESS", "FAILURE", "SUCCESS"]
    assert "too large" in str(results[1].result)
    assert failed == [results[1].id], "its error callback was sent"
    assert letters(app) == []
    assert app.client.transport.depth("celery") == Depth(0, 0, 0)


def test_a_retry_that_is_refused_is_a_failure_and_a_dead_letter(app: App, child_of: Make) -> None:
    @app.task(bind=True)
    def grow(self):
        raise self.retry(args=("x" * 9000,), countdown=0)

    result = grow.delay()
    child_of(app).run()
    assert letters(app) == [(REASON_REFUSED, letters(app)[0][1])]
    assert "too large" in letters(app)[0][1]
    assert result.state == "FAILURE"


@pytest.mark.parametrize("acks_late", [True, False])
def test_a_next_step_that_is_refused_ends_the_chain(app: App, child_of: Make, acks_late: bool) -> None:
    @app.task(acks_late=acks_late)
    def give(size):
        return "x" * size

    @app.task
    def take(data):
        return None

    result = (give.s(7000).set(ignore_result=True) | take.s() | take.s()).delay()
    child_of(app).run()
    assert [result.state, result.parent.state] == ["FAILURE", "FAILURE"]
    assert "refused" in str(result.result)


@pytest.mark.parametrize("acks_late", [True, False])
def test_a_failure_that_is_refused_ends_the_chain_with_another_one(
    app: App, child_of: Make, acks_late: bool
) -> None:
    @app.task(acks_late=acks_late)
    def give():
        raise LookupError("x" * 9000)

    @app.task
    def take(data):
        return None

    result = (give.s() | take.s() | take.s()).delay()
    child_of(app).run()
    found = [result.parent.parent, result.parent, result]
    assert [(one.state, "refused" in str(one.result)) for one in found] == [("FAILURE", True)] * 3


def test_a_callback_that_is_refused_leaves_a_dead_letter_even_where_results_are_ignored(
    app: App, child_of: Make
) -> None:
    @app.task(ignore_result=True)
    def give(size):
        return "x" * size

    @app.task(ignore_result=True)
    def take(data):
        return None

    give.apply_async((9000,), link=take.s())
    give.apply_async((1,), link=take.s())
    child_of(app).run()
    assert [reason for reason, _ in letters(app)] == [REASON_REFUSED]
    assert app.client.transport.depth("celery") == Depth(0, 0, 0)


def test_an_error_callback_that_is_refused_too_keeps_no_dead_letter_from_being_written(
    app: App, child_of: Make
) -> None:
    @app.task(bind=True)
    def grow(self):
        raise self.retry(args=("x" * 9000,), countdown=0)

    @app.task
    def note(task_id, data):
        return None

    big = note.s("y" * 4000).set(headers={"more": "z" * 4000})
    with app.client.collecting() as messages:
        grow.apply_async(link_error=big)
    app.client.transport.send(messages)
    child_of(app).run()
    assert [reason for reason, _ in letters(app)] == [REASON_REFUSED]


def test_where_not_even_a_dead_letter_is_taken_the_message_is_kept_until_that_is_mended(
    app: App, child_of: Make, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(bind=True, ignore_result=True)
    def grow(self):
        raise self.retry(args=("x" * 9000,), countdown=0)

    grow.delay()
    child = child_of(app)
    small = child.small  # type: ignore[attr-defined]
    small.broken = True
    tries = 0

    def pause(seconds: float) -> None:
        nonlocal tries
        tries += 1
        assert app.client.transport.depth("celery").in_work == 1
        small.broken = tries < 5

    child.parts.pause = pause  # type: ignore[method-assign]
    child.run()
    assert tries == 5
    assert [reason for reason, _ in letters(app)] == [REASON_REFUSED]
    assert sum("trying again" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize(
    "error",
    [
        lambda: BrokerUnavailable("no rights (NOPERM)"),
        lambda: BrokerFull("out of memory"),
        lambda: ResultStoreUnavailable("the disk is full"),
    ],
)
def test_what_an_operator_can_mend_is_waited_for_with_one_line_in_the_log(
    app: App, child_of: Make, error: Callable[[], TransportError], caplog: pytest.LogCaptureFixture
) -> None:
    @app.task
    def one():
        return 1

    result = one.delay()
    child = child_of(app)
    child.parts.consumer = faulty = Faulty(child.parts.consumer)  # type: ignore[assignment]
    faulty.fail("settle", 7, error)
    child.run()
    assert result.get(timeout=1) == 1
    assert faulty.calls["settle"] == 8
    assert sum("trying again" in record.message for record in caplog.records) == 1
    assert letters(app) == []


def test_what_cannot_be_done_at_all_is_a_dead_letter_like_any_refusal(app: App, child_of: Make) -> None:
    @app.task
    def one():
        return 1

    one.delay()
    one.delay()
    child = child_of(app)
    child.parts.consumer = faulty = Faulty(child.parts.consumer)  # type: ignore[assignment]
    consumer = child.parts.consumer
    (delivery,) = consumer.reserve(1)
    nowhere = Outcome(delivery.tag, follow_ups=(Outgoing("", b"document"),))
    assert child.storage.settler.settle(consumer, [nowhere]) == [True]
    assert [reason for reason, _ in letters(app)] == [REASON_REFUSED]
    assert faulty.calls["fetch"] >= 1


def test_a_message_that_was_taken_back_meanwhile_is_answered_as_such(app: App, child_of: Make) -> None:
    @app.task
    def one():
        return 1

    result = one.delay()
    child = child_of(app)
    consumer = child.parts.consumer
    (delivery,) = consumer.reserve(1)
    app.client.transport.recover(consumer.owner)
    late = Outcome(delivery.tag, follow_ups=(Outgoing("celery", b"x" * 9000),))
    assert child.storage.settler.settle(consumer, [late]) == [False]
    assert letters(app) == [] and result.state == "PENDING"
    assert app.client.transport.depth("celery").ready == 1


def test_what_follows_from_an_unreadable_message_is_buried_with_it(app: App, child_of: Make) -> None:
    app.client.transport.send([Outgoing("celery", b"no envelope")])
    child = child_of(app)
    consumer = child.parts.consumer
    (delivery,) = consumer.reserve(1)
    refused = Outcome(delivery.tag, follow_ups=(Outgoing("celery", b"x" * 9000),))
    assert child.storage.settler.settle(consumer, [refused]) == [True]
    (letter,) = app.client.transport.dead_letters()
    assert (letter.document, letter.reason) == (b"no envelope", REASON_REFUSED)


@pytest.mark.parametrize("what", ["result", "callback"])
def test_what_is_refused_for_an_early_acknowledged_task_is_its_failure(
    app: App, child_of: Make, what: str
) -> None:
    @app.task(acks_late=False)
    def give(size):
        return "x" * size

    @app.task
    def take(data, more):
        return None

    link = take.s("y" * 4900) if what == "callback" else None
    with app.client.collecting() as messages:
        result = give.apply_async((9000 if what == "result" else 100,), link=link)
    app.client.transport.send(messages)
    child_of(app).run()
    assert result.state == "FAILURE"
    assert "too large" in str(result.result)
    assert sent(app) == []


def test_an_early_acknowledged_task_waits_for_store_and_broker(app: App, child_of: Make) -> None:
    @app.task(acks_late=False)
    def one():
        return 1

    result = one.apply_async(link=one.si())
    child = child_of(app)
    store = Faulty(child.storage.store)
    store.fail("store", 3, lambda: ResultStoreUnavailable("away"))
    transport = Faulty(child.storage.transport)
    transport.fail("send", 3)
    child.storage.store, child.storage.transport = store, transport  # type: ignore[assignment]
    child.run()
    assert result.get(timeout=1) == 1
    assert (store.calls["store"], transport.calls["send"]) == (5, 4)


def test_a_store_that_refuses_even_a_failure_does_not_hold_up_an_early_acknowledged_task(
    app: App, child_of: Make, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(acks_late=False)
    def one():
        return 1

    one.delay()
    child = child_of(app)
    store = Faulty(child.storage.store)
    store.fail("store", 2, lambda: Unacceptable("nothing at all"))
    child.storage.store = store  # type: ignore[assignment]
    child.run()
    assert "to try again is of no use" in caplog.text
    assert child.words[S_STOP] == Stop.LEAVE


# --- clients ---------------------------------------------------------------------------------------


def test_arguments_too_large_for_any_worker_are_refused_without_a_broker(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    @app.task
    def take(data):
        return None

    monkeypatch.setattr("prefork.engine.client.DOCUMENT_BYTES_MAX", LIMIT_BYTES)
    with pytest.raises(Unacceptable, match="keep large data elsewhere"):
        take.delay("x" * 9000)
    assert app.client.transport.depth("celery").ready == 0


def test_a_refusal_for_good_is_not_tried_again(app: App) -> None:
    @app.task
    def take(data):
        return None

    faulty = Faulty(app.client.transport)
    faulty.fail("send", 5, lambda: Unacceptable("too large"))
    app.client._handles.transport = faulty  # type: ignore[assignment]
    with pytest.raises(Unacceptable):
        take.delay(1)
    assert faulty.calls["send"] == 1


# --- storages ---------------------------------------------------------------------------------------


def test_storages_are_made_with_what_to_do_instead(app: App) -> None:
    storage: Storage = open_storage(app)
    assert storage.settler._instead is not None

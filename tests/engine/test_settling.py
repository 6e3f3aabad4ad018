"""Results kept elsewhere than messages: stored first, and only for messages that are still held."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from prefork.engine.app import App
from prefork.engine.settling import Settler, decode_outcome, encode_outcome
from prefork.engine.storage import open_storage
from prefork.transports.base import Consumer, Outcome, Outgoing, StoredResult, Verdict
from prefork.transports.errors import BrokerUnavailable, ResultStoreUnavailable
from support.apps import memory_app
from support.faulty import Faulty

RESULT = StoredResult("id-1", b'{"status":"SUCCESS"}')


@pytest.fixture
def app() -> Iterator[App]:
    with memory_app(backend="memory://results-of-settling") as made:
        yield made
        made.client.results.forget(["id-1"])


@pytest.fixture
def consumer(app: App) -> Consumer:
    app.client.transport.send([Outgoing("celery", b"document")])
    return app.client.transport.consumer(["celery"], "worker.0.1", "worker")


def outcome(consumer: Consumer) -> Outcome:
    (delivery,) = consumer.reserve(1)
    return Outcome(tag=delivery.tag, results=(RESULT,), follow_ups=(Outgoing("after", b"next"),))


def settler(app: App, store: object) -> Settler:
    return Settler(app.client.transport, store, together=False)  # type: ignore[arg-type]


def test_a_store_of_its_own_is_recognized(app: App) -> None:
    assert open_storage(app).settler._together is False
    with memory_app() as other:
        other.conf.result_backend = other.conf.broker_url
        assert open_storage(other).settler._together is True


def test_results_are_stored_before_the_message_is_acknowledged(app: App, consumer: Consumer) -> None:
    one = outcome(consumer)
    store = Faulty(app.client.results)
    store.fail("store", 1, lambda: ResultStoreUnavailable("away"))
    with pytest.raises(ResultStoreUnavailable):
        settler(app, store).settle(consumer, [one])
    assert consumer.fetch(one.tag) is not None, "still held, to be settled again"
    assert settler(app, store).settle(consumer, [one]) == [True]
    assert app.client.results.get(["id-1"]) == [RESULT.document]
    assert app.client.transport.depth("after").ready == 1


def test_a_broker_that_fails_after_the_store_makes_the_settle_repeatable(
    app: App, consumer: Consumer
) -> None:
    one = outcome(consumer)
    faulty = Faulty(consumer)
    faulty.fail("settle", 1)
    with pytest.raises(BrokerUnavailable):
        settler(app, app.client.results).settle(faulty, [one])  # type: ignore[arg-type]
    assert settler(app, app.client.results).settle(consumer, [one]) == [True]
    assert app.client.transport.depth("after").ready == 1


def test_nothing_is_stored_for_a_message_that_was_taken_back(app: App, consumer: Consumer) -> None:
    one = outcome(consumer)
    app.client.transport.recover("worker.0.1")
    assert settler(app, app.client.results).settle(consumer, [one]) == [False]
    assert app.client.results.get(["id-1"]) == [None]
    assert app.client.transport.depth("after").ready == 0


def test_without_a_store_results_are_dropped(app: App, consumer: Consumer) -> None:
    assert settler(app, None).settle(consumer, [outcome(consumer)]) == [True]


def test_an_outcome_survives_its_process() -> None:
    whole = Outcome(
        b"tag", Verdict.DEFER, 12.5, "why", ("a", "b"), (Outgoing("q", b"d", 3, 1.0),), (RESULT,), True
    )
    assert decode_outcome(encode_outcome(whole)) == whole

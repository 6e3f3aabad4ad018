from __future__ import annotations

from typing import Any

import pytest

from prefork.engine.storage import Storage, open_storage
from prefork.transports.base import Outcome, Outgoing, StoredResult
from prefork.transports.errors import UnsupportedTransport
from prefork.transports.memory import MemoryResults
from support.apps import memory_app

RESULT = StoredResult("id-1", b"document")


class Closed:
    """Counts how often it was closed."""

    def __init__(self) -> None:
        self.times = 0

    def close(self) -> None:
        self.times += 1


def settled_result(storage: Storage, results_name: str) -> list[bytes | None]:
    """What the store of a name holds after one message was settled with a result."""
    storage.transport.send([Outgoing("celery", b"task")])
    consumer = storage.transport.consumer(["celery"], "owner", "worker")
    (delivery,) = consumer.reserve(1)
    assert storage.settler.settle(consumer, [Outcome(delivery.tag, results=(RESULT,))]) == [True]
    return MemoryResults(results_name).get(["id-1"])


def test_what_is_opened_is_what_the_tasks_of_this_process_use() -> None:
    with memory_app(broker="memory://storage-1", result_backend="memory://storage-1") as app:
        storage = open_storage(app)
        assert storage.transport is app.client.transport
        assert storage.store is app.client.results
        assert storage.table is app.client.table


@pytest.mark.parametrize(
    ("settings", "results_name"),
    [
        ({"broker": "memory://storage-2", "result_backend": "memory://storage-2"}, "storage-2"),
        ({"broker": "memory://storage-3", "result_backend": "memory://storage-4"}, "storage-4"),
        (
            {
                "broker": "memory://storage-5",
                "broker_write_url": "memory://storage-6",
                "result_backend": "memory://storage-5",
            },
            "storage-5",
        ),
        (
            {
                "broker": "memory://storage-7",
                "broker_write_url": "memory://storage-8",
                "result_backend": "memory://storage-8",
            },
            "storage-8",
        ),
    ],
)
def test_results_arrive_in_the_store_that_is_configured(settings: dict[str, Any], results_name: str) -> None:
    with memory_app(**settings) as app:
        assert settled_result(open_storage(app), results_name) == [b"document"]


def test_without_a_result_backend_nothing_is_stored() -> None:
    with memory_app(broker="memory://storage-9", result_backend=None) as app:
        storage = open_storage(app)
        assert storage.store is None
        assert settled_result(storage, "storage-9") == [None]
        storage.close()


@pytest.mark.parametrize(
    "settings",
    [{"broker": "nobody://x"}, {"broker": "memory://storage-10", "result_backend": "nobody://x"}],
)
def test_an_address_that_nobody_serves_is_refused(settings: dict[str, Any]) -> None:
    with memory_app(**settings) as app, pytest.raises(UnsupportedTransport) as caught:
        open_storage(app)
    assert caught.value.scheme == "nobody"


def test_closing_closes_broker_and_store() -> None:
    broker, store = Closed(), Closed()
    Storage(broker, store, None, None).close()  # type: ignore[arg-type]
    Storage(broker, None, None, None).close()  # type: ignore[arg-type]
    assert (broker.times, store.times) == (2, 1)


def test_closing_twice_is_harmless() -> None:
    with memory_app(broker="memory://storage-11", result_backend="memory://storage-11") as app:
        storage = open_storage(app)
        storage.close()
        storage.close()
        assert storage.store is not None

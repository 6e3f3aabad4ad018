"""Conformance: `ResultStore`."""

from __future__ import annotations

import json
import pickle
import threading
import time
from collections.abc import Callable

import msgpack
import pytest

from prefork.transports.base import ResultStore, StoredResult, Transport
from support.waiting import Background, eventually

from .conftest import Broker

pytestmark = pytest.mark.result_stores

AWKWARD_KEYS = [
    "3f1c8f0e-4f55-4b52-8d0e-5d6a2d7b9a11",
    "../../escape",
    "..",
    ".",
    "/abs",
    "a/b",
    "with space",
    "é-队列-🚀",
    "x" * 300,
    "x" * 299 + "y",
    "%41",
    "A",
    "a",
]


def document(status: str, result: object = None) -> bytes:
    return json.dumps({"status": status, "result": result}).encode()


def stored(key: str, status: str, result: object = None, expires_s: float | None = None) -> StoredResult:
    final = status in {"SUCCESS", "FAILURE", "REVOKED"}
    return StoredResult(key, document(status, result), expires_s, final)


@pytest.fixture
def key(broker: Broker) -> str:
    return broker.unique("task")


@pytest.fixture
def connected(broker: Broker, store: ResultStore) -> ResultStore:
    """The store, with a connection to wait on: to get one may outlast a short wait, which then fails."""
    there = broker.unique("there")
    store.store([stored(there, "SUCCESS")])
    assert store.wait([there], 10.0)
    return store


@pytest.mark.needs("any_bytes")
def test_a_document_is_read_as_it_was_written(store: ResultStore, key: str) -> None:
    raw = bytes(range(256)) * 20
    store.store([StoredResult(key, raw)])
    assert store.get([key]) == [raw]


def test_a_large_document_is_read_whole(store: ResultStore, key: str) -> None:
    large = document("SUCCESS", "x" * 3_000_000)
    store.store([StoredResult(key, large)])
    assert store.get([key]) == [large]


def test_get_answers_in_the_order_of_the_keys_with_none_for_the_missing(
    store: ResultStore, broker: Broker
) -> None:
    keys = [broker.unique(f"task{i}") for i in range(4)]
    store.store([stored(keys[2], "SUCCESS", 2), stored(keys[0], "FAILURE", 0)])
    expected = [document("FAILURE", 0), None, document("SUCCESS", 2), None]
    assert store.get(keys) == expected
    assert store.get([keys[2], keys[2]]) == [document("SUCCESS", 2)] * 2
    assert store.get([]) == []


def test_keys_match_exactly(store: ResultStore, broker: Broker) -> None:
    keys = [broker.unique("") + key for key in AWKWARD_KEYS]
    store.store([stored(key, "SUCCESS", key) for key in keys])
    assert store.get(keys) == [document("SUCCESS", key) for key in keys]


@pytest.mark.parametrize("key", ["../../escape", "..", ".", "", "/", "x" * 5000, "nul\0"])
def test_an_awkward_key_alone_cannot_leave_the_store(store: ResultStore, key: str) -> None:
    store.store([stored(key, "FAILURE")])
    assert store.get([key]) == [document("FAILURE")]
    store.forget([key])
    assert store.get([key]) == [None]


@pytest.mark.needs("results")
def test_another_handle_reads_the_same(broker: Broker, key: str) -> None:
    broker.results().store([stored(key, "SUCCESS")])
    assert broker.results().get([key]) == [document("SUCCESS")]


@pytest.mark.parametrize("first", ["STARTED", "RETRY", "FAILURE", "REVOKED", "PROGRESS"])
def test_any_state_but_success_is_overwritten(store: ResultStore, key: str, first: str) -> None:
    store.store([stored(key, first)])
    store.store([stored(key, "SUCCESS", "late")])
    assert store.get([key]) == [document("SUCCESS", "late")]


@pytest.mark.parametrize("second", ["STARTED", "RETRY", "FAILURE", "REVOKED", "SUCCESS"])
def test_a_success_is_never_overwritten(store: ResultStore, key: str, second: str) -> None:
    store.store([stored(key, "SUCCESS", "first")])
    store.store([stored(key, second, "second")])
    assert store.get([key]) == [document("SUCCESS", "first")]


def test_a_success_is_not_overwritten_within_one_call(store: ResultStore, key: str) -> None:
    store.store([stored(key, "SUCCESS", "first"), stored(key, "FAILURE", "second")])
    assert store.get([key]) == [document("SUCCESS", "first")]


@pytest.mark.needs("any_bytes")
@pytest.mark.parametrize(
    "success",
    [
        b'{"status": "SUCCESS", "result": NaN}',
        b'{"result": "\\ud800", "status": "SUCCESS"}',
        msgpack.packb({"status": "SUCCESS", "result": b"\0"}),
        pickle.dumps({"status": "SUCCESS", "result": {1, 2}}, protocol=2),
        pickle.dumps({"status": "SUCCESS", "result": {1, 2}}, protocol=5),
    ],
)
def test_a_success_is_known_in_every_serialization(store: ResultStore, key: str, success: bytes) -> None:
    store.store([StoredResult(key, success)])
    store.store([stored(key, "FAILURE")])
    assert store.get([key]) == [success]


@pytest.mark.needs("any_bytes")
@pytest.mark.parametrize(
    "other",
    [
        b"",
        b"not a document",
        b"{",
        b"[1]",
        b'{"status": 7}',
        b'{"result": "SUCCESS"}',
        b'{"status": "FAILURE", "result": "SUCCESS"}',
        msgpack.packb({"status": "FAILURE", "result": "SUCCESS"}),
        pickle.dumps({"result": 1}),
    ],
)
def test_what_is_no_success_is_overwritten(store: ResultStore, key: str, other: bytes) -> None:
    store.store([StoredResult(key, other)])
    store.store([stored(key, "SUCCESS")])
    assert store.get([key]) == [document("SUCCESS")]


def test_a_forgotten_document_is_gone_and_may_come_again(store: ResultStore, key: str) -> None:
    store.store([stored(key, "SUCCESS", 1)])
    store.forget([key, key + "-missing"])
    assert store.get([key]) == [None]
    store.forget([key])
    store.forget([])
    store.store([stored(key, "FAILURE")])
    assert store.get([key]) == [document("FAILURE")]


def test_an_expired_document_is_gone(store: ResultStore, key: str) -> None:
    began_mono_s = time.monotonic()
    store.store([stored(key, "SUCCESS", "old", expires_s=0.5)])
    first = store.get([key])
    # Where the machine stood still in between, its time was over.
    assert first == [document("SUCCESS", "old")] or time.monotonic() - began_mono_s >= 0.5
    eventually(lambda: store.get([key]) == [None])
    assert store.wait([key], 0.0) == {}


def test_an_expired_success_is_overwritten(store: ResultStore, key: str) -> None:
    store.store([stored(key, "SUCCESS", "old", expires_s=0.01)])
    eventually(lambda: store.get([key]) == [None])
    store.store([stored(key, "FAILURE", "new")])
    assert store.get([key]) == [document("FAILURE", "new")]


def test_no_lifetime_is_not_a_lifetime_of_none(store: ResultStore, broker: Broker) -> None:
    kept, gone = broker.unique("kept"), broker.unique("gone")
    store.store([stored(kept, "SUCCESS", expires_s=None), stored(gone, "SUCCESS", expires_s=0.0)])
    eventually(lambda: store.get([gone]) == [None])
    assert store.get([kept]) == [document("SUCCESS")]


def test_expire_drops_the_expired_and_spares_the_rest(store: ResultStore, broker: Broker) -> None:
    old = [broker.unique(f"old{i}") for i in range(20)]
    young = [broker.unique(f"young{i}") for i in range(5)]
    store.store([stored(key, "SUCCESS", expires_s=0.01) for key in old])
    store.store([stored(key, "SUCCESS", expires_s=600.0) for key in young[:3]])
    store.store([stored(key, "SUCCESS") for key in young[3:]])
    eventually(lambda: store.get(old) == [None] * 20)
    to_drop = 0 if broker.implementation.expires_itself else 20
    dropped = 0

    def all_dropped() -> bool:
        nonlocal dropped
        answer = store.expire(limit=6)
        assert 0 <= answer <= 6
        dropped += answer
        return dropped >= to_drop

    eventually(all_dropped)
    assert dropped == to_drop
    assert store.get(young) == [document("SUCCESS")] * 5


def test_waiting_ends_at_once_when_the_document_is_there(store: ResultStore, key: str) -> None:
    store.store([stored(key, "FAILURE")])
    assert store.wait([key], None) == {key: document("FAILURE")}
    assert store.wait([key], 0.0) == {key: document("FAILURE")}


def test_waiting_ends_when_the_time_is_over(connected: ResultStore, key: str) -> None:
    store = connected
    started_mono_s = time.monotonic()
    assert store.wait([key], 0.1) == {}
    assert 0.09 <= time.monotonic() - started_mono_s < 3.0
    assert store.wait([key], 0.0) == {}


def test_waiting_for_nothing_ends_at_once(store: ResultStore) -> None:
    assert store.wait([], None) == {}


def test_a_document_written_meanwhile_ends_the_wait(broker: Broker, store: ResultStore, key: str) -> None:
    waiting = Background(lambda: store.wait([key], 10.0))
    broker.results().store([stored(key, "SUCCESS", 7)])
    assert waiting.result(5.0) == {key: document("SUCCESS", 7)}


def test_only_a_final_document_ends_the_wait(broker: Broker, connected: ResultStore, key: str) -> None:
    store, writer = connected, broker.results()
    writer.store([stored(key, "STARTED")])
    assert store.wait([key], 0.05) == {}
    waiting = Background(lambda: store.wait([key], 10.0))
    for state in ("RETRY", "PROGRESS", "STARTED"):
        writer.store([stored(key, state)])
    assert waiting.running
    writer.store([stored(key, "SUCCESS", 3)])
    assert waiting.result(5.0) == {key: document("SUCCESS", 3)}


def test_one_of_several_keys_ends_the_wait(broker: Broker, store: ResultStore) -> None:
    keys = [broker.unique(f"task{i}") for i in range(50)]
    waiting = Background(lambda: store.wait(keys, 10.0))
    broker.results().store([stored(keys[33], "REVOKED")])
    assert waiting.result(5.0) == {keys[33]: document("REVOKED")}
    broker.results().store([stored(keys[1], "SUCCESS")])
    assert set(store.wait(keys, 10.0)) == {keys[1], keys[33]}


def test_many_threads_wait_at_once_each_for_its_own(broker: Broker, store: ResultStore) -> None:
    keys = [broker.unique(f"task{i}") for i in range(24)]
    ready = threading.Barrier(len(keys) + 1)

    def wait_for(key: str) -> Callable[[], dict[str, bytes]]:
        def _wait() -> dict[str, bytes]:
            ready.wait()
            return store.wait([key], 15.0)

        return _wait

    waiting = [Background(wait_for(key)) for key in keys]
    ready.wait()
    writer = broker.results()
    for key in reversed(keys):
        writer.store([stored(key, "SUCCESS", key)])
    for key, one in zip(keys, waiting):
        assert one.result(15.0) == {key: document("SUCCESS", key)}


def test_no_document_slips_between_looking_and_waiting(broker: Broker, store: ResultStore) -> None:
    writer = broker.results()
    for i in range(60):
        key = broker.unique(f"race{i}")
        writing = Background(lambda key=key: writer.store([stored(key, "SUCCESS")]))
        assert store.wait([key], 8.0) == {key: document("SUCCESS")}
        writing.result()


def test_a_group_is_kept_apart_from_results(store: ResultStore, key: str) -> None:
    store.save_group(key, b"group document", None)
    assert store.get([key]) == [None]
    store.store([stored(key, "SUCCESS")])
    assert store.get_group(key) == b"group document"
    store.forget([key])
    assert store.get_group(key) == b"group document"
    store.forget_group(key)
    store.forget_group(key)
    assert store.get_group(key) is None


def test_a_group_may_be_saved_again(broker: Broker, store: ResultStore, key: str) -> None:
    store.save_group(key, b"one", 600.0)
    store.save_group(key, b"two", 600.0)
    assert broker.results().get_group(key) == b"two"


def test_a_group_expires(store: ResultStore, key: str) -> None:
    store.save_group(key, b"group", 0.05)
    eventually(lambda: store.get_group(key) is None)


@pytest.mark.needs("results")
def test_housekeeping_of_the_transport_and_closing_leave_living_results(
    broker: Broker, transport: Transport, key: str
) -> None:
    store = broker.results()
    store.store([stored(key, "SUCCESS", expires_s=600.0)])
    assert transport.maintain() == []
    store.close()
    store.close()
    assert broker.results().get([key]) == [document("SUCCESS")]

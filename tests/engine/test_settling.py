from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine.settling import Settler, decode_outcome, encode_outcome
from prefork.transports.base import Delivery, Outcome, Outgoing, StoredResult, Verdict
from prefork.transports.errors import ResultStoreUnavailable
from prefork.transports.memory import MemoryResults, MemoryTransport

RESULT = StoredResult("id-1", b"document", 60.0)


class Journal:
    """A consumer and a store in one, which write down in which order they are called."""

    def __init__(self, held: Sequence[bytes] = (), store_error: Exception | None = None) -> None:
        self.held = set(held)
        self.store_error = store_error
        self.calls: list[str] = []
        self.stored: list[StoredResult] = []
        self.settled: list[Outcome] = []

    def fetch(self, tag: bytes) -> Delivery | None:
        self.calls.append("fetch")
        return Delivery(tag, "celery", b"") if tag in self.held else None

    def store(self, results: Sequence[StoredResult]) -> None:
        self.calls.append("store")
        if self.store_error is not None:
            raise self.store_error
        self.stored.extend(results)

    def settle(self, outcomes: Sequence[Outcome]) -> list[bool]:
        self.calls.append("settle")
        self.settled.extend(outcomes)
        return [outcome.tag in self.held for outcome in outcomes]


def apart(journal: Journal) -> Settler:
    """A settler whose store is not the broker."""
    return Settler(None, journal, together=False)  # type: ignore[arg-type]


@pytest.fixture
def broker(request: pytest.FixtureRequest) -> Iterator[MemoryTransport]:
    transport = MemoryTransport(f"settling-{request.node.name}")
    yield transport
    transport.close()


def test_a_store_kept_by_the_broker_is_settled_in_the_same_call() -> None:
    journal = Journal([b"1"])
    settler = Settler(None, journal, together=True)  # type: ignore[arg-type]
    outcome = Outcome(b"1", results=(RESULT,))
    assert settler.settle(journal, [outcome]) == [True]  # type: ignore[arg-type]
    assert journal.calls == ["settle"]
    assert journal.settled == [outcome]


@pytest.mark.parametrize("together", [True, False])
def test_without_a_store_results_are_left_out(together: bool) -> None:
    journal = Journal([b"1"])
    settler = Settler(None, None, together=together)  # type: ignore[arg-type]
    follow_up = Outgoing("celery", b"next")
    outcome = Outcome(b"1", results=(RESULT,), follow_ups=(follow_up,))
    assert settler.settle(journal, [outcome]) == [True]  # type: ignore[arg-type]
    assert journal.calls == ["settle"]
    assert journal.settled == [Outcome(b"1", follow_ups=(follow_up,))]


def test_a_store_of_its_own_is_written_before_the_message_is_settled() -> None:
    journal = Journal([b"1"])
    assert apart(journal).settle(journal, [Outcome(b"1", results=(RESULT,))]) == [True]  # type: ignore[arg-type]
    assert journal.calls == ["fetch", "store", "settle"]
    assert journal.stored == [RESULT]
    assert journal.settled == [Outcome(b"1")]


def test_outcomes_without_results_touch_no_store() -> None:
    journal = Journal([b"1"])
    assert apart(journal).settle(journal, [Outcome(b"1", Verdict.REQUEUE)]) == [True]  # type: ignore[arg-type]
    assert journal.calls == ["settle"]
    assert journal.settled == [Outcome(b"1", Verdict.REQUEUE)]


def test_the_result_of_a_message_taken_back_is_not_stored() -> None:
    journal = Journal([b"2"])
    mine = StoredResult("id-2", b"mine")
    outcomes = [Outcome(b"1", results=(RESULT,)), Outcome(b"2", results=(mine,))]
    assert apart(journal).settle(journal, outcomes) == [False, True]  # type: ignore[arg-type]
    assert journal.stored == [mine]


def test_when_every_message_was_taken_back_the_store_is_not_called() -> None:
    journal = Journal()
    assert apart(journal).settle(journal, [Outcome(b"1", results=(RESULT,))]) == [False]  # type: ignore[arg-type]
    assert "store" not in journal.calls


def test_a_store_that_is_away_leaves_the_message_unsettled_until_the_next_call() -> None:
    journal = Journal([b"1"], ResultStoreUnavailable("away"))
    settler, outcomes = apart(journal), [Outcome(b"1", results=(RESULT,))]
    with pytest.raises(ResultStoreUnavailable):
        settler.settle(journal, outcomes)  # type: ignore[arg-type]
    assert journal.settled == []
    journal.store_error = None
    assert settler.settle(journal, outcomes) == [True]  # type: ignore[arg-type]
    assert journal.stored == [RESULT]


@pytest.mark.parametrize("together", [True, False])
def test_a_real_broker_keeps_result_and_follow_up_and_lets_the_message_go(
    broker: MemoryTransport, request: pytest.FixtureRequest, together: bool
) -> None:
    own = f"settling-{request.node.name}"
    store = MemoryResults(own if together else own + "-results")
    broker.send([Outgoing("celery", b"task")])
    consumer = broker.consumer(["celery"], "owner", "worker")
    (delivery,) = consumer.reserve(1)
    outcome = Outcome(delivery.tag, results=(RESULT,), follow_ups=(Outgoing("later", b"next"),))
    settler = Settler(broker, store, together=together)
    assert settler.settle(consumer, [outcome]) == [True]
    assert settler.settle(consumer, [outcome]) == [False]
    assert store.get(["id-1"]) == [b"document"]
    assert broker.depth("later").ready == 1
    assert broker.depth("celery").in_work == 0


@pytest.mark.parametrize("together", [True, False])
def test_a_real_broker_that_took_the_message_back_gets_no_result(
    broker: MemoryTransport, request: pytest.FixtureRequest, together: bool
) -> None:
    own = f"settling-{request.node.name}"
    store = MemoryResults(own if together else own + "-results")
    broker.send([Outgoing("celery", b"task")])
    consumer = broker.consumer(["celery"], "owner", "worker")
    (delivery,) = consumer.reserve(1)
    broker.recover("owner")
    outcome = Outcome(delivery.tag, results=(RESULT,), follow_ups=(Outgoing("later", b"next"),))
    assert Settler(broker, store, together=together).settle(consumer, [outcome]) == [False]
    assert store.get(["id-1"]) == [None]
    assert broker.depth("later").ready == 0
    assert broker.depth("celery").ready == 1


times = st.none() | st.floats(allow_nan=False)
outgoing = st.builds(Outgoing, st.text(), st.binary(), st.integers(0, 9), times)
stored = st.builds(StoredResult, st.text(), st.binary(), times, st.booleans())


@given(
    st.builds(
        Outcome,
        st.binary(max_size=62),
        st.sampled_from(Verdict),
        times,
        st.text(),
        st.lists(st.text(), max_size=3).map(tuple),
        st.lists(outgoing, max_size=3).map(tuple),
        st.lists(stored, max_size=3).map(tuple),
        st.booleans(),
    )
)
def test_every_outcome_survives_being_written_as_bytes(outcome: Outcome) -> None:
    again = decode_outcome(encode_outcome(outcome))
    assert again == outcome
    assert isinstance(again.verdict, Verdict)


@pytest.mark.parametrize(
    "data", [b"", b"\xc0", b"\x91\x01", encode_outcome(Outcome(b"tag"))[:-1], b"\x92\xc4\x00\x09"]
)
def test_bytes_that_are_no_outcome_are_refused(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_outcome(data)


@given(st.binary(max_size=64))
def test_any_bytes_are_an_outcome_or_a_decode_error(data: bytes) -> None:
    try:
        outcome = decode_outcome(data)
    except msgspec.DecodeError as error:
        assert str(error)
    else:
        assert isinstance(outcome, Outcome)

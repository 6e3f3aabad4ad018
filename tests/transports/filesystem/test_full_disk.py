"""A disk that is full from any call on: nothing half-done, a clear error; what is there can be drained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from prefork.transports.base import Outcome, Outgoing, StoredResult, Verdict
from prefork.transports.errors import BrokerFull, BrokerUnavailable, ResultStoreUnavailable
from prefork.transports.filesystem.results import FilesystemResults
from prefork.transports.filesystem.transport import FilesystemTransport
from support.failing_files import FullAt

FAR_WALL_S = 4_000_000_000.0
SUCCESS = b'{"status": "SUCCESS"}'
CALLS_MAX = 100


def at_every_call(tmp_path: Path, attempt: Callable[[Path, FullAt], None]) -> int:
    """Run `attempt` with the disk full from the first call on, then from the second, until none fails."""
    for number in range(1, CALLS_MAX):
        ops = FullAt(number)
        attempt(tmp_path / str(number), ops)
        if not ops.hit:
            return number
    raise AssertionError(f"more than {CALLS_MAX} calls")


def documents(transport: FilesystemTransport, queue: str) -> list[bytes]:
    found = transport.peek(queue, 1000) + transport.peek(queue, 1000, delayed=True)
    return [one.document for one in found]


def test_a_send_that_does_not_fit_stores_none_of_its_messages(tmp_path: Path) -> None:
    batch = [Outgoing("q", b"%03d" % i, i % 3, FAR_WALL_S if i % 5 == 0 else None) for i in range(600)]

    def attempt(root: Path, ops: FullAt) -> None:
        transport = FilesystemTransport(root, ops=ops)
        transport.send([Outgoing("q", b"before")])
        ops.armed = True
        try:
            transport.send(batch)
            stored = Counter(one.document for one in batch)
        except BrokerFull as error:
            assert ops.hit and "free some space" in str(error)
            stored = Counter()
        assert Counter(documents(transport, "q")) == stored + Counter([b"before"])
        ops.armed = False
        transport.send([Outgoing("q", b"after")])
        assert documents(transport, "q").count(b"after") == 1
        transport.close()

    assert at_every_call(tmp_path, attempt) > 5


def test_a_settle_that_does_not_fit_keeps_everything_held(tmp_path: Path) -> None:
    def attempt(root: Path, ops: FullAt) -> None:
        transport = FilesystemTransport(root, ops=ops)
        transport.send([Outgoing("q", b"a"), Outgoing("q", b"b")])
        consumer = transport.consumer(["q"], "owner", "worker")
        tags = [one.tag for one in consumer.reserve(2)]
        outcomes = [
            Outcome(tags[0], follow_ups=(Outgoing("r", b"next"),), results=(StoredResult("k", SUCCESS),)),
            Outcome(tags[1], Verdict.DEAD, reason="why"),
        ]
        ops.armed = True
        try:
            assert consumer.settle(outcomes) == [True, True]
        except BrokerFull as error:
            assert not error.outcome_unknown
            assert transport.depth("q").in_work == 2
            ops.armed = False
            assert documents(transport, "r") == []
            assert consumer.settle(outcomes) == [True, True]
        except BrokerUnavailable as error:
            # The parents were settled; what was prepared becomes visible as soon as there is room.
            assert error.outcome_unknown
            ops.armed = False
            assert consumer.settle(outcomes) == [False, False]
        assert documents(transport, "r") == [b"next"]
        assert [one.document for one in transport.dead_letters()] == [b"b"]
        store = FilesystemResults(root)
        assert store.get(["k"]) == [SUCCESS]
        assert transport.depth("q").in_work == 0
        store.close()
        transport.close()

    assert at_every_call(tmp_path, attempt) > 5


def test_a_full_disk_can_be_drained(tmp_path: Path) -> None:
    ops = FullAt(1)
    transport = FilesystemTransport(tmp_path / "broker", ops=ops)
    transport.send([Outgoing("q", b"%d" % i) for i in range(400)])
    consumer = transport.consumer(["q"], "owner", "worker")
    ops.armed = True
    drained = 0
    while batch := consumer.reserve(50):
        returned = batch.pop()
        assert consumer.give_back([returned.tag]) == 1
        drained += sum(consumer.settle([Outcome(one.tag) for one in batch]))
        if not batch:
            assert consumer.settle([Outcome(consumer.reserve(1)[0].tag)]) == [True]
            drained += 1
    assert drained == 400
    assert not ops.hit
    with pytest.raises(BrokerFull):
        transport.send([Outgoing("q", b"one more"), Outgoing("q", b"and another")])
    transport.close()


def test_a_crash_is_counted_although_its_cause_cannot_be_written(tmp_path: Path) -> None:
    ops = FullAt(1)
    transport = FilesystemTransport(tmp_path / "broker", ops=ops)
    transport.send([Outgoing("q", b"a")])
    tag = transport.consumer(["q"], "dead", "worker").reserve(1)[0].tag
    ops.armed = True
    assert transport.recover("dead", running=tag, cause="signal 9").crashed == (b"a",)
    ops.armed = False
    assert transport.consumer(["q"], "next", "worker").reserve(1)[0].crashes == 1
    assert any("cannot record" in line for line in transport.maintain())
    transport.close()


def test_a_result_that_does_not_fit_leaves_the_old_one(tmp_path: Path) -> None:
    def attempt(root: Path, ops: FullAt) -> None:
        store = FilesystemResults(root, ops=ops)
        store.store([StoredResult("k", b"{}", final=False)])
        ops.armed = True
        try:
            store.store([StoredResult("k", SUCCESS)])
            expected = SUCCESS
        except ResultStoreUnavailable as error:
            assert "'k'" in str(error)
            expected = b"{}"
        assert store.get(["k"]) == [expected]
        store.close()

    assert at_every_call(tmp_path, attempt) >= 3

"""How many messages are where, while others move them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from prefork.transports.base import (
    Consumer,
    Delivery,
    Depth,
    Outcome,
    Outgoing,
    StoredResult,
    Verdict,
)
from prefork.transports.filesystem import FilesystemTransport
from prefork.transports.filesystem.consequences import Consequences
from prefork.transports.filesystem.queuedir import QueueDir
from prefork.transports.filesystem.results import FilesystemResults
from support.waiting import Background

DAY_S = 86_400.0
SUCCESS = b'{"status": "SUCCESS"}'


@pytest.fixture
def transport(tmp_path: Path) -> FilesystemTransport:
    return FilesystemTransport(tmp_path / "broker")


def test_what_is_settled_is_in_work_until_its_result_and_what_follows_are_there(
    tmp_path: Path, transport: FilesystemTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a worker that stands still between the decision and its consequences,
    committed, go_on = threading.Event(), threading.Event()
    forward = Consequences.forward

    def stands_still(*arguments: Any) -> None:
        committed.set()
        assert go_on.wait(20.0)
        forward(*arguments)

    results = FilesystemResults(tmp_path / "broker")
    transport.send([Outgoing("q", b"m")])
    consumer = transport.consumer(["q"], "owner", "worker")
    (held,) = consumer.reserve(1)
    monkeypatch.setattr(Consequences, "forward", stands_still)
    told = Outcome(held.tag, results=(StoredResult("id", SUCCESS),), follow_ups=(Outgoing("q", b"next"),))
    settling = Background(lambda: consumer.settle([told]))
    assert committed.wait(20.0)
    # then the queue is not empty: no result is there.
    assert results.get(["id"]) == [None]
    assert transport.depth("q") == Depth(0, 0, 1)
    go_on.set()
    assert settling.result(20.0) == [True]
    assert transport.depth("q") == Depth(1, 0, 0)
    assert results.get(["id"]) == [SUCCESS]


def followed(transport: FilesystemTransport, consumer: Consumer, held: Delivery) -> None:
    follow_up = Outgoing("q", b"next", 7)
    assert consumer.settle([Outcome(held.tag, follow_ups=(follow_up,))]) == [True]


def followed_later(transport: FilesystemTransport, consumer: Consumer, held: Delivery) -> None:
    follow_up = Outgoing("q", b"next", 7, time.time() + DAY_S)
    assert consumer.settle([Outcome(held.tag, follow_ups=(follow_up,))]) == [True]


def deferred(transport: FilesystemTransport, consumer: Consumer, held: Delivery) -> None:
    outcome = Outcome(held.tag, Verdict.DEFER, due_wall_s=time.time() + DAY_S)
    assert consumer.settle([outcome]) == [True]


def returned(transport: FilesystemTransport, consumer: Consumer, held: Delivery) -> None:
    consumer.settle([Outcome(held.tag, Verdict.REQUEUE, crashed=True)])


def sent(transport: FilesystemTransport, consumer: Consumer, held: Delivery) -> None:
    transport.send([Outgoing("q", b"next", 7)])
    assert consumer.settle([Outcome(held.tag)]) == [True]


def several_sent(transport: FilesystemTransport, consumer: Consumer, held: Delivery) -> None:
    transport.send([Outgoing("q", b"next", 7), Outgoing("elsewhere", b"other")])
    assert consumer.settle([Outcome(held.tag)]) == [True]


def sent_for_later(transport: FilesystemTransport, consumer: Consumer, held: Delivery) -> None:
    transport.send([Outgoing("q", b"next", 7, time.time() + DAY_S)])
    assert consumer.settle([Outcome(held.tag)]) == [True]


def recovered(transport: FilesystemTransport, consumer: Consumer, held: Delivery) -> None:
    assert transport.recover("owner").returned == 1


def replayed(transport: FilesystemTransport, consumer: Consumer, held: Delivery) -> None:
    consumer.settle([Outcome(held.tag, Verdict.DEAD, reason="no")])
    (letter,) = transport.dead_letters(5)
    assert transport.dead_replay(letter.key)


@pytest.mark.parametrize("minutes", [0, 70])
@pytest.mark.parametrize(
    ("moves", "ready", "delayed"),
    [
        (followed, 1, 0),
        (followed_later, 0, 1),
        (deferred, 0, 1),
        (returned, 1, 0),
        (sent, 1, 0),
        (several_sent, 1, 0),
        (sent_for_later, 0, 1),
        (recovered, 1, 0),
        (replayed, 1, 0),
    ],
)
def test_what_moves_while_a_queue_is_counted_is_somewhere(
    transport: FilesystemTransport,
    monkeypatch: pytest.MonkeyPatch,
    moves: Callable[[FilesystemTransport, Consumer, Delivery], None],
    ready: int,
    delayed: int,
    minutes: int,
) -> None:
    # Given a message that goes elsewhere after its queue's segments were listed, maybe beside many others
    transport.send([Outgoing("q", b"m", 3)])
    later_s = time.time() + DAY_S / 2
    transport.send([Outgoing("q", b"due", 3, later_s + 60 * minute) for minute in range(minutes)])
    consumer = transport.consumer(["q"], "owner", "worker")
    (held,) = consumer.reserve(1)
    visit_segments, moved = QueueDir.visit_segments, []

    def meanwhile(queue: QueueDir, ids: Iterable[Any], visit: Any) -> None:
        if not moved:
            moved.append(True)
            moves(transport, consumer, held)
        visit_segments(queue, ids, visit)

    monkeypatch.setattr(QueueDir, "visit_segments", meanwhile)
    # then it is counted all the same.
    assert transport.depth("q") == Depth(ready, minutes + delayed, 0)
    assert moved == [True]


def test_a_queue_that_never_rests_is_not_counted_for_ever(
    transport: FilesystemTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    visit_segments, visits = QueueDir.visit_segments, []
    due_s = time.time() + DAY_S
    transport.send([Outgoing("q", b"first", due_wall_s=due_s)])

    def restless(queue: QueueDir, ids: Iterable[Any], visit: Any) -> None:
        visits.append(len(visits))
        visit_segments(queue, ids, visit)
        transport.send([Outgoing("q", b"next", due_wall_s=due_s)])

    monkeypatch.setattr(QueueDir, "visit_segments", restless)
    assert transport.depth("q") == Depth(0, 8, 0)
    assert len(visits) == 8

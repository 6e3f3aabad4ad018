"""How many messages are where, while others move them."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from prefork.transports.base import Depth, Outcome, Outgoing, StoredResult
from prefork.transports.filesystem import FilesystemTransport
from prefork.transports.filesystem.consequences import Consequences
from prefork.transports.filesystem.queuedir import QueueDir
from prefork.transports.filesystem.results import FilesystemResults
from support.waiting import Background

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


def test_what_moves_while_a_queue_is_counted_is_somewhere(
    transport: FilesystemTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a message that is settled, and followed by another, after its queue's segments were listed
    transport.send([Outgoing("q", b"m", 3)])
    consumer = transport.consumer(["q"], "owner", "worker")
    (held,) = consumer.reserve(1)
    visit_segments, moved = QueueDir.visit_segments, []

    def moves(queue: QueueDir, ids: Iterable[Any], visit: Any) -> None:
        if not moved:
            moved.append(consumer.settle([Outcome(held.tag, follow_ups=(Outgoing("q", b"next", 7),))]))
        visit_segments(queue, ids, visit)

    monkeypatch.setattr(QueueDir, "visit_segments", moves)
    # then it is counted all the same.
    assert transport.depth("q") == Depth(1, 0, 0)
    assert moved == [[True]]

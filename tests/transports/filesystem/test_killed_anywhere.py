"""SIGKILL before every call that changes the disk: each message stays whole and in exactly one place."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from prefork.transports.base import Outcome, Outgoing, StoredResult, Verdict
from prefork.transports.filesystem import clock
from prefork.transports.filesystem.results import FilesystemResults
from prefork.transports.filesystem.transport import FilesystemTransport
from support.failing_files import KilledAt, run_in_child

pytestmark = pytest.mark.slow

VICTIM = "victim"
FAR_WALL_S = 4_000_000_000.0
SUCCESS = b'{"status": "SUCCESS", "result": null}'
CALLS_MAX = 400

Setup = Callable[[FilesystemTransport], None]
Action = Callable[[FilesystemTransport, KilledAt], None]
Check = Callable[["Found", bool], None]


class Found:
    """Everything in the broker, after the victim was recovered."""

    def __init__(self, root: Path) -> None:
        self.transport = FilesystemTransport(root)
        self.transport.recover(VICTIM)
        self.transport.maintain()
        self.transport.promote()
        self.queues = self.transport.queues()
        self.waiting = Counter(
            one.document for name in self.queues for one in self.transport.peek(name, 1000, delayed=True)
        )
        self.dead = Counter(one.document for one in self.transport.dead_letters())
        self.crashes: dict[bytes, int] = {}
        self.ready: Counter[bytes] = Counter()
        self.order: list[bytes] = []
        self._drain()
        self.results = FilesystemResults(root)
        for name in self.queues:
            depth = self.transport.depth(name)
            assert (depth.ready, depth.in_work) == (0, 0)
            assert self.transport.ready([name]) == 0

    def _drain(self) -> None:
        consumer = self.transport.consumer(self.queues, "auditor", "auditing")
        while batch := consumer.reserve(64):
            assert all(consumer.settle([Outcome(one.tag) for one in batch]))
            for one in batch:
                self.ready[one.document] += 1
                self.order.append(one.document)
                self.crashes[one.document] = one.crashes
        consumer.close()

    @property
    def everywhere(self) -> Counter[bytes]:
        return self.waiting + self.dead + self.ready

    def result(self, key: str) -> bytes | None:
        return self.results.get([key])[0]

    def close(self) -> None:
        self.results.close()
        self.transport.close()


def kill_everywhere(tmp_path: Path, setup: Setup, action: Action, check: Check) -> int:
    """Run `action` once for each call it makes, killed before that call; returns the number of calls."""
    for number in range(1, CALLS_MAX):
        root = tmp_path / str(number)
        prepared = FilesystemTransport(root)
        setup(prepared)
        prepared.close()

        def act(root: Path = root, number: int = number) -> None:
            ops = KilledAt(number)
            action(FilesystemTransport(root, ops=ops), ops)

        finished = run_in_child(act)
        found = Found(root)
        check(found, finished)
        found.close()
        if finished:
            return number
    raise AssertionError(f"more than {CALLS_MAX} calls")


def once(*documents: bytes) -> Counter[bytes]:
    return Counter(documents)


def three_ready(transport: FilesystemTransport) -> None:
    transport.send([Outgoing("q", document) for document in (b"a", b"b", b"c")])


def test_a_killed_sender_leaves_whole_messages_or_none(tmp_path: Path) -> None:
    sent = [
        Outgoing("q", b"one", 0),
        Outgoing("q", b"two", 9),
        Outgoing("q", b"three", 0, FAR_WALL_S),
        Outgoing("r", b"four" * 1000, 3),
    ]

    def send(transport: FilesystemTransport, ops: KilledAt) -> None:
        ops.armed = True
        transport.send(sent)

    def check(found: Found, finished: bool) -> None:
        allowed = once(*(one.document for one in sent))
        assert found.everywhere <= allowed
        assert not finished or found.everywhere == allowed
        # Whatever was left behind, the queue goes on.
        found.transport.send([Outgoing("q", b"later")])
        assert [one.document for one in found.transport.peek("q")] == [b"later"]

    assert kill_everywhere(tmp_path, lambda transport: None, send, check) > 20


def test_a_killed_consumer_loses_nothing_and_acknowledges_all_or_nothing(tmp_path: Path) -> None:
    def consume(transport: FilesystemTransport, ops: KilledAt) -> None:
        consumer = transport.consumer(["q"], VICTIM, "worker")
        ops.armed = True
        batch = consumer.reserve(2)
        assert consumer.settle([Outcome(one.tag) for one in batch]) == [True, True]

    def check(found: Found, finished: bool) -> None:
        assert found.everywhere in (once(b"a", b"b", b"c"), once(b"c"))
        assert found.order == sorted(found.order)
        assert not finished or found.everywhere == once(b"c")

    assert kill_everywhere(tmp_path, three_ready, consume, check) >= 5


def test_a_killed_give_back_loses_nothing_and_keeps_the_order(tmp_path: Path) -> None:
    def give_back(transport: FilesystemTransport, ops: KilledAt) -> None:
        consumer = transport.consumer(["q"], VICTIM, "worker")
        batch = consumer.reserve(2)
        ops.armed = True
        assert consumer.give_back([one.tag for one in batch]) == 2

    def check(found: Found, finished: bool) -> None:
        assert found.order == [b"a", b"b", b"c"]
        assert set(found.crashes.values()) == {0}

    assert kill_everywhere(tmp_path, three_ready, give_back, check) >= 3


def settle_everything(transport: FilesystemTransport, ops: KilledAt) -> None:
    consumer = transport.consumer(["q"], VICTIM, "worker")
    tags = [one.tag for one in consumer.reserve(10)]
    ops.armed = True
    outcomes = [
        Outcome(
            tags[0],
            follow_ups=(Outgoing("q", b"next"), Outgoing("other", b"late", 3, FAR_WALL_S)),
            results=(StoredResult("k1", SUCCESS),),
        ),
        Outcome(tags[1], Verdict.DEFER, due_wall_s=FAR_WALL_S, results=(StoredResult("k2", b"{}"),)),
        Outcome(tags[2], Verdict.DEAD, reason="why", causes=("because",)),
    ]
    assert consumer.settle(outcomes) == [True, True, True]


def test_a_killed_settle_leaves_parents_and_consequences_together(tmp_path: Path) -> None:
    def check(found: Found, finished: bool) -> None:
        first_settled = found.ready[b"a"] == 0
        consequences = once(b"next", b"late") if first_settled else once()
        assert found.everywhere == once(b"b", b"c") + consequences + (once() if first_settled else once(b"a"))
        assert (found.result("k1") == SUCCESS) == first_settled
        assert (found.result("k2") == b"{}") == (found.waiting[b"b"] == 1)
        assert found.waiting[b"b"] + found.ready[b"b"] == 1
        assert found.dead[b"c"] + found.ready[b"c"] == 1
        assert not finished or first_settled

    assert kill_everywhere(tmp_path, three_ready, settle_everything, check) > 30


def test_a_killed_requeue_counts_the_crash_once_or_not_at_all(tmp_path: Path) -> None:
    def requeue(transport: FilesystemTransport, ops: KilledAt) -> None:
        consumer = transport.consumer(["q"], VICTIM, "worker")
        tag = consumer.reserve(1)[0].tag
        ops.armed = True
        assert consumer.settle([Outcome(tag, Verdict.REQUEUE, crashed=True, causes=("oops",))]) == [True]

    def check(found: Found, finished: bool) -> None:
        assert found.order == [b"a", b"b", b"c"]
        assert found.crashes[b"a"] == 1 if finished else found.crashes[b"a"] in (0, 1)

    assert kill_everywhere(tmp_path, three_ready, requeue, check) >= 5


def test_a_killed_promotion_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def delayed(transport: FilesystemTransport) -> None:
        # Sent an hour ago, when none was due: so it is however long the machine stands still meanwhile.
        monkeypatch.setattr(clock, "wall_s", lambda: time.time() - 3600.0)
        soon = time.time() - 1.0
        transport.send([Outgoing("q", b"a", 0, soon), Outgoing("q", b"b", 5, soon)])
        transport.send([Outgoing("q", b"c", 0, FAR_WALL_S)])
        monkeypatch.undo()

    def promote(transport: FilesystemTransport, ops: KilledAt) -> None:
        ops.armed = True
        transport.promote()

    def check(found: Found, finished: bool) -> None:
        assert found.everywhere == once(b"a", b"b", b"c")
        assert found.order == [b"b", b"a"]

    assert kill_everywhere(tmp_path, delayed, promote, check) >= 4


@pytest.mark.parametrize("max_crashes", [3, 1])
def test_a_killed_recovery_is_finished_exactly_by_the_next(tmp_path: Path, max_crashes: int) -> None:
    cause = "signal 9"

    tags: dict[str, bytes] = {}

    def setup(transport: FilesystemTransport) -> None:
        three_ready(transport)
        tags["tag"] = transport.consumer(["q"], VICTIM, "worker").reserve(2)[0].tag

    def recover(transport: FilesystemTransport, ops: KilledAt) -> None:
        ops.armed = True
        transport.recover(VICTIM, running=tags["tag"], cause=cause, max_crashes=max_crashes)

    def check(found: Found, finished: bool) -> None:
        assert finished
        assert found.everywhere == once(b"a", b"b", b"c")
        assert set(found.order) >= {b"b", b"c"}
        if max_crashes == 1:
            (letter,) = found.transport.dead_letters()
            assert (letter.document, letter.causes, letter.crashes) == (b"a", (cause,), 1)
        else:
            assert found.order == [b"a", b"b", b"c"]
            assert found.crashes == {b"a": 1, b"b": 0, b"c": 0}

    calls = _recover_twice(tmp_path, setup, recover, check, tags, cause, max_crashes)
    assert calls >= 5


def _recover_twice(
    tmp_path: Path,
    setup: Setup,
    recover: Action,
    check: Check,
    tags: dict[str, bytes],
    cause: str,
    max_crashes: int,
) -> int:
    """As `kill_everywhere`, but the second recovery says what the first one said."""
    for number in range(1, CALLS_MAX):
        root = tmp_path / str(number)
        prepared = FilesystemTransport(root)
        setup(prepared)

        def act(root: Path = root, number: int = number) -> None:
            ops = KilledAt(number)
            recover(FilesystemTransport(root, ops=ops), ops)

        finished = run_in_child(act)
        second = FilesystemTransport(root)
        second.recover(VICTIM, running=tags["tag"], cause=cause, max_crashes=max_crashes)
        found = Found(root)
        check(found, True)
        found.close()
        if finished:
            return number
    raise AssertionError(f"more than {CALLS_MAX} calls")


def test_a_killed_replay_leaves_the_letter_or_the_message(tmp_path: Path) -> None:
    def letter(transport: FilesystemTransport) -> None:
        three_ready(transport)
        consumer = transport.consumer(["q"], "first", "worker")
        consumer.settle([Outcome(consumer.reserve(1)[0].tag, Verdict.DEAD, reason="why")])
        consumer.close()

    def replay(transport: FilesystemTransport, ops: KilledAt) -> None:
        key = next(iter(transport.dead_letters())).key
        ops.armed = True
        assert transport.dead_replay(key)

    for number in range(1, CALLS_MAX):
        root = tmp_path / str(number)
        prepared = FilesystemTransport(root)
        letter(prepared)
        prepared.close()

        def act(root: Path = root, number: int = number) -> None:
            ops = KilledAt(number)
            replay(FilesystemTransport(root, ops=ops), ops)

        finished = run_in_child(act)
        transport = FilesystemTransport(root)
        # The replaying process was an owner of its own: recovered like any when its lease ends.
        for folder in (root / "workers").iterdir():
            for owner in transport.owners(folder.name):
                transport.recover(owner)
        found = Found(root)
        assert found.everywhere == once(b"a", b"b", b"c")
        assert not finished or found.dead == once()
        found.close()
        if finished:
            assert number > 10
            return
    raise AssertionError(f"more than {CALLS_MAX} calls")


def test_a_killed_worker_that_rolls_to_a_new_segment_loses_nothing(tmp_path: Path) -> None:
    """The first segment of a queue is small: its last message, its seal and its removal."""

    def nearly_full(transport: FilesystemTransport) -> None:
        transport.send([Outgoing("q", b"%03d" % i) for i in range(255)])

    def roll(transport: FilesystemTransport, ops: KilledAt) -> None:
        consumer = transport.consumer(["q"], VICTIM, "worker")
        ops.armed = True
        transport.send([Outgoing("q", b"255"), Outgoing("q", b"256")])
        batch = consumer.reserve(300)
        assert all(consumer.settle([Outcome(one.tag) for one in batch]))

    def check(found: Found, finished: bool) -> None:
        counts = found.everywhere
        assert max(counts.values(), default=1) == 1
        if not finished:
            assert len(counts) in (0, 1, 255, 256, 257)
        assert found.order == sorted(found.order)
        assert not finished or not counts

    assert kill_everywhere(tmp_path, nearly_full, roll, check) > 10

"""SIGSTOP before every call that changes the disk, recovery by another, SIGCONT: whoever wakes up late can
neither acknowledge, nor store, nor publish what was taken back from it."""

from __future__ import annotations

import os
import signal
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from prefork.transports.base import Outcome, Outgoing, StoredResult, Verdict
from prefork.transports.errors import BrokerUnavailable, OwnerLost, ResultStoreUnavailable
from prefork.transports.filesystem.results import FilesystemResults
from prefork.transports.filesystem.transport import FilesystemTransport
from support.failing_files import KilledAt

pytestmark = pytest.mark.slow

VICTIM = "victim"
FAR_WALL_S = 4_000_000_000.0
SUCCESS = b'{"status": "SUCCESS", "result": null}'
CALLS_MAX = 200

Action = Callable[[FilesystemTransport, KilledAt], None]


def drain(transport: FilesystemTransport) -> Counter[bytes]:
    found: Counter[bytes] = Counter()
    consumer = transport.consumer(["q", "next"], f"auditor-{os.urandom(4).hex()}", "auditing")
    while batch := consumer.reserve(64):
        found.update(one.document for one in batch)
        assert all(consumer.settle([Outcome(one.tag) for one in batch]))
    consumer.close()
    return found


def start(root: Path, number: int, action: Action) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        ops = KilledAt(number, signal.SIGSTOP)
        action(FilesystemTransport(root, ops=ops), ops)
        code = 0
    except (BrokerUnavailable, OwnerLost, ResultStoreUnavailable):
        code = 0  # the late one is told; what matters is what it left behind
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def stop_everywhere(tmp_path: Path, action: Action, check: Callable[[Path, Counter[bytes]], None]) -> int:
    """Run `action` once for each call it makes, stopped before that call; returns how often that was."""
    for number in range(1, CALLS_MAX):
        root = tmp_path / str(number)
        prepared = FilesystemTransport(root)
        prepared.send([Outgoing("q", document) for document in (b"a", b"b", b"c")])
        prepared.close()
        pid = start(root, number, action)
        _, status = os.waitpid(pid, os.WUNTRACED)
        stopped = os.WIFSTOPPED(status)
        other = FilesystemTransport(root, lock_timeout_s=0.02)
        found: Counter[bytes] = Counter()
        if stopped:
            try:
                other.recover(VICTIM)
                found = drain(other)
            except BrokerUnavailable as error:
                assert "another process held" in str(error)
            os.kill(pid, signal.SIGCONT)
            _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        other = FilesystemTransport(root)
        other.recover(VICTIM)
        other.maintain()
        found += drain(other)
        check(root, found)
        assert other.depth("q").in_work == 0
        other.close()
        if not stopped:
            return number
    raise AssertionError(f"more than {CALLS_MAX} calls")


def test_a_late_settle_is_all_or_nothing(tmp_path: Path) -> None:
    def settle(transport: FilesystemTransport, ops: KilledAt) -> None:
        consumer = transport.consumer(["q"], VICTIM, "worker")
        first, second = consumer.reserve(2)
        ops.armed = True
        consumer.settle(
            [
                Outcome(
                    first.tag,
                    follow_ups=(Outgoing("next", b"follow-up"), Outgoing("next", b"late", 1, FAR_WALL_S)),
                    results=(StoredResult("k", SUCCESS),),
                ),
                Outcome(second.tag, Verdict.DEAD, reason="why"),
            ]
        )

    def check(root: Path, found: Counter[bytes]) -> None:
        transport, store = FilesystemTransport(root), FilesystemResults(root)
        late = [one.document for one in transport.peek("next", delayed=True)]
        dead = [one.document for one in transport.dead_letters()]
        settled = found[b"a"] == 0
        assert found[b"follow-up"] == settled
        assert late == [b"late"] * settled
        assert store.get(["k"]) == [SUCCESS if settled else None]
        assert found[b"b"] + dead.count(b"b") == 1
        assert found[b"c"] == 1
        assert found[b"a"] <= 1
        transport.close()
        store.close()

    assert stop_everywhere(tmp_path, settle, check) > 30


def test_a_late_acknowledgement_changes_nothing(tmp_path: Path) -> None:
    def acknowledge(transport: FilesystemTransport, ops: KilledAt) -> None:
        consumer = transport.consumer(["q"], VICTIM, "worker")
        ops.armed = True
        batch = consumer.reserve(2)
        consumer.settle([Outcome(one.tag) for one in batch])

    def check(root: Path, found: Counter[bytes]) -> None:
        assert found in (Counter([b"a", b"b", b"c"]), Counter([b"c"]))

    assert stop_everywhere(tmp_path, acknowledge, check) >= 5


def test_a_late_give_back_doubles_nothing(tmp_path: Path) -> None:
    def give_back(transport: FilesystemTransport, ops: KilledAt) -> None:
        consumer = transport.consumer(["q"], VICTIM, "worker")
        batch = consumer.reserve(2)
        ops.armed = True
        consumer.give_back([one.tag for one in batch])
        consumer.close()

    def check(root: Path, found: Counter[bytes]) -> None:
        assert found == Counter([b"a", b"b", b"c"])

    assert stop_everywhere(tmp_path, give_back, check) >= 3

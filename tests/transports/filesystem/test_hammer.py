"""Senders and consumers that are killed at random moments; the ledger must come out exact."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from prefork.transports.base import Outcome, Outgoing, StoredResult, Verdict
from prefork.transports.filesystem.results import FilesystemResults
from prefork.transports.filesystem.transport import FilesystemTransport

pytestmark = pytest.mark.slow

DURATION_S = 3.0
KILLS_MIN = 10
DEADLINE_S = 60.0
QUEUES = ("high", "orders.high")
SUCCESS = b'{"status": "SUCCESS"}'


class Fleet:
    """Forked processes of the hammer, each with a journal of what it knows to have happened."""

    def __init__(self, root: Path, journals: Path) -> None:
        self.root = root
        self.journals = journals
        self.running: dict[int, tuple[str, Callable[[str], None]]] = {}
        self.started = 0
        journals.mkdir()

    def start(self, role: Callable[[str], None]) -> None:
        name = f"p{self.started}"
        self.started += 1
        pid = os.fork()
        if pid == 0:
            try:
                role(name)
            finally:
                os._exit(1)
        self.running[pid] = (name, role)

    def kill(self, pid: int) -> tuple[str, Callable[[str], None]]:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return self.running.pop(pid)

    def lines(self, kind: str) -> list[str]:
        """Whole journal lines of a kind; the last of a killed process may be cut."""
        found = []
        for path in sorted(self.journals.glob(f"*.{kind}")):
            found += path.read_text().split("\n")[:-1]
        return found

    def journal(self, name: str, kind: str) -> Callable[[str], None]:
        fd = os.open(self.journals / f"{name}.{kind}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return lambda line: (os.write(fd, line.encode() + b"\n"), None)[1]

    def sender(self, name: str) -> None:
        transport = FilesystemTransport(self.root)
        intends, accepted = self.journal(name, "intends"), self.journal(name, "accepted")
        number = 0
        while True:
            queue = QUEUES[number % 2]
            documents = [f"{name}-{number}-{i}" for i in range(1 + number % 7)]
            intends("\n".join(documents))
            transport.send([Outgoing(queue, one.encode(), number % 3) for one in documents])
            accepted("\n".join(documents))
            number += 1
            time.sleep(0.0005)

    def consumer(self, name: str) -> None:
        transport = FilesystemTransport(self.root)
        consumer = transport.consumer(QUEUES, name, f"worker-{name}")
        settled = self.journal(name, "settled")
        while True:
            batch = consumer.reserve(16, timeout_s=0.5)
            outcomes = [self._outcome(one.tag, one.document.decode()) for one in batch]
            answers = consumer.settle(outcomes)
            done = [one.document.decode() for one, ok in zip(batch, answers) if ok]
            if done:
                settled("\n".join(done))

    @staticmethod
    def _outcome(tag: bytes, document: str) -> Outcome:
        kind = hash(document) % 5
        if kind == 0:
            return Outcome(tag, results=(StoredResult(document, SUCCESS),))
        if kind == 1 and not document.endswith("+"):
            return Outcome(tag, follow_ups=(Outgoing("next", f"{document}+".encode()),))
        if kind == 2:
            return Outcome(tag, Verdict.DEAD, reason="hammered")
        return Outcome(tag)


def test_random_kills_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "broker", tmp_path / "journals")
    chance = random.Random(20261121)
    agent = FilesystemTransport(fleet.root)
    for _ in range(3):
        fleet.start(fleet.sender)
        fleet.start(fleet.consumer)
    try:
        _kill_at_random(fleet, agent, chance)
    finally:
        for pid in sorted(fleet.running):
            name, _ = fleet.kill(pid)
            agent.recover(name)

    _check_ledger(fleet, agent)
    agent.close()


def _kill_at_random(fleet: Fleet, agent: FilesystemTransport, chance: random.Random) -> None:
    begun_s = time.monotonic()
    kills = 0
    while time.monotonic() < begun_s + DURATION_S or kills <= KILLS_MIN:
        assert time.monotonic() < begun_s + DEADLINE_S, f"only {kills} kills in {DEADLINE_S} s"
        time.sleep(chance.uniform(0.001, 0.03))
        name, role = fleet.kill(chance.choice(sorted(fleet.running)))
        kills += 1
        agent.recover(name, cause="signal 9", max_crashes=1000)
        fleet.start(role)


def _check_ledger(fleet: Fleet, agent: FilesystemTransport) -> None:
    intended, accepted = Counter(fleet.lines("intends")), Counter(fleet.lines("accepted"))
    reported = Counter(fleet.lines("settled"))
    assert agent.maintain() == []
    auditor = agent.consumer([*QUEUES, "next"], "auditor", "auditing")
    left: Counter[str] = Counter()
    while batch := auditor.reserve(64):
        left.update(one.document.decode() for one in batch)
        auditor.settle([Outcome(one.tag) for one in batch])
    dead = Counter(one.document.decode() for one in agent.dead_letters(1_000_000))
    followed = Counter({name[:-1]: n for name, n in left.items() if name.endswith("+")})
    left = Counter({name: n for name, n in left.items() if not name.endswith("+")})

    assert max(intended.values()) == 1
    assert max(reported.values()) == 1, "a message was settled twice"
    assert not reported & left, "a settled message is still there"
    assert left <= intended and dead <= intended and followed <= intended
    # What was settled without being reported shows only in its consequences, if it has any.
    for document in accepted:
        kind = hash(document) % 5
        if kind == 1:
            assert left[document] + followed[document] == 1, document
        elif kind == 2:
            assert left[document] + dead[document] == 1, document
    store = FilesystemResults(fleet.root)
    with_results = [one for one in reported if hash(one) % 5 == 0]
    assert store.get(with_results) == [SUCCESS] * len(with_results)
    store.close()
    lost = [one for one in accepted if hash(one) % 5 in (0, 3, 4) and not left[one] and not reported[one]]
    # A consumer killed between its settle and its journal line: at most one batch each.
    assert len(lost) <= 16 * fleet.started
    plain_with_results = [one for one in lost if hash(one) % 5 == 0]
    assert all(found == SUCCESS for found in FilesystemResults(fleet.root).get(plain_with_results))

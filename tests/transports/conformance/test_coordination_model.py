"""Conformance: random histories of several workers agree with a model that is plain Python.

Time stands still in it: locks last for ever, buckets never fill, and a lease lapses when the history
says so.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from prefork.transports.base import Transport
from prefork.transports.coordination import Coordinates
from support.implementations import Implementation

from .conftest import Broker

pytestmark = pytest.mark.needs("coordinates")

LONG_S = 3600.0
SLOW = 1e-6
HANDLES = 3
BURSTS = {"a": 3, "b": 20}

handles = st.integers(0, HANDLES - 1)
names = st.sampled_from(["a", "b"])
values = st.sampled_from(["v1", "v2", "v3"])


class CoordinationMachine(RuleBasedStateMachine):
    """Three workers and two names of everything."""

    def __init__(self, open_broker: Callable[[], Broker], *, with_leases: bool) -> None:
        super().__init__()
        self._broker = open_broker()
        self._with_leases = with_leases
        self._opened: list[tuple[Transport, Coordinates, str]] = []
        self._locks: dict[str, str] = {}
        self._tokens = dict(BURSTS)
        self._slots: dict[str, dict[str, int]] = {"a": {}, "b": {}}  # holder -> handle
        self._alive = [True] * HANDLES
        self._revoked: list[str] = []

    @initialize()
    def begin(self) -> None:
        for number in range(HANDLES):
            transport = self._broker.open()
            assert isinstance(transport, Coordinates)
            worker = self._broker.unique(f"w{number}")
            transport.heartbeat(worker, LONG_S)
            self._opened.append((transport, transport, worker))

    def teardown(self) -> None:
        self._broker.close()

    def _port(self, index: int) -> Coordinates:
        return self._opened[index][1]

    def _holder(self, index: int, number: int) -> str:
        return f"{self._opened[index][2]}.1/{number}"

    @rule(index=handles, name=names, value=values, by_force=st.booleans())
    def lock(self, index: int, name: str, value: str, by_force: bool) -> None:
        present = self._locks.get(name)
        port, unique = self._port(index), self._broker.unique(name)
        if by_force:
            assert port.relock(unique, value, LONG_S) == present
            self._locks[name] = value
        else:
            taken = present in (None, value)
            assert port.lock(unique, value, LONG_S) == (None if taken else present)
            if taken:
                self._locks[name] = value

    @rule(index=handles, name=names, value=values)
    def unlock(self, index: int, name: str, value: str) -> None:
        had = self._locks.get(name) == value
        assert self._port(index).unlock(self._broker.unique(name), value) is had
        if had:
            del self._locks[name]

    @rule(index=handles, name=names, value=values)
    def prolong(self, index: int, name: str, value: str) -> None:
        had = self._locks.get(name) == value
        assert self._port(index).prolong(self._broker.unique(name), value, LONG_S) is had

    @rule(index=handles, name=names, want=st.integers(0, 4))
    def take_tokens(self, index: int, name: str, want: int) -> None:
        there = self._tokens[name]
        grant = self._port(index).take_tokens(self._broker.unique(name), SLOW, BURSTS[name], want)
        assert grant.tokens == min(want, there)
        assert (grant.retry_after_s == 0.0) is (want <= there)
        self._tokens[name] = there - grant.tokens

    @rule(index=handles, name=names, limit=st.integers(0, 3), number=st.integers(0, 2))
    def take_slot(self, index: int, name: str, limit: int, number: int) -> None:
        if not self._alive[index]:
            return  # nobody says what becomes of the slots of a worker without a lease that goes on
        holder, held = self._holder(index, number), self._slots[name]
        if holder not in held and len(held) >= limit:
            held = self._slots[name] = {one: at for one, at in held.items() if self._alive[at]}
        taken = holder in held or len(held) < limit
        worker = self._opened[index][2]
        assert self._port(index).take_slot(self._broker.unique(name), limit, worker, holder) is taken
        if taken:
            held[holder] = index

    @rule(index=handles, name=names, number=st.integers(0, 2))
    def free_slot(self, index: int, name: str, number: int) -> None:
        holder = self._holder(index, number)
        self._port(index).free_slot(self._broker.unique(name), holder)
        self._slots[name].pop(holder, None)

    @precondition(lambda self: self._with_leases)
    @rule(index=handles, dead=handles)
    def owner_dies(self, index: int, dead: int) -> None:
        held = sum(at == dead for slots in self._slots.values() for at in slots.values())
        freed = self._free_all_of(index, dead)
        # What a worker without a lease held may have been freed before.
        assert freed == held or (freed < held and not self._alive[dead])

    def _free_all_of(self, index: int, dead: int) -> int:
        for name, slots in self._slots.items():
            self._slots[name] = {holder: at for holder, at in slots.items() if at != dead}
        return self._port(index).free_slots_of(f"{self._opened[dead][2]}.1")

    @precondition(lambda self: self._with_leases and all(self._alive))
    @rule(index=handles)
    def worker_lapses(self, index: int) -> None:
        transport, _port, worker = self._opened[index]
        transport.heartbeat(worker, 0.001)
        time.sleep(0.002)
        self._alive[index] = False

    @precondition(lambda self: not all(self._alive))
    @rule(index=handles)
    def a_worker_is_back(self, index: int) -> None:
        dead = self._alive.index(False)
        self._free_all_of(index, dead)
        transport, _port, worker = self._opened[dead]
        transport.heartbeat(worker, LONG_S)
        self._alive[dead] = True

    @rule(index=handles)
    def keep_house(self, index: int) -> None:
        self._opened[index][0].maintain()

    @rule(index=handles, keys=st.lists(values, max_size=3, unique=True))
    def revoke(self, index: int, keys: list[str]) -> None:
        self._port(index).revoke([self._broker.unique(key) for key in keys], LONG_S)
        self._revoked = [key for key in self._revoked if key not in keys] + keys

    @invariant()
    def everybody_sees_the_same(self) -> None:
        salt = self._broker.unique("")
        for _transport, port, _worker in self._opened:
            for name in ("a", "b"):
                assert port.locked(self._broker.unique(name)) == self._locks.get(name)
            ours = [key for key in port.revoked() if key.endswith(salt)]
            assert ours == [self._broker.unique(key) for key in self._revoked]


@pytest.mark.timeout(300)  # a failure is made small first
def test_random_histories_agree_with_the_model(implementation: Implementation, tmp_path: Path) -> None:
    def open_broker() -> Broker:
        return Broker(implementation, Path(tempfile.mkdtemp(dir=tmp_path)))

    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        lambda: CoordinationMachine(open_broker, with_leases="leases" not in implementation.gaps),
        settings=settings(
            # Where every operation is several round trips, fewer of them.
            max_examples=10 if "leases" in implementation.gaps else 80,
            stateful_step_count=30,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )

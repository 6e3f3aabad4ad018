"""The pool of children by itself, without a template: deaths, burials, slots, who must leave."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prefork.engine import orphans
from prefork.engine.boot import BootSpec
from prefork.engine.scoreboard import C_EXECUTIONS, C_RUNNING, C_STATE, S_PID, Scoreboard, State
from prefork.engine.supervisor import pool, reaper
from prefork.engine.supervisor.agent_keeper import AgentKeeper
from prefork.engine.supervisor.children import Child, Phase
from prefork.engine.supervisor.context import Context
from prefork.engine.supervisor.deadlines import look
from prefork.engine.supervisor.deaths import LEFT_AS_TOLD
from prefork.engine.supervisor.killing import UNKILLABLE_S, Doom
from prefork.engine.supervisor.poller import Poller
from prefork.engine.supervisor.pool import LEAVE_GRACE_S, Pool
from prefork.engine.supervisor.spawn import Entries
from prefork.engine.supervisor.tally import Tally
from prefork.engine.supervisor.template_keeper import TemplateKeeper
from support.waiting import eventually

DOOM = Doom("timeout", "hard time limit 1 s", True, 1.0)


class Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


class Bench:
    """A pool whose children are plain ``sleep`` processes."""

    def __init__(self) -> None:
        self.log = Records()
        logger = logging.Logger("bench")
        logger.addHandler(self.log)
        self.context = Context(
            spec=BootSpec(app="a"),
            entries=Entries(),
            scoreboard=Scoreboard(),
            poller=Poller(),
            log=logger,
            node="w@test",
            worker_id="w-1",
            doorbell_fd=-1,
            own_pidfd=-1,
        )
        self.templates = TemplateKeeper(self.context)
        self.agent = AgentKeeper(self.context, self.templates, lambda: 0.5)
        self.asked: list[dict[str, Any]] = []
        self.pool = Pool(self.context, self.templates, self.agent, lambda: 0.5)
        self.processes: list[subprocess.Popen[bytes]] = []

    def child(self) -> Child:
        child = self.pool.table.allocate(0, 0.0)
        assert child is not None
        process = subprocess.Popen(["sleep", "60"])
        self.processes.append(process)
        self.pool.forked(child, process.pid, 0.0)
        child.slot.words[C_STATE] = State.IDLE
        self.pool.watch(1.0)
        assert child.phase is Phase.READY
        return child

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    made = Bench()
    monkeypatch.setattr(made.agent, "request", made.asked.append)
    yield made
    made.close()


def _buried(bench: Bench, child: Child, now_s: float) -> bool:
    bench.pool.reaper.bury(child, now_s)
    return not bench.pool.table.owns(child)


def test_a_child_that_cannot_be_killed_counts_as_dead_and_is_still_watched(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = bench.child()
    pid = child.pid
    monkeypatch.setattr(pool, "kill_group", lambda *_: None)
    bench.pool.kill(child, DOOM, 10.0)
    bench.pool.watch(10.0 + UNKILLABLE_S)
    assert bench.asked == []
    bench.pool.watch(10.1 + UNKILLABLE_S)
    assert child.phase is Phase.STUCK
    assert not child.wanted
    assert [(m["op"], m["verdict"], m["owner"]) for m in bench.asked] == [("dead", "timeout", "w-1.0.1")]
    assert "cannot be killed" in bench.log.texts[-1]
    assert child.slot.words[S_PID] == pid  # whoever clears up after us must still find it
    assert bench.pool.table.recovered(0, 1)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: _buried(bench, child, 20.0))
    assert len(bench.asked) == 1
    assert bench.pool.table.unrecovered == 0
    again = bench.pool.table.allocate(0, 21.0)
    assert again is not None
    assert (again.index, again.generation) == (0, 2)


def test_a_slot_is_not_given_away_before_its_messages_are_free(bench: Bench) -> None:
    child = bench.child()
    bench.pool.kill(child, DOOM, 10.0)
    eventually(lambda: _buried(bench, child, 10.0))
    other = bench.pool.table.allocate(0, 11.0)
    assert other is not None
    assert other.index == 1
    assert not bench.pool.table.recovered(0, 7)
    assert bench.pool.table.recovered(0, 1)
    third = bench.pool.table.allocate(0, 12.0)
    assert third is not None
    assert (third.index, third.generation) == (0, 2)


def test_there_is_an_end_to_slots(bench: Bench) -> None:
    for _ in range(1024):
        assert bench.pool.table.allocate(0, 0.0) is not None
    assert bench.pool.table.allocate(0, 0.0) is None
    assert len(bench.pool.table) == 1024


def test_a_child_that_does_not_leave_is_killed_but_not_while_it_runs_a_task(bench: Bench) -> None:
    child = bench.child()
    bench.pool.tell_to_leave(child, 10.0)
    bench.pool.tell_to_leave(child, 10.5)
    child.slot.words[C_RUNNING] = 1
    bench.pool.watch(10.0 + 5 * LEAVE_GRACE_S)
    assert child.phase is Phase.READY
    child.slot.words[C_RUNNING] = 0
    bench.pool.watch(10.1 + 6 * LEAVE_GRACE_S)
    assert child.phase is Phase.KILLED
    eventually(lambda: _buried(bench, child, 100.0))
    assert (bench.asked[0]["verdict"], bench.asked[0]["charge"]) == ("crash", False)


def test_a_child_that_cannot_be_watched_is_killed_and_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a supervisor without a free descriptor
    child = bench.pool.table.allocate(0, 0.0)
    assert child is not None
    process = subprocess.Popen(["sleep", "60"])
    bench.processes.append(process)

    def refuse(_pid: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    # When the template reports its pid
    bench.pool.forked(child, process.pid, 0.0)
    # Then the process does not go on unwatched, and its slot is free
    assert process.wait(5.0) == -signal.SIGKILL
    assert list(bench.pool.table) == []
    assert child.slot.words[S_PID] == 0
    assert "cannot fork a child: it cannot be watched (Too many open files)" in bench.log.texts[0]


def test_who_leaves_as_told_is_said_once_with_the_reason(bench: Bench) -> None:
    child = bench.child()
    child.retiring = "has done its number of tasks"
    child.slot.words[C_EXECUTIONS] = 7
    bench.pool.tell_to_leave(child, 1.0)
    bench.pool.reaper._log_leave(child, Doom("exit", LEFT_AS_TOLD, charge=False))
    bench.pool.reaper._log_leave(child, Doom("exit", "what it held was taken over", charge=False))
    assert bench.log.texts == [
        f"child {child.index} was replaced after 7 executions: it has done its number of tasks",
        f"child {child.index} was replaced after 7 executions: what it held was taken over",
    ]


def test_many_deaths_at_once_cost_one_look_at_all_processes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given children that die together, one of them with a program of its own in another session
    children = [bench.child() for _ in range(5)]
    mark = orphans.mark(os.getpid(), children[0].index, children[0].generation)
    left = subprocess.Popen(["sleep", "60"], env={orphans.MARK: mark}, start_new_session=True)
    bench.processes.append(left)
    looks = []
    every = orphans.process_ids
    monkeypatch.setattr(orphans, "process_ids", lambda: looks.append(1) or every())
    for child in children:
        bench.pool.kill(child, DOOM, 1.0)
    # When they are buried
    for child in children:
        eventually(lambda child=child: _buried(bench, child, 2.0))
    monkeypatch.setattr(bench.pool.strangers, "kill_left_behind", lambda known: 0)
    bench.pool.mind_strangers(note=False, reap=False)
    # Then the program is gone, too, and was looked for once
    assert left.wait(5.0) == -signal.SIGKILL
    assert len(looks) == 1
    assert f"child {children[0].index} left 1 sub-process(es) behind; killed" in bench.log.texts


@given(st.binary(max_size=40))
@example(b"1." + b"9" * 5000)
def test_a_mark_is_read_whatever_somebody_made_of_it(data: bytes) -> None:
    slot, generation = orphans._child_of(data)
    assert (slot, generation) == (-1, -1) or min(slot, generation) >= 0


def test_burying_a_living_child_does_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    child = bench.child()
    monkeypatch.setattr(reaper, "kill_group", lambda *_: None)
    bench.pool.reaper.bury(child, 2.0)
    assert bench.pool.table.owns(child)
    assert child.slot.words[S_PID] == child.pid


def test_a_slot_whose_execution_changes_under_the_reader_runs_nothing_for_long() -> None:
    class Changing:
        """Words of which one is another at every look."""

        def __init__(self) -> None:
            self.count = 0

        def __getitem__(self, word: int) -> int:
            if word == C_RUNNING:
                self.count += 1
                return self.count
            return 7

    slot = type("Slot", (), {"words": Changing()})()
    assert look(slot).running == 0


def test_the_tally_keeps_a_bounded_number_of_causes() -> None:
    tally = Tally()
    for number in range(300):
        tally.died(Doom("memory", f"memory limit 1 MiB: was {number} MiB", True))
    tally.died(Doom("exit", "left as told", False))
    assert len(tally.causes) <= 101
    assert sum(tally.causes.values()) == 300
    assert tally.deaths == {"memory": 300, "exit": 1}

"""Ending one execution, in every order in which child, agent and supervisor may take their steps.

The child is a script of what the worker loop writes into its slot; the enforcer is the real one, on a real
slot, with signals that go to the script. A stop takes effect late: a stopped process may still take some
steps after `kill` has returned.
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine.scoreboard import C_EXECUTIONS, C_RUNNING, C_START_NS, C_STATE, Scoreboard, Slot, State
from prefork.engine.supervisor import enforcement
from prefork.engine.supervisor.children import Child, Phase
from prefork.engine.supervisor.enforcement import Enforcer
from prefork.engine.supervisor.killing import TERMINATION_GRACE_S, Doom, Termination

MS = 1_000_000
TARGET = 1
# What the child does, one step at a time: two executions, one after the other.
STEPS = ("start 1", "work", "work", "work", "end 1", "start 2", "work", "end 2")
CHILD, AGENT, SUPERVISOR = "C", "A", "S"


class World:
    """One child, one request to end its first execution, one supervisor.

    :param late: how many steps the child still takes after it was told to stop.
    :param slips: it takes them while the supervisor asks whether it stands still.
    :param catches: it catches the signal and goes on.
    """

    def __init__(self, slot: Slot, number: signal.Signals, *, late: int, slips: bool, catches: bool) -> None:
        slot.clear(1)
        slot.words[C_STATE] = State.WORKING
        self.slot = slot
        self.number = number
        self.late = late
        self.slips = slips
        self.catches = catches
        self.now_ns = 10_000 * MS
        self.step = 0
        self.told_to_stop = False
        self.left = 0
        self.dead = False
        self.died_in = 0
        self.caught: list[int] = []
        self.request: Termination | None = None
        self.delivered_in: int | None = None
        self.child = Child(slot, 1, 1, 0.0)
        self.child.phase, self.child.pid, self.child.pidfd = Phase.READY, 1, 1
        self.enforcer = Enforcer([self.child], self.kill, lambda request: None)  # type: ignore[arg-type]

    # --- the child ----------------------------------------------------------------------------------

    def child_steps(self) -> None:
        if self.dead or self.step >= len(STEPS):
            return
        if self.told_to_stop:
            if not self.left:
                return
            self.left -= 1
        what, words = STEPS[self.step], self.slot.words
        self.step += 1
        if what.startswith("start"):
            words[C_EXECUTIONS] = int(what[-1])
            self.slot.write_texts(what[-1].encode(), b"task", b"")
            words[C_START_NS] = self.now_ns
            words[C_RUNNING] = int(what[-1])
        elif what.startswith("end"):
            words[C_RUNNING] = 0

    # --- the agent ----------------------------------------------------------------------------------

    def agent_steps(self) -> None:
        """It looks, as `Revoker` does, and then what it has found reaches the supervisor."""
        execution = self.slot.words[C_RUNNING]
        if self.delivered_in is not None:
            return
        if self.request is not None:
            self.child.termination = self.request
            self.delivered_in = self.slot.words[C_RUNNING]
        elif execution and self.slot.read_texts().raw_id == b"1":
            self.request = Termination(execution, self.number)

    # --- the supervisor -----------------------------------------------------------------------------

    def supervisor_steps(self, ns: int = MS) -> None:
        self.now_ns += ns
        if self.child.phase is Phase.READY and not self.dead:
            self.enforcer.turn(self.now_ns)

    def signalled(self, number: int) -> bool:
        if number == signal.SIGSTOP:
            self.told_to_stop, self.left = True, self.late
        elif number == signal.SIGCONT:
            self.told_to_stop = False
        return not self.dead

    def group_signalled(self, number: int) -> None:
        if self.catches:
            self.caught.append(self.slot.words[C_RUNNING])
        else:
            self.die()

    def kill(self, child: Child, doom: Doom, now_s: float) -> None:
        assert doom.execution == TARGET
        child.doom, child.phase, child.stopping = doom, Phase.KILLED, None
        self.die()

    def die(self) -> None:
        assert self.told_to_stop, "it was not stopped"
        self.dead, self.died_in = True, self.slot.words[C_RUNNING]

    def stands_still(self) -> bool:
        while self.slips and self.left:  # between the look at its slot and the look at its state
            self.child_steps()
            self.left = min(self.left, len(STEPS) - self.step)
        return self.told_to_stop and not self.left

    # --- one play -----------------------------------------------------------------------------------

    def play(self, order: Iterable[str]) -> None:
        for who in order:
            match who:
                case "C":
                    self.child_steps()
                case "A":
                    self.agent_steps()
                case "S":
                    self.supervisor_steps()
        for _ in range(6):  # nothing more is done but by the supervisor
            self.left = 0
            self.supervisor_steps()
        self.check()

    def check(self) -> None:
        if self.dead:
            assert self.died_in == TARGET, "the wrong execution was ended"
            return
        assert set(self.caught) <= {TARGET}, "the wrong execution was signalled"
        assert not self.told_to_stop, "it was left standing"
        assert self.child.stopping is None
        if self.slot.words[C_RUNNING] == TARGET and self.delivered_in == TARGET:
            assert self.caught, "it runs on"
        elif self.delivered_in is not None:
            assert self.child.termination is None
            assert self.child.doom is None


@pytest.fixture(scope="module")
def slot() -> Slot:
    return Scoreboard().slot(0)


@pytest.fixture(autouse=True)
def world_of_signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[World]]:
    """Signals go to the last of these worlds."""
    worlds: list[World] = []
    monkeypatch.setattr(enforcement, "send_signal", lambda pidfd, number: worlds[-1].signalled(number))
    monkeypatch.setattr(enforcement, "is_stopped", lambda pid, pidfd: worlds[-1].stands_still())
    monkeypatch.setattr(
        enforcement, "kill_group", lambda pid, pidfd, number: worlds[-1].group_signalled(number)
    )
    return worlds


def orders(child: int, agent: int, supervisor: int) -> Iterator[str]:
    """Every order of so many steps of each."""
    total = child + agent + supervisor
    for at_child in itertools.combinations(range(total), child):
        others = [place for place in range(total) if place not in at_child]
        for at_agent in itertools.combinations(others, agent):
            yield "".join(
                CHILD if place in at_child else AGENT if place in at_agent else SUPERVISOR
                for place in range(total)
            )


@pytest.mark.parametrize(
    ("number", "catches"), [(signal.SIGKILL, False), (signal.SIGTERM, False), (signal.SIGTERM, True)]
)
def test_in_no_order_is_the_wrong_execution_ended(
    slot: Slot, world_of_signals: list[World], number: signal.Signals, catches: bool
) -> None:
    plays = ended = late_by_itself = 0
    for order in orders(6, 2, 4):
        for late, slips in ((0, False), (2, False), (2, True)):
            world = World(slot, number, late=late, slips=slips, catches=catches)
            world_of_signals[:] = [world]
            world.play("C" + order)
            plays += 1
            ended += world.dead or bool(world.caught)
            late_by_itself += world.delivered_in is not None and not world.dead and not world.caught
    assert plays > 10_000
    assert min(ended, late_by_itself) > 1_000


@given(
    order=st.text(st.sampled_from("CASG"), max_size=40),
    late=st.integers(0, 4),
    slips=st.booleans(),
    number=st.sampled_from([signal.SIGKILL, signal.SIGTERM, signal.SIGQUIT]),
    catches=st.booleans(),
)
def test_whoever_catches_the_signal_is_killed_after_the_grace_in_that_execution_or_not_at_all(
    order: str, late: int, slips: bool, number: signal.Signals, catches: bool
) -> None:
    """``G``: the grace is over."""
    with pytest.MonkeyPatch.context() as patched:
        world = World(Scoreboard().slot(0), number, late=late, slips=slips, catches=catches)
        patched.setattr(enforcement, "send_signal", lambda pidfd, number: world.signalled(number))
        patched.setattr(enforcement, "is_stopped", lambda pid, pidfd: world.stands_still())
        patched.setattr(enforcement, "kill_group", lambda pid, pidfd, number: world.group_signalled(number))
        for who in order:
            if who == "G":
                world.supervisor_steps(int(TERMINATION_GRACE_S * 1e9))
            else:
                {"C": world.child_steps, "A": world.agent_steps, "S": world.supervisor_steps}[who]()
        for _ in range(6):
            world.left = 0
            world.supervisor_steps(int(TERMINATION_GRACE_S * 1e9))
        if world.delivered_in == TARGET and world.slot.words[C_RUNNING] == TARGET:
            assert world.dead
        if world.dead:
            assert world.died_in == TARGET
        else:
            assert set(world.caught) <= {TARGET}
            assert not world.told_to_stop

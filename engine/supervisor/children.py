"""The one table of children."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Final

from ..scoreboard import C_STATE, S_HIGH_SLOT, SLOTS, Scoreboard, Slot, State
from .deadlines import Record
from .killing import Doom, Stopping, Termination

READY_STATES: Final = (State.IDLE, State.WORKING, State.RETIRING, State.HAS_ROOM)


class Phase(enum.Enum):
    """How far a child has come. Only forward."""

    FORKING = "forking"  # asked for; no pid yet
    BOOTING = "booting"
    READY = "ready"
    KILLED = "killed"  # SIGKILL is sent, it is not reaped yet
    STUCK = "stuck"  # SIGKILL has had no effect for seconds; counted as dead, still watched


class Child:
    """One child. All attributes are written by the supervisor's loop only.

    :ivar retiring: why it is to be replaced, its successor first; empty when it is not.
    :ivar urgent: it must not begin another task; its successor is not waited for.
    :ivar replaces: the retiring child whose successor this one is.
    :ivar leaving: it has been told to leave.
    :ivar doom: why it was killed.
    :ivar termination: somebody's request to end an execution, until that has ended.
    :ivar stopping: the stop that is under way, to look at it while it stands still.
    """

    __slots__ = (
        "doom",
        "forked_s",
        "generation",
        "index",
        "killed_s",
        "left_told_s",
        "leaving",
        "phase",
        "pid",
        "pidfd",
        "ready_s",
        "record",
        "recovered",
        "replaces",
        "retiring",
        "slot",
        "stopping",
        "template",
        "termination",
        "urgent",
    )

    def __init__(self, slot: Slot, generation: int, template: int, now_s: float) -> None:
        self.slot = slot
        self.index = slot.index
        self.generation = generation
        self.template = template  # number of the template it comes from
        self.pid = 0
        self.pidfd = -1
        self.phase = Phase.FORKING
        self.forked_s = now_s
        self.ready_s = 0.0
        self.retiring = ""
        self.urgent = False
        self.replaces: Child | None = None
        self.leaving = False
        self.left_told_s = 0.0
        self.doom: Doom | None = None
        self.killed_s = 0.0
        self.stopping: Stopping | None = None
        self.termination: Termination | None = None
        self.record = Record()
        self.recovered = False  # counted as dead before it ended, and its messages are free

    @property
    def alive(self) -> bool:
        """It has a process that has not been killed."""
        return self.phase in (Phase.BOOTING, Phase.READY)

    @property
    def wanted(self) -> bool:
        """It counts towards the number of children that should be there."""
        return (
            self.phase in (Phase.FORKING, Phase.BOOTING, Phase.READY)
            and not self.retiring
            and not self.leaving
        )

    def __repr__(self) -> str:
        return f"child {self.index}.{self.generation} pid {self.pid} {self.phase.value}"


class ChildTable:
    """All children by slot, and the slots that cannot be given away yet."""

    def __init__(self, scoreboard: Scoreboard) -> None:
        self._scoreboard = scoreboard
        self._children: dict[int, Child] = {}
        # Slot -> generation whose messages the agent still has to free.
        self._unrecovered: dict[int, int] = {}
        self._generations: dict[int, int] = {}

    def allocate(self, template: int, now_s: float) -> Child | None:
        """A child in the lowest free slot, or None when every slot is taken."""
        index = next(
            (i for i in range(SLOTS) if i not in self._children and i not in self._unrecovered), None
        )
        if index is None:
            return None
        generation = self._generations.get(index, 0) + 1
        self._generations[index] = generation
        slot = self._scoreboard.slot(index)
        slot.clear(generation)
        words = self._scoreboard.words
        words[S_HIGH_SLOT] = max(words[S_HIGH_SLOT], index + 1)
        child = self._children[index] = Child(slot, generation, template, now_s)
        return child

    def remove(self, child: Child, *, unrecovered: bool) -> None:
        """Forget a child; its slot stays taken while its messages are not recovered."""
        self._children.pop(child.index, None)
        if unrecovered and not child.recovered:
            self._unrecovered[child.index] = child.generation

    def recovered(self, index: int, generation: int) -> bool:
        """The agent has freed what the child of this slot and generation held."""
        stuck = self.get(index, generation)
        if stuck is not None:
            stuck.recovered = True
            return True
        if self._unrecovered.get(index) != generation:
            return False
        del self._unrecovered[index]
        return True

    @property
    def unrecovered(self) -> int:
        """How many slots wait for the agent."""
        return len(self._unrecovered)

    def get(self, index: int, generation: int) -> Child | None:
        """The child of this slot, if it is of this generation."""
        child = self._children.get(index)
        return child if child is not None and child.generation == generation else None

    def owns(self, child: Child) -> bool:
        """Whether this very child is still in the table."""
        return self._children.get(child.index) is child

    @property
    def any_ready(self) -> bool:
        """Some child serves; one that has done its share and waits for its successor does not."""
        return any(
            child.phase is Phase.READY and child.slot.words[C_STATE] != State.RETIRING for child in self
        )

    def pids(self) -> set[int]:
        """The pids of all children."""
        return {child.pid for child in self if child.pid}

    def __iter__(self) -> Iterator[Child]:
        return iter(list(self._children.values()))

    def __len__(self) -> int:
        return len(self._children)

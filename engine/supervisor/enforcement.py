"""Carries out what the slots call for: soft and hard limits, memory limits, recall."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any, Final

from ..scoreboard import S_MARK, S_SOFT_TARGET, S_TERMINATED, S_TERMINATION_SIGNAL, pack_mark
from .children import Child, ChildTable, Phase
from .deadlines import SOFT_REPEAT_NS, Due, Limits, View, due, look, next_look_ns
from .killing import (
    TERMINATION_GRACE_S,
    Doom,
    Purpose,
    Stopping,
    Termination,
    Verdict,
    is_stopped,
    judge,
    kill_group,
    send_signal,
)

# How often the slots are read, by what could happen unannounced in between. A child says nothing when
# it begins a task, so an idle one is looked at as often as a busy one: a limit may be short, and
# what it holds beside a long task is wanted back within 100 ms.
CONFIRMING_S: Final = 0.001
HOLDING_S: Final = 0.02
BUSY_S: Final = 0.05
NOBODY_S: Final = 0.25


class Enforcer:
    """Looks at every child each turn.

    :param kill: kills a child and everything in its group, for a reason.
    :param recall: asks the agent to take back what a child has not started.
    """

    def __init__(
        self,
        table: ChildTable,
        kill: Callable[[Child, Doom, float], None],
        recall: Callable[[dict[str, Any]], None],
    ) -> None:
        self._table = table
        self._kill = kill
        self._recall = recall
        self.limits = Limits()
        self.recalls = 0

    def turn(self, now_ns: int) -> float:
        """Do what is due; returns in how many seconds to look again."""
        wait_s = NOBODY_S
        for child in self._table:
            if child.phase is Phase.READY:
                wait_s = min(wait_s, self._one(child, now_ns))
            elif child.phase in (Phase.FORKING, Phase.BOOTING, Phase.KILLED):
                wait_s = min(wait_s, BUSY_S)
        return wait_s

    def _one(self, child: Child, now_ns: int) -> float:
        view = look(child.slot)
        if child.stopping is not None:
            self._judge(child, child.stopping, view, now_ns)
            return CONFIRMING_S
        if child.termination is not None and self._terminate(child, child.termination, view, now_ns):
            return CONFIRMING_S
        match due(view, child.record, self.limits, now_ns):
            case Due.HARD_LIMIT:
                self._stop(child, view, Purpose.HARD_LIMIT, now_ns, hard_limit_doom(view))
            case Due.HARD_MEMORY:
                doom = hard_memory_doom(view, self.limits.hard_memory_kib or 0)
                self._stop(child, view, Purpose.MEMORY, now_ns, doom)
            case Due.RECALL:
                self._stop(child, view, Purpose.RECALL, now_ns, None)
            case Due.SOFT_LIMIT:
                self._raise_in(child, view.running, now_ns)
            case Due.RETIRE_TASKS:
                child.retiring = child.retiring or "has done its number of tasks"
            case Due.RETIRE_MEMORY | Due.LEAVE_MEMORY as what:
                # Over the hard limit the next task would be killed for what an earlier one has left.
                child.urgent = child.urgent or what is Due.LEAVE_MEMORY
                child.retiring = child.retiring or f"uses {view.private_kib} KiB of private memory"
            case Due.NOTHING:
                pass
        return self._wait_s(child, view, now_ns)

    def _wait_s(self, child: Child, view: View, now_ns: int) -> float:
        if child.stopping is not None:
            return CONFIRMING_S
        if not view.running:
            return BUSY_S
        look_ns = next_look_ns(view, child.record)
        tick_s = HOLDING_S if view.has_recallable else BUSY_S
        return tick_s if look_ns is None else max(0.0, min(tick_s, (look_ns - now_ns) / 1e9))

    def _raise_in(self, child: Child, execution: int, now_ns: int) -> None:
        child.slot.words[S_SOFT_TARGET] = execution
        child.record.soft_execution, child.record.soft_sent_ns = execution, now_ns
        send_signal(child.pidfd, signal.SIGUSR1)

    def _terminate(self, child: Child, asked: Termination, view: View, now_ns: int) -> bool:
        """Go on with ending an execution; True when the child is being stopped for it."""
        if view.running != asked.execution:
            # It has ended, as it was asked to or by itself: nothing of this concerns the next one.
            child.termination = child.doom = None
            return False
        child.slot.words[S_TERMINATION_SIGNAL] = asked.signum
        child.slot.words[S_TERMINATED] = asked.execution
        since_ns = now_ns - asked.sent_ns
        if asked.soft:
            if not asked.sent_ns or since_ns >= SOFT_REPEAT_NS:
                asked.sent_ns = now_ns
                self._raise_in(child, asked.execution, now_ns)
            return False
        if asked.sent_ns and since_ns < TERMINATION_GRACE_S * 1e9:
            return False
        self._stop(child, view, Purpose.TERMINATION, now_ns, asked.doom)
        return child.stopping is not None

    def _carry_out(self, child: Child, asked: Termination, now_ns: int) -> None:
        """The execution that is to be ended is the one that runs, and stands still."""
        if asked.deadly:
            self._kill(child, asked.doom, now_ns / 1e9)
            return
        child.doom, asked.sent_ns = asked.doom, now_ns
        kill_group(child.pid, child.pidfd, asked.signum)
        send_signal(child.pidfd, signal.SIGCONT)

    def _stop(self, child: Child, view: View, purpose: Purpose, now_ns: int, doom: Doom | None) -> None:
        if send_signal(child.pidfd, signal.SIGSTOP):
            child.stopping = Stopping(purpose, view.running, view.batch, now_ns / 1e9, doom)

    def _judge(self, child: Child, stopping: Stopping, view: View, now_ns: int) -> None:
        confirmed = is_stopped(child.pid, child.pidfd)
        if confirmed:
            view = look(child.slot)  # what it was before it stood still is not what it is
        match judge(stopping, view, confirmed=confirmed, now_s=now_ns / 1e9):
            case Verdict.WAIT:
                return
            case Verdict.KILL:
                child.stopping = None
                asked = child.termination
                if stopping.purpose is Purpose.TERMINATION and asked is not None:
                    self._carry_out(child, asked, now_ns)
                elif stopping.doom is not None:
                    self._kill(child, stopping.doom, now_ns / 1e9)
            case Verdict.MARK:
                child.stopping = None
                self._mark(child, view)
                send_signal(child.pidfd, signal.SIGCONT)
            case Verdict.CONTINUE:
                child.stopping = None
                send_signal(child.pidfd, signal.SIGCONT)

    def _mark(self, child: Child, view: View) -> None:
        child.slot.words[S_MARK] = pack_mark(view.batch, view.cursor)
        child.record.recalled_batch = view.batch
        self.recalls += 1
        self._recall(
            {
                "op": "recall",
                "slot": child.index,
                "generation": child.generation,
                "batch": view.batch,
                "index": view.cursor,
            }
        )


def hard_limit_doom(view: View) -> Doom:
    """Why a child is killed whose execution has run into its hard limit."""
    limit_s = view.hard_limit_ms / 1000 if view.hard_limit_ms else (view.hard_ns - view.start_ns) / 1e9
    return Doom("timeout", f"hard time limit {limit_s:g} s", True, limit_s)


def hard_memory_doom(view: View, limit_kib: int) -> Doom:
    """Why a child is killed that uses more memory than it ever may."""
    return Doom("memory", f"memory limit {_mib(limit_kib)}: was {_mib(view.private_kib)}", True)


def _mib(kib: int) -> str:
    return f"{kib / 1024:.4g} MiB"

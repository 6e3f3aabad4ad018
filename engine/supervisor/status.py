"""What the worker says about itself: readiness that is true, counters, what runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

from ..scoreboard import (
    A_WAITING,
    C_BUSY_NS,
    S_PAUSED,
    State,
)
from .agent_keeper import AgentKeeper, AgentPhase
from .children import Child, Phase
from .context import Context
from .deadlines import View, look
from .pool import Pool
from .tally import counters
from .template_keeper import TemplateKeeper

# An idle child turns its loop about every second.
_TURNED_LATELY_NS: Final = 10_000_000_000

_STATE_NAMES: Final = {
    State.EMPTY: "empty",
    State.BOOTING: "booting",
    State.IDLE: "idle",
    State.WORKING: "working",
    State.RETIRING: "retiring",
    State.HAS_ROOM: "working",
    State.BOOT_FAILED: "boot failed",
}


class Status:
    """Reads the scoreboard and the tables; changes nothing.

    :param turn_longest_s: the longest turn of the loop so far, in seconds.
    """

    def __init__(
        self,
        context: Context,
        pool: Pool,
        templates: TemplateKeeper,
        agent: AgentKeeper,
        turn_longest_s: Callable[[], float],
    ) -> None:
        self._context = context
        self._pool = pool
        self._templates = templates
        self._agent = agent
        self._turn_longest_s = turn_longest_s

    def reasons_against(self, now_ns: int, *, stopping: bool) -> list[str]:
        """Why the worker is not ready; empty when it is."""
        reasons = []
        if stopping:
            reasons.append("the worker is stopping")
        if not self._templates.can_fork:
            reasons.append("there is no template: the application is being imported")
        if self._agent.phase is not AgentPhase.READY:
            reasons.append("there is no agent")
        if self._context.scoreboard.words[S_PAUSED]:
            age_s = self._agent.lease_age_s(now_ns)
            reasons.append(
                "the lease was never taken" if age_s is None else f"the lease is {age_s:.1f} s old"
            )
        ready = [child for child in self._pool.table if child.phase is Phase.READY]
        if not ready:
            reasons.append("no child is ready")
            reasons += self.notes(now_ns)
        elif not any(_serves(look(child.slot), now_ns) for child in ready):
            reasons.append("no child has turned its loop lately, and none runs a task")
        elif self._pool.reaper.guard.failures and not self._pool.table.any_ready:
            reasons.append("children have done their number of tasks, and their successors cannot boot")
        return reasons

    def notes(self, now_ns: int) -> list[str]:
        """A line about children that die again and again, while the next one waits for it."""
        loop, pause_s = self._pool.reaper.loop, self._pool.reaper.pause_s(now_ns / 1e9)
        if not loop.step:
            return []
        again = f"the next one is replaced in {pause_s:.1f} s" if pause_s else "one is tried again"
        return [f"{loop.deaths} children died in a row, the last of {self._pool.reaper.last_cause}; {again}"]

    def stats(self, now_ns: int) -> dict[str, Any]:
        """Everything that is counted."""
        children = [self._child(child, now_ns) for child in self._pool.table]
        tally = self._pool.reaper.tally
        agent = self._agent.agent
        return {
            "node": self._context.node,
            "worker_id": self._context.worker_id,
            "pid": os.getpid(),
            "app": self._pool.options.app,
            "broker": self._pool.options.broker,
            "queues": list(self._pool.options.queues),
            "target": self._pool.sizing.target,
            "children": children,
            "totals": tally.totals([child.slot for child in self._pool.table]),
            "deaths": dict(tally.deaths),
            "causes": dict(tally.causes),
            "crash_loop": {
                "deaths": self._pool.reaper.loop.deaths if self._pool.reaper.loop.step else 0,
                "step": self._pool.reaper.loop.step,
                "pause_s": round(self._pool.reaper.pause_s(now_ns / 1e9), 3),
            },
            "unrecovered": self._pool.table.unrecovered,
            "agent": {
                "pid": agent.pid if agent else None,
                "phase": self._agent.phase.value,
                "deaths": self._agent.deaths,
            },
            "templates": [{"pid": t.pid, "phase": t.phase.value} for t in self._templates.all()],
            "fresh": self._templates.fresh,
            "waiting": self._context.scoreboard.words[A_WAITING],
            "lease_age_s": self._agent.lease_age_s(now_ns),
            "turn_longest_s": round(self._turn_longest_s(), 6),
            "strangers_killed": self._pool.strangers.killed,
        }

    def active(self, now_ns: int) -> dict[str, Any]:
        """What runs."""
        children = [self._child(child, now_ns) for child in self._pool.table]
        return {"active": [child for child in children if child["task_id"] is not None]}

    def _child(self, child: Child, now_ns: int) -> dict[str, Any]:
        view = look(child.slot)
        words = child.slot.words
        texts = child.slot.read_texts() if view.running else None
        return {
            "slot": child.index,
            "generation": child.generation,
            "pid": child.pid,
            "phase": "leaving" if child.leaving else child.phase.value,
            "state": _STATE_NAMES.get(view.state, str(view.state)),
            "task_id": texts.task_id if texts else None,
            "task_name": texts.task_name if texts else None,
            "runtime_s": round((now_ns - view.start_ns) / 1e9, 6) if texts else None,
            "held": max(0, view.held - view.cursor),
            **counters(child.slot),
            "busy_s": round(words[C_BUSY_NS] / 1e9, 6),
            "private_kib": view.private_kib,
        }


def _serves(view: View, now_ns: int) -> bool:
    return view.running != 0 or now_ns - view.loop_ns < _TURNED_LATELY_NS

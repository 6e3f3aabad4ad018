"""The dead: buried, explained, reported to the agent, counted, and weighed for the back-off."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from ..scoreboard import C_EXECUTIONS, C_STATE, S_PID, State
from ..worker_names import owner
from .agent_keeper import AgentKeeper
from .boot_guard import BootGuard
from .children import READY_STATES, Child, ChildTable, Phase
from .context import Context
from .crash_loop import CALM, CrashLoop, Death, died
from .deadlines import View, look
from .deaths import EXIT_BOOT_FAILED, LEFT_AS_TOLD, OutOfMemoryCounter, explain, reap
from .killing import Doom, kill_group
from .tally import Tally


class Reaper:
    """Everything that follows from the end of a child. Written by the supervisor's loop only.

    :ivar fatal: why the worker cannot go on; empty while it can.
    :ivar guard: counts children that could not boot.
    :ivar loop: what is remembered of children that died at work.
    :ivar last_cause: what the last of those died of.
    :ivar left_behind: a death may have brought strangers to light.
    :ivar dead: slots and generations whose sub-processes are still to be killed.
    """

    def __init__(
        self,
        context: Context,
        table: ChildTable,
        agent: AgentKeeper,
        boot_failures_max: int,
        random: Callable[[], float],
    ) -> None:
        self._context = context
        self._table = table
        self._agent = agent
        self._random = random
        self._memory = OutOfMemoryCounter()
        self.guard = BootGuard(boot_failures_max, random)
        self.tally = Tally()
        self.fatal = ""
        self.loop: CrashLoop = CALM
        self.last_cause = ""
        self.left_behind = False
        self.dead: set[tuple[int, int]] = set()

    def bury(self, child: Child, now_s: float) -> None:
        """A child has ended: kill what is left of its group, reap it, tell the agent."""
        if not self._table.owns(child):
            return
        view = look(child.slot)
        kill_group(child.pid, child.pidfd)
        child.slot.words[S_PID] = 0  # from the reaping on, the number may be somebody else's
        ended = reap(child.pidfd)
        if ended is None:
            child.slot.words[S_PID] = child.pid
            return
        self._context.poller.remove(child.pidfd)
        os.close(child.pidfd)
        reported = child.phase is Phase.STUCK
        was_ready = child.ready_s > 0 or view.state in READY_STATES
        doom = explain(
            ended,
            child.doom,
            running=view.running,
            was_ready=was_ready,
            told_to_leave=child.leaving,
            at_work=view.running != 0 or view.held != 0,
            out_of_memory=child.doom is None and self._memory.risen(),
        )
        child.pid = 0
        if doom.verdict != "exit":
            self.dead.add((child.index, child.generation))
            self.left_behind = True
            self._log_death(child, doom, view, now_s)
        else:
            self._log_leave(child, doom)
        if not reported:
            self.report(child, doom)
        self._weigh(child, doom, view, now_s)
        self.tally.keep(child.slot)
        self._table.remove(child, unrecovered=True)
        if doom.verdict == "boot":
            self._boot_failed(child, doom, ended.code == EXIT_BOOT_FAILED, now_s)

    def report(self, child: Child, doom: Doom) -> None:
        """Count a death, and have the agent free what the child held."""
        self.tally.died(doom)
        self._agent.request(
            {
                "op": "dead",
                "slot": child.index,
                "generation": child.generation,
                "owner": owner(self._context.worker_id, child.index, child.generation),
                "cause": doom.cause,
                "verdict": doom.verdict,
                "limit_s": doom.limit_s,
                "charge": doom.charge,
                "execution": doom.execution,
                "signum": doom.signum,
            }
        )

    def pause_s(self, now_s: float) -> float:
        """How long no dead child is replaced."""
        return max(0.0, self.loop.not_before_s - now_s) if self.loop.step else 0.0

    def _weigh(self, child: Child, doom: Doom, view: View, now_s: float) -> None:
        """Grow the pause before the next replacement if children die again and again.

        Limits do not count: what they end has run for its limit, and that is pause enough.
        """
        if doom.verdict != "crash" or child.doom is not None:
            return
        ready_s = child.ready_s or now_s
        booted_s, lived_s = ready_s - child.forked_s, now_s - ready_s
        ended = max(0, child.slot.words[C_EXECUTIONS] - (view.running != 0))
        before = self.loop.step
        death = Death(child.forked_s, booted_s, lived_s, ended)
        self.loop = died(self.loop, death, now_s, self._random())
        self.last_cause = doom.cause
        if self.loop.step and self.loop.step != before:
            self._context.log.warning(
                "%d children died within %.1f s; next replacement in %.1f s: cause %s",
                self.loop.deaths,
                now_s - self.loop.since_s,
                self.pause_s(now_s),
                doom.cause,
            )

    def _log_death(self, child: Child, doom: Doom, view: View, now_s: float) -> None:
        text = f"child {child.index} died: {doom.cause}"
        if view.running:
            texts = child.slot.read_texts()
            text += f"; it ran {texts.task_name}[{texts.task_id}] for {now_s - view.start_ns / 1e9:.3f} s"
        if doom.verdict in ("shutdown", "terminated"):
            self._context.log.warning("%s", text)
        else:
            self._context.log.error("%s", text)

    def _log_leave(self, child: Child, doom: Doom) -> None:
        as_told = doom.cause == LEFT_AS_TOLD
        what = "was replaced" if child.retiring else "has left"
        why = f"it {child.retiring}" if child.retiring and as_told else doom.cause
        executions = child.slot.words[C_EXECUTIONS]
        self._context.log.log(
            logging.INFO if as_told else logging.WARNING,
            "child %d %s after %d executions: %s",
            child.index,
            what,
            executions,
            why,
        )

    def _boot_failed(self, child: Child, doom: Doom, reported: bool, now_s: float) -> None:
        self.guard.failed(now_s)
        report = child.slot.read_report() if child.slot.words[C_STATE] == State.BOOT_FAILED else ""
        if report and self.guard.failures == 1:
            self._context.log.error("a child cannot boot:\n%s", report)
        if not self.guard.exhausted or self._table.any_ready:
            return
        self.fatal = f"{self.guard.failures} children in a row could not boot; the last one: {doom.cause}"
        if report or reported:
            self.fatal += f"\n{report}"

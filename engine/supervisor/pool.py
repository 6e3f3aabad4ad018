"""The children: forked, watched while they boot, replaced, retired, told to leave, killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Final

from ..linux import Linux
from ..scoreboard import A_WAITING, C_STATE, S_PID, S_STOP, Stop
from .agent_keeper import AgentKeeper
from .children import READY_STATES, Child, ChildTable, Phase
from .context import Context
from .crash_loop import CALM, forks_allowed, settled, tried
from .deadlines import look
from .killing import UNKILLABLE_S, Doom, kill_group
from .options import WorkerOptions
from .poller import Kind, Source
from .reaper import Reaper
from .scaling import Load, Sizing
from .spawn import own_group
from .strangers import Strangers
from .template_keeper import TemplateKeeper

# A child that was told to leave and runs nothing has so long to settle and go.
LEAVE_GRACE_S: Final = 10.0


class Pool:
    """Keeps the wanted number of children.

    :ivar sizing: how many there should be.
    :ivar reaper: what becomes of those that die, and what is counted of them.
    """

    def __init__(
        self,
        context: Context,
        templates: TemplateKeeper,
        agent: AgentKeeper,
        random: Callable[[], float],
    ) -> None:
        self._context = context
        self._templates = templates
        self._agent = agent
        self._linux = Linux()
        self.strangers = Strangers()
        self.table = ChildTable(context.scoreboard)
        self.options = WorkerOptions()
        self.sizing = Sizing()
        self.reaper = Reaper(context, self.table, agent, self.options.max_boot_failures, random)

    def configure(self, options: WorkerOptions) -> None:
        """Take over what a template has reported."""
        self.options = options
        self.reaper.guard.failures_max = options.max_boot_failures
        self.reaper.loop = CALM  # it may be another code, and nobody is to wait for it

    # --- how many ------------------------------------------------------------------------------

    def reconcile(self, now_s: float) -> None:
        """Fork what is missing, let go what is too much, replace what is to be replaced."""
        self._forget_deaths(now_s)
        self._retire_one_of_an_old_template()
        wanted = [child for child in self.table if child.wanted]
        missing = self.sizing.target - len(wanted)
        for _ in range(self._forks_allowed(missing, now_s)):
            if not self._fork(now_s):
                break
        for child in self._least_needed(wanted)[: max(0, -missing)]:
            self.tell_to_leave(child, now_s)
        for child in self.table:
            if not child.retiring or child.leaving:
                continue
            if child.urgent or (missing <= 0 and not self._successor_of(child)):
                self.tell_to_leave(child, now_s)

    def adapt(self, now_s: float) -> None:
        """Follow the load, if the configuration gives bounds."""
        bounds = self.options.autoscale
        if bounds is None:
            return
        views = [look(child.slot) for child in self.table if child.wanted and child.phase is Phase.READY]
        busy = sum(1 for view in views if view.running)
        load = Load(self._context.scoreboard.words[A_WAITING], busy, len(views) - busy)
        before = self.sizing.target
        if self.sizing.adapt(load, bounds, now_s):
            self._context.log.info(
                "autoscale: %s from %d to %d children; %d messages wait, %d children are busy",
                "grows" if self.sizing.target > before else "shrinks",
                before,
                self.sizing.target,
                load.waiting,
                load.busy,
            )

    def _forks_allowed(self, missing: int, now_s: float) -> int:
        guard = self.reaper.guard
        if not self._templates.can_fork or not guard.may_fork(now_s):
            return 0
        if guard.failures:
            # After a failure one child tries for all.
            missing = min(missing, 0 if self._booting else 1)
        newest_fork_s = max((child.forked_s for child in self.table if child.wanted), default=float("-inf"))
        missing = forks_allowed(self.reaper.loop, missing, newest_fork_s, now_s)
        # Every child may have one beside it that is leaving, stuck, or its successor; not more.
        room = 2 * self.sizing.target + 2 - len(self.table)
        return max(0, min(missing, room))

    @property
    def _booting(self) -> bool:
        return any(child.phase in (Phase.FORKING, Phase.BOOTING) for child in self.table)

    def _forget_deaths(self, now_s: float) -> None:
        if not self.reaper.loop.step or self._booting:
            return
        self.reaper.loop = settled(self.reaper.loop, now_s)
        if not self.reaper.loop.step:
            self._context.log.info("children live again; all that are missing are replaced")

    def _fork(self, now_s: float) -> bool:
        child = self.table.allocate(self._templates.number, now_s)
        if child is None:
            return False
        child.replaces = next(
            (c for c in self.table if c.retiring and not c.leaving and not self._successor_of(c)), None
        )
        try:
            pid = self._templates.fork_child(child)
        except OSError as error:
            self.fork_failed(child, str(error), now_s)
            return False
        if pid:
            self.forked(child, pid, now_s)
        return True

    def _successor_of(self, child: Child) -> bool:
        return any(other.replaces is child for other in self.table)

    def _least_needed(self, wanted: list[Child]) -> list[Child]:
        """Idle ones first, the youngest of them first."""
        return sorted(wanted, key=lambda child: (look(child.slot).running != 0, -child.forked_s))

    def _retire_one_of_an_old_template(self) -> None:
        if any(child.retiring and not child.leaving for child in self.table):
            return
        for child in self.table:
            if child.template != self._templates.number and child.phase is Phase.READY and child.wanted:
                child.retiring = "is of an older template"
                return

    # --- their lives ---------------------------------------------------------------------------

    def forked(self, child: Child, pid: int, now_s: float) -> None:
        """A child has a process."""
        child.slot.words[S_PID] = pid
        own_group(pid)
        try:
            child.pidfd = os.pidfd_open(pid)
        except OSError as error:
            # No descriptor left to watch it by. It is ours and not reaped, so the number is its own.
            os.kill(pid, signal.SIGKILL)
            child.slot.words[S_PID] = 0
            self.fork_failed(child, f"it cannot be watched ({error.strerror})", now_s)
            return
        child.pid = pid
        child.phase = Phase.BOOTING
        self._context.poller.add(child.pidfd, Source(Kind.CHILD, child))

    def fork_failed(self, child: Child, error: str, now_s: float) -> None:
        """A child could not be forked: the worker serves with fewer until the back-off is over."""
        self.reaper.guard.failed(now_s)
        if self.reaper.guard.failures == 1:
            self._context.log.error("cannot fork a child: %s; trying again", error)
        self.table.remove(child, unrecovered=False)

    def forget_unforked(self, template: int) -> None:
        """A template died before it could fork what it was asked for."""
        for child in self.table:
            if child.phase is Phase.FORKING and child.template == template:
                self.table.remove(child, unrecovered=False)

    def watch(self, now_s: float) -> None:
        """Notice who is ready, who never will be, who does not leave, who cannot be killed."""
        for child in self.table:
            if child.phase is Phase.FORKING:
                self._watch_fork(child, now_s)
            elif child.phase is Phase.BOOTING:
                self._watch_boot(child, now_s)
            elif child.phase is Phase.READY and child.leaving:
                if look(child.slot).running:
                    child.left_told_s = now_s
                elif now_s - child.left_told_s > LEAVE_GRACE_S:
                    self.kill(
                        child, Doom("crash", f"did not leave within {LEAVE_GRACE_S:g} s", charge=False), now_s
                    )
            elif child.phase is Phase.KILLED and now_s - child.killed_s > UNKILLABLE_S:
                child.phase = Phase.STUCK
                self._context.log.critical(
                    "child %d (pid %d) cannot be killed: it is stuck in the kernel. It counts as dead and is "
                    "replaced; its memory and its locks stay taken",
                    child.index,
                    child.pid,
                )
                self.reaper.report(child, child.doom or Doom("crash", "cannot be killed", charge=True))

    def _watch_fork(self, child: Child, now_s: float) -> None:
        timeout_s = self.options.boot_timeout_s
        if now_s - child.forked_s > timeout_s and self._templates.kill_current(child.template):
            # Its successor is asked again for what this one was asked for.
            self._context.log.error("the template has forked nothing for %g s; replaced", timeout_s)

    def _watch_boot(self, child: Child, now_s: float) -> None:
        if child.slot.words[C_STATE] in READY_STATES:
            child.phase = Phase.READY
            child.ready_s = now_s
            self.reaper.guard.succeeded()
            self.reaper.loop = tried(self.reaper.loop, now_s)
            if child.replaces is not None and self.table.owns(child.replaces):
                self.tell_to_leave(child.replaces, now_s)
            child.replaces = None
        elif now_s - child.forked_s > self.options.boot_timeout_s:
            cause = f"was not ready within {self.options.boot_timeout_s:g} s"
            self.kill(child, Doom("boot", cause, charge=False), now_s)

    def tell_to_leave(self, child: Child, now_s: float) -> None:
        """Finish the running task, settle, give the rest back, leave."""
        if child.leaving:
            return
        child.leaving = True
        child.left_told_s = now_s
        child.slot.words[S_STOP] = Stop.LEAVE
        self.wake(child)

    def wake(self, child: Child) -> None:
        """Have an idle child look at its slot."""
        self._linux.futex(self._context.scoreboard.buffer, child.slot.wake_address()).wake()

    def kill(self, child: Child, doom: Doom, now_s: float) -> None:
        """Kill a child with everything in its group; it is buried when its pidfd says so."""
        if not child.alive:
            return
        if not self.reaper.left_behind and not self._fork_pending:
            self.strangers.note(self.known_pids())
        child.doom, child.killed_s, child.phase = doom, now_s, Phase.KILLED
        child.stopping = None
        kill_group(child.pid, child.pidfd)

    def known_pids(self) -> set[int]:
        """The processes that the supervisor has forked or had forked."""
        pids = self.table.pids() | {template.pid for template in self._templates.all()}
        if self._agent.agent is not None:
            pids.add(self._agent.agent.pid)
        return pids

    def mind_strangers(self, *, note: bool, reap: bool) -> bool:
        """Kill what the dead have left behind; note or reap who else is there. False: not now.

        While a fork is pending, a stranger may be a child of ours that has not been reported yet.
        """
        if self.reaper.dead:
            for (slot, _), count in self.strangers.kill_descendants(self.reaper.dead).items():
                self._context.log.warning("child %d left %d sub-process(es) behind; killed", slot, count)
            self.reaper.dead.clear()
        if self._fork_pending:
            return False
        known = self.known_pids()
        if self.reaper.left_behind:
            self.reaper.left_behind = False
            self.strangers.kill_left_behind(known)
        if note:
            self.strangers.note(known)
        if reap:
            self.strangers.reap(frozenset(known))
        return True

    @property
    def _fork_pending(self) -> bool:
        """A process of ours may be there that has not been reported: noted as a stranger, it would be left
        alone should its template die before it says so."""
        return any(child.phase is Phase.FORKING for child in self.table) or self._agent.forking

"""Carries out the shutdown that `shutdown` decides."""

from __future__ import annotations

import logging
from typing import Final

from ..scoreboard import C_RUNNING, C_SHIELDED
from .agent_keeper import AgentKeeper
from .children import Child, Phase
from .deaths import EXIT_BOOT_FAILED
from .killing import Doom
from .notify import HostNotifier, ServiceManager
from .pool import Pool
from .shutdown import Ask, Shutdown, Stage, advance, ask, stop_within
from .template_keeper import TemplateKeeper

_SIGNALS: Final = {Ask.TERM: "SIGTERM", Ask.INT: "SIGINT", Ask.QUIT: "SIGQUIT"}
# A soft shutdown lets a task finish what it shields, for so long; less than the stage that kills takes.
SHIELD_S: Final = 4.0
STOPPED: Final = Doom("shutdown", "the worker was told to stop", charge=False)


class Ending:
    """Where the shutdown stands, and what each of its stages begins with.

    :ivar state: written by the supervisor's loop only.
    """

    def __init__(
        self,
        log: logging.Logger,
        pool: Pool,
        templates: TemplateKeeper,
        agent: AgentKeeper,
        manager: ServiceManager,
        host: HostNotifier,
    ) -> None:
        self._log = log
        self._pool = pool
        self._templates = templates
        self._agent = agent
        self._manager = manager
        self._host = host
        self.state = Shutdown()
        self._spare_until_s = float("-inf")  # until then those in a shield are not killed
        self._sig: str | None = None  # what was sent last, for ``worker_shutting_down``

    @property
    def begun(self) -> bool:
        """Somebody has asked to stop."""
        return self.state.begun

    @property
    def done(self) -> bool:
        """Nothing is left to be done."""
        return self.state.stage is Stage.DONE

    @property
    def parting(self) -> bool:
        """The agent has been told to leave."""
        return self.state.stage >= Stage.PARTING

    def ask(self, what: Ask, now_s: float, exit_code: int = 0) -> None:
        """A signal, or its like. Whoever asks again does not wait for shields."""
        if self.begun:
            self._spare_until_s = float("-inf")
        self._sig = _SIGNALS.get(what)
        self._move(ask(self.state, what, now_s, self._pool.options.soft_shutdown_s, exit_code), now_s)

    def stop(self, graceful_s: float | None, now_s: float) -> None:
        """A request through the control socket: within so many seconds, None without a bound."""
        self._move(stop_within(self.state, now_s, graceful_s), now_s)

    def fail(self, reason: str, now_s: float, exit_code: int = EXIT_BOOT_FAILED) -> None:
        """The worker cannot go on."""
        self._log.critical("the worker stops: %s", reason)
        self._host.failed(reason)
        self.ask(Ask.FAIL, now_s, exit_code)

    def turn(self, now_s: float) -> None:
        """Go as far as it goes now."""
        while self.begun and not self.done:
            following = advance(
                self.state,
                now_s,
                children=sum(1 for child in self._pool.table if child.phase is not Phase.STUCK),
                unrecovered=self._pool.table.unrecovered if self._agent_may_answer() else 0,
                agent=self._agent.agent is not None,
            )
            if following == self.state:
                break
            self._move(following, now_s)
        if self.state.stage is Stage.COLD:
            for child in self._pool.table:
                if now_s >= self._spare_until_s or not _in_shield(child):
                    self._pool.kill(child, STOPPED, now_s)

    def until_deadline_s(self, now_s: float) -> float:
        """How long the present stage may still take."""
        return float("inf") if self.state.deadline_s is None else max(0.0, self.state.deadline_s - now_s)

    def _agent_may_answer(self) -> bool:
        return self._agent.agent is not None or self._templates.can_fork

    def _move(self, following: Shutdown, now_s: float) -> None:
        before, self.state = self.state, following
        soft = before.stage is Stage.WARM and before.deadline_s is not None and now_s >= before.deadline_s
        if soft and following.stage is Stage.COLD:
            self._spare_until_s = now_s + SHIELD_S
        if following.stage is not before.stage:
            self._enter(before.stage, now_s)
        if following.stage is Stage.WARM and following.deadline_s not in (None, before.deadline_s):
            self._log.info("what still runs in %.1f s will be stopped", self.until_deadline_s(now_s))

    def _enter(self, before: Stage, now_s: float) -> None:
        if self.state.stage in (Stage.WARM, Stage.COLD):
            how = self.state.stage.name.capitalize()
            self._agent.announce_stop(self._sig, how, self.state.exit_code)
        match self.state.stage:
            case Stage.WARM:
                self._log.info("stopping: running tasks are finished first")
                self._let_go(now_s)
            case Stage.COLD:
                if before is Stage.RUN:
                    self._let_go(now_s)
                if len(self._pool.table):
                    self._log.warning("stopping now: running tasks are stopped and given back")
            case Stage.HANDOVER:
                self._pool.strangers.kill_all(self._pool.known_pids())
            case Stage.PARTING:
                self._agent.stop()
            case Stage.DONE:
                self._agent.kill()
                self._templates.leave()
            case Stage.RUN:
                raise AssertionError("a shutdown does not go back")

    def _let_go(self, now_s: float) -> None:
        self._manager.stopping()
        if self._templates.booting is not None:
            self._templates.kill(self._templates.booting)
        for child in self._pool.table:
            if child.phase is Phase.BOOTING:
                # It holds nothing, and what it waits for may never come.
                self._pool.kill(child, STOPPED, now_s)
            else:
                self._pool.tell_to_leave(child, now_s)


def _in_shield(child: Child) -> bool:
    words = child.slot.words
    return child.phase is Phase.READY and words[C_RUNNING] != 0 and words[C_SHIELDED] == words[C_RUNNING]

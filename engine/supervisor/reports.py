"""What template and agent report, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ..clock import mono_s
from ..terminating import signal_of
from .agent_keeper import Agent, AgentKeeper, AgentPhase
from .boot_guard import BootGuard, fraction
from .children import Child
from .context import Context
from .ending import STOPPED, Ending
from .killing import Termination
from .options import OptionsError, WorkerOptions, worker_options
from .pool import Pool
from .template_keeper import Template, TemplateKeeper, TemplatePhase

# A template that has lived so long was no boot failure.
_SETTLED_S: Final = 10.0


class Reports:
    """Reads the channels of template and agent.

    :param on_configured: called with the options of each template that has taken over, and whether
        it is the first.
    :ivar started: the first template has reported.
    """

    def __init__(
        self,
        context: Context,
        templates: TemplateKeeper,
        agent: AgentKeeper,
        pool: Pool,
        ending: Ending,
        on_configured: Callable[[WorkerOptions, bool], None],
    ) -> None:
        self._context = context
        self._log = context.log
        self._templates = templates
        self._agent = agent
        self._pool = pool
        self._ending = ending
        self._on_configured = on_configured
        self._guard = BootGuard(1 << 30, fraction)
        self.started = False
        self._reload_again = False

    # --- template ------------------------------------------------------------------------------

    def begin_template(self) -> None:
        """Start a template; the first one must succeed."""
        now_s = mono_s()
        try:
            self._templates.begin(now_s)
        except OSError as error:
            self._log.error("cannot fork the template: %s", error)
            if not self.started:
                self._ending.fail(f"cannot fork the template: {error}", now_s)

    def reload(self) -> None:
        """Import the application again, then replace agent and children one by one."""
        if self._ending.begun or not self.started:
            return
        if self._templates.booting is not None:
            self._reload_again = True
            return
        self._log.info("reloading: the application is imported again")
        self.begin_template()

    def template_speaks(self, template: Template, now_s: float) -> None:
        """Read what a template has sent."""
        if template.channel.fileno() < 0:
            return
        for message in template.channel.receive():
            try:
                self._on_template_message(template, message, now_s)
            except (KeyError, TypeError, ValueError) as error:
                self._log.error("the template is replaced: it said %.200r (%r)", message, error)
                self._templates.kill(template)
        if template.channel.closed:
            self._context.poller.remove(template.channel.fileno())
            if template.channel.fault is not None:
                self._log.error("the template is replaced: %s", template.channel.fault)
                self._templates.kill(template)

    def _on_template_message(self, template: Template, message: dict[str, Any], now_s: float) -> None:
        generation = int(message.get("generation") or 0)
        match message["op"], message.get("kind"):
            case "ready", _:
                self._on_template_ready(template, message, now_s)
            case "boot-failed", _:
                code = message.get("exit_code")
                self._on_template_failed(template, str(message.get("traceback")), now_s, code)
            case "forked" | "fork-failed", "child":
                child = self._pool.table.get(int(message["slot"]), generation)
                if child is not None:
                    self._on_child_report(child, message, now_s)
            case "forked", "agent":
                self._agent.forked(generation, int(message["pid"]), now_s)
            case "fork-failed", "agent":
                self._agent.fork_failed(generation, str(message.get("error")), now_s)
            case _:
                self._log.error("the template said something unexpected: %.200r", message)

    def _on_child_report(self, child: Child, message: dict[str, Any], now_s: float) -> None:
        if message["op"] == "fork-failed":
            self._pool.fork_failed(child, str(message.get("error")), now_s)
            return
        self._pool.forked(child, int(message["pid"]), now_s)
        if self._ending.begun:
            self._pool.kill(child, STOPPED, now_s)

    def _on_template_ready(self, template: Template, message: dict[str, Any], now_s: float) -> None:
        if template is not self._templates.booting or self._ending.begun:
            return
        try:
            options = worker_options(message["options"])
        except OptionsError as error:
            self._on_template_failed(template, str(error), now_s)
            return
        self._templates.promote(template, fresh=bool(message.get("fresh")))
        for reason in message.get("reasons") or ():
            self._log.warning("children import the application themselves: %s", reason)
        first, self.started = not self.started, True
        self._pool.configure(options)
        self._on_configured(options, first)
        if not first:
            self._log.info("reloaded: agent and children are replaced")
            self._agent.replace()
        if self._reload_again:
            self._reload_again = False
            self.reload()

    def _on_template_failed(
        self, template: Template, report: str, now_s: float, exit_code: int | None = None
    ) -> None:
        """The application cannot be served.

        :param exit_code: what the worker ends with if it has nothing to go on with; None where the report is
            a traceback, and not a word to the operator.
        """
        template.phase = TemplatePhase.LEAVING  # its end is no news any more
        if self.started:
            self._log.error("the application cannot be loaded; what is running stays as it is\n%s", report)
        elif exit_code is None:
            self._ending.fail(f"the application cannot be loaded\n{report}", now_s)
        else:
            self._ending.fail(report, now_s, int(exit_code))
        self._templates.kill(template)

    def template_gone(self, template: Template, now_s: float) -> None:
        """A template's process has ended."""
        if template not in self._templates.all():
            return
        self.template_speaks(template, now_s)
        was_booting, unexpected = template is self._templates.booting, template.phase is TemplatePhase.BOOTING
        mattered = self._templates.gone(template)
        if mattered:
            self._count_template_death(template, now_s)
        self._pool.forget_unforked(template.number)
        if self._templates.current is None and not self._templates.fresh:
            self._agent.forget_unforked()
        if not mattered or self._ending.parting:
            return
        if was_booting and not self.started and not self._ending.begun:
            self._ending.fail("the template died while it loaded the application", now_s)
        elif was_booting:
            if unexpected:
                self._log.error("the template died while it loaded the application; what runs stays as it is")
            if self._reload_again:
                self._reload_again = False
                self.reload()
        else:
            self._log.error("the template died; the application is imported again")
            # Among them may be children that it had forked and not reported yet.
            self._pool.strangers.kill_left_behind(self._pool.known_pids())

    def _count_template_death(self, template: Template, now_s: float) -> None:
        if now_s - template.begun_s > _SETTLED_S:
            self._guard.succeeded()
        self._guard.failed(now_s)
        if self._guard.failures == 1:
            self._guard.not_before_s = now_s

    def tend(self, now_s: float) -> None:
        """Import the application again when the template has died; children go on meanwhile."""
        if self._ending.begun or self._templates.can_fork or self._templates.booting is not None:
            return
        if self._guard.failures >= self._pool.options.max_boot_failures and not self._pool.table.any_ready:
            self._ending.fail(f"the template died {self._guard.failures} times in a row", now_s)
        elif self._guard.may_fork(now_s):
            self.begin_template()

    # --- agent ---------------------------------------------------------------------------------

    def agent_speaks(self, agent: Agent) -> None:
        """Read what the agent has sent."""
        if self._agent.agent is not agent or agent.channel.fileno() < 0:
            return
        for message in agent.channel.receive():
            try:
                self._on_agent_message(agent, message)
            except (KeyError, TypeError, ValueError) as error:
                self._log.error("the agent is replaced: it said %.200r (%r)", message, error)
                self._agent.kill()
        if agent.channel.closed:
            self._context.poller.remove(agent.channel.fileno())
            if agent.channel.fault is not None:
                self._log.error("the agent is replaced: %s", agent.channel.fault)
            if agent.phase is not AgentPhase.STOPPING:
                self._agent.kill()

    def agent_gone(self, agent: Agent, now_s: float) -> None:
        """The agent's process has ended."""
        if self._agent.agent is agent:
            self.agent_speaks(agent)
            self._agent.gone(agent, now_s)

    def _on_agent_message(self, agent: Agent, message: dict[str, Any]) -> None:
        match message["op"]:
            case "ready":
                self._agent.ready(agent)
            case "recovered":
                self._agent.answered(message)
                self._pool.table.recovered(int(message["slot"]), int(message["generation"]))
            case "moved":
                self._agent.answered(message)
            case "terminate":
                self._on_terminate(message)
            case "log":
                self._log.info("agent: %.1000s", message.get("text"))
            case _:
                self._log.error("the agent said something unexpected: %.200r", message)

    def _on_terminate(self, message: dict[str, Any]) -> None:
        """Somebody wants an execution to end; the enforcer sees to it in this very turn."""
        child = self._pool.table.get(int(message["slot"]), int(message["generation"]))
        if child is None:
            return  # it has died meanwhile, and what it ran is revoked
        asked = Termination(int(message["execution"]), signal_of(message["signal"]))
        before = child.termination
        if before is None or (before.execution, before.signum) != (asked.execution, asked.signum):
            child.termination = asked

"""The supervisor's loop: one inbox, one match, bounded work each turn, nothing that blocks."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Mapping
from typing import Any, Final

from ..boot import BootSpec
from ..clock import mono_ns, mono_s
from ..linux import Linux
from ..log_file import expand
from ..scoreboard import S_PAUSED, S_SUPERVISOR_PID, Scoreboard
from ..worker_names import incarnation, node_name
from . import banner
from .agent_keeper import AgentKeeper
from .boot_guard import fraction
from .context import Context
from .control import Control
from .ending import STOPPED, Ending
from .enforcement import NOBODY_S, Enforcer
from .node_log import make_logger, reformat
from .notify import HostNotifier, ServiceManager
from .options import WorkerOptions
from .pidfile import Pidfile, PidfileError
from .poller import Kind, Poller, Source
from .pool import Pool
from .reports import Reports
from .shutdown import Ask
from .signals import SignalInbox, remapped
from .spawn import Entries
from .stacks import Stacks
from .status import Status
from .template_keeper import TemplateKeeper, TemplatePhase

_STRANGERS_S: Final = 3.0
_ASKS: Final = {signal.SIGTERM: Ask.TERM, signal.SIGINT: Ask.INT, signal.SIGQUIT: Ask.QUIT}


class Supervisor:
    """One worker. Everything here is written by the one thread that runs `run`.

    :param spec: what the worker was told.
    :param entries: what the processes run; tests give others.
    :param environ: read once, for ``REMAP_SIGTERM``, ``AUTOSCALE_KEEPALIVE`` and ``NOTIFY_SOCKET``.
    """

    def __init__(
        self,
        spec: BootSpec,
        entries: Entries | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        # First of all: a signal that comes while the rest is set up is kept, and not deadly.
        self._signals = SignalInbox(remapped(environ))
        self._signals.install()
        Linux().become_subreaper()
        self._spec = spec
        self._environ = environ
        self.context = _context(spec, entries or Entries())
        self._log = self.context.log
        self._templates = TemplateKeeper(self.context)
        self._agent = AgentKeeper(self.context, self._templates, fraction)
        self._pool = Pool(self.context, self._templates, self._agent, fraction)
        self._enforcer = Enforcer(self._pool.table, self._pool.kill, self._agent.request)
        self._manager = ServiceManager(environ)
        self._host = HostNotifier(spec.notify_fd)
        self._ending = Ending(self._log, self._pool, self._templates, self._agent, self._manager, self._host)
        self._reports = Reports(
            self.context, self._templates, self._agent, self._pool, self._ending, self._on_configured
        )
        self._status = Status(
            self.context, self._pool, self._templates, self._agent, lambda: self._turn_longest_s
        )
        self._stacks = Stacks(self.context)
        self._control = Control(self.context, self)
        self._pidfile = Pidfile(None if spec.pidfile is None else expand(spec.pidfile, self.context.node))
        if environ.get("AUTOSCALE_KEEPALIVE"):
            self._pool.sizing.keepalive_s = float(environ["AUTOSCALE_KEEPALIVE"])
        self._first_target = 0  # what the configuration asked for
        self._announced = False  # whoever waits has been told that the worker is ready
        self._reap_wanted = False  # some child of ours has ended
        self._strangers_noted_s = 0.0
        self._turn_longest_s = 0.0

    def run(self) -> int:
        """Run the worker until it has been told to stop; returns the exit code."""
        try:
            self._pidfile.take()
            self._open()
            self._reports.begin_template()
            wait_s = 0.0
            while not self._ending.done:
                wait_s = self._turn(wait_s)
        except PidfileError as error:
            self._log.critical("%s", error)
            self._host.failed(str(error))
            return 1
        finally:
            self._close()
        return self._ending.state.exit_code

    def _open(self) -> None:
        poller = self.context.poller
        poller.add(self._signals.fd, Source(Kind.SIGNAL))
        poller.add(self.context.doorbell_fd, Source(Kind.DOORBELL))
        self._control.open(self._environ)
        if self._spec.notify_fd is not None:
            poller.add(self._spec.notify_fd, Source(Kind.NOTIFY), 0)
        if self._spec.watch_pid is not None:
            self._watch_host(self._spec.watch_pid)

    def _watch_host(self, pid: int) -> None:
        try:
            self.context.poller.add(os.pidfd_open(pid), Source(Kind.HOST))
        except ProcessLookupError:
            self._ending.ask(Ask.HOST_GONE, mono_s())
        if os.getppid() != pid:
            self._ending.ask(
                Ask.HOST_GONE, mono_s()
            )  # it has died already, and this is somebody else's number

    def _close(self) -> None:
        """Leave nothing behind, whatever ended the loop."""
        now_s = mono_s()
        for child in self._pool.table:
            self._pool.kill(child, STOPPED, now_s)
        self._agent.kill()
        self._templates.leave()
        self._pool.strangers.kill_all(self._pool.known_pids())
        self._control.close()
        failure = self._pidfile.release()
        if failure:
            self._log.error("%s", failure)
        self._signals.mute()

    # --- one turn ------------------------------------------------------------------------------

    def _turn(self, wait_s: float) -> float:
        events = self.context.poller.wait(wait_s)
        begun_ns = mono_ns()
        # A service manager may signal the children together with us: whether they were told to leave
        # is to be known before their deaths are looked at.
        for source, mask in sorted(events, key=lambda event: event[0].kind is not Kind.SIGNAL):
            self._handle(source, mask, begun_ns / 1e9)
        wait_s = self._look(begun_ns)
        self._turn_longest_s = max(self._turn_longest_s, (mono_ns() - begun_ns) / 1e9)
        return wait_s

    def _handle(self, source: Source, mask: int, now_s: float) -> None:
        match source.kind:
            case Kind.SIGNAL:
                for number in self._signals.drain():
                    self._on_signal(number, now_s)
            case Kind.DOORBELL:
                self._answer_doorbell()
            case Kind.CHILD:
                self._pool.reaper.bury(source.owner, now_s)
            case Kind.TEMPLATE_CHANNEL:
                self._reports.template_speaks(source.owner, now_s)
            case Kind.TEMPLATE:
                self._reports.template_gone(source.owner, now_s)
            case Kind.AGENT_CHANNEL:
                self._reports.agent_speaks(source.owner)
            case Kind.AGENT:
                self._reports.agent_gone(source.owner, now_s)
            case Kind.HOST | Kind.NOTIFY:
                self._log.warning("the program that embeds this worker has gone")
                self.context.poller.remove_kind(Kind.HOST)
                self.context.poller.remove_kind(Kind.NOTIFY)
                self._ending.ask(Ask.HOST_GONE, now_s)
            case Kind.CONTROL:
                self._control.accept(now_s)
            case Kind.CONTROL_CLIENT:
                self._control.serve(source.owner, mask)

    def _answer_doorbell(self) -> None:
        try:
            os.eventfd_read(self.context.doorbell_fd)
        except BlockingIOError:
            # A task that reads whatever descriptors it finds was faster. We look in every turn anyway.
            self._log.debug("a child has read the doorbell")

    def _look(self, now_ns: int) -> float:
        """What is done in every turn, whatever has happened; returns how long to wait for the next."""
        now_s = now_ns / 1e9
        self._pool.watch(now_s)
        wait_s = self._enforcer.turn(now_ns)
        self._watch_templates(now_s)
        if self._reports.started:
            self._tend(now_ns)
        if self._pool.reaper.fatal and not self._ending.begun:
            self._ending.fail(self._pool.reaper.fatal, now_s)
        self._ending.turn(now_s)
        self._announce(now_ns)
        self._mind_strangers(now_s)
        self._control.expire(now_s)
        self._manager.keep_alive(now_s)
        stacks_s = self._stacks.turn(now_s)
        pause_s = self._pool.reaper.pause_s(now_s) or NOBODY_S
        return min(wait_s, stacks_s, self._ending.until_deadline_s(now_s), pause_s, NOBODY_S)

    def _tend(self, now_ns: int) -> None:
        """Keep template, agent and children as they should be."""
        now_s, options = now_ns / 1e9, self._pool.options
        self._reports.tend(now_s)
        if not self._ending.parting:
            self._agent.ensure(now_s, options.boot_timeout_s)
            if self._agent.watch_lease(now_ns, options.lease_s):
                for child in self._pool.table:
                    self._pool.wake(child)
        if self._agent.agent is not None:
            self._agent.agent.channel.flush()
        if not self._ending.begun:
            self._pool.adapt(now_s)
            self._pool.reconcile(now_s)

    def _watch_templates(self, now_s: float) -> None:
        timeout_s = self._pool.options.boot_timeout_s
        for template in self._templates.all():
            template.channel.flush()
            if template.phase is TemplatePhase.BOOTING and now_s - template.begun_s > timeout_s:
                self._log.error("the application was not imported within %g s", timeout_s)
                template.phase = TemplatePhase.LEAVING
                self._templates.kill(template)

    def _announce(self, now_ns: int) -> None:
        """Say once that the worker is ready."""
        if self._announced or self._status.reasons_against(now_ns, stopping=self._ending.begun):
            return
        self._announced = True
        self._log.info("%s is ready", self.context.node)
        self._manager.ready()
        self._host.ready(self.context.node, self._control.path)

    def _mind_strangers(self, now_s: float) -> None:
        note = now_s - self._strangers_noted_s > _STRANGERS_S
        if not (note or self._reap_wanted or self._pool.reaper.left_behind):
            return
        if self._pool.mind_strangers(note=note, reap=note or self._reap_wanted):
            self._reap_wanted = False
            self._strangers_noted_s = now_s if note else self._strangers_noted_s

    # --- what is asked for ---------------------------------------------------------------------

    def _on_signal(self, number: int, now_s: float) -> None:
        match number:
            case signal.SIGCHLD:
                self._reap_wanted = True
            case signal.SIGHUP:
                self._reports.reload()
            case signal.SIGUSR1:
                self._stacks.ask(self._pool.table, self._templates, self._agent)
            case signal.SIGTERM | signal.SIGINT | signal.SIGQUIT:
                self._ending.ask(_ASKS[signal.Signals(number)], now_s)
            case _:
                self._log.debug("signal %d is of no use here", number)

    def _on_configured(self, options: WorkerOptions, first: bool) -> None:
        """A template has taken over, with these options."""
        self._enforcer.limits = options.limits
        if options.first_target != self._first_target:
            # A reload that asks for the same number leaves what was scaled by hand.
            self._first_target = options.first_target
            self._pool.sizing.set(options.first_target)
        reformat(self._log, options.log or {})
        if first and self._spec.banner:
            banner.show(self.context, options)

    def health(self, now_ns: int) -> dict[str, Any]:
        """Whether the worker is ready, and why not; and what else is wrong with it."""
        reasons = self._status.reasons_against(now_ns, stopping=self._ending.begun)
        answer = {"ready": not reasons, "reasons": reasons, "notes": self._status.notes(now_ns)}
        return answer | {"node": self.context.node, "pid": os.getpid()}

    def stats(self, now_ns: int) -> dict[str, Any]:
        """Everything that is counted."""
        return self._status.stats(now_ns) | {"stage": self._ending.state.stage.name.lower()}

    def active(self, now_ns: int) -> dict[str, Any]:
        """What runs."""
        return self._status.active(now_ns)

    def scale(self, target: int) -> None:
        """Have another number of children."""
        self._log.info("scaled to %d children", target)
        self._pool.sizing.set(target)

    def stop(self, graceful_s: float | None, now_s: float) -> None:
        """Stop within so many seconds; None: without a bound."""
        self._ending.stop(graceful_s, now_s)


def _context(spec: BootSpec, entries: Entries) -> Context:
    node = node_name(spec.hostname, socket.gethostname())
    scoreboard = Scoreboard()
    scoreboard.words[S_SUPERVISOR_PID] = os.getpid()
    scoreboard.words[S_PAUSED] = 1  # until the agent has taken the lease
    return Context(
        spec=spec,
        entries=entries,
        scoreboard=scoreboard,
        poller=Poller(),
        log=make_logger(spec.loglevel, None if spec.logfile is None else expand(spec.logfile, node)),
        node=node,
        worker_id=incarnation(node, os.urandom(4)),
        doorbell_fd=os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC),
        own_pidfd=os.pidfd_open(os.getpid()),
    )

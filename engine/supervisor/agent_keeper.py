"""The agent process: kept alive, told of the dead until it has answered, watched by its lease."""

from __future__ import annotations

import enum
import os
import signal
from collections.abc import Callable
from typing import Any, Final

from ..process_link import channel_pair
from ..scoreboard import A_LOOP_NS, A_RENEWED_NS, S_AGENT_PID, S_PAUSED
from .boot_guard import BootGuard
from .channel import PacketChannel
from .context import Context
from .killing import kill_group, send_signal
from .poller import Kind, Source
from .spawn import own_group
from .template_keeper import TemplateKeeper

# An agent that has lived so long was no boot failure.
_SETTLED_S: Final = 10.0


class AgentPhase(enum.Enum):
    """What there is of an agent."""

    NONE = "none"
    FORKING = "forking"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    REPLACED = "replaced"


class Agent:
    """One agent process. Written by the supervisor's loop only."""

    __slots__ = ("begun_s", "channel", "doomed", "generation", "phase", "pid", "pidfd", "said_ready")

    def __init__(self, generation: int, channel: PacketChannel, begun_s: float) -> None:
        self.generation = generation
        self.channel = channel
        self.begun_s = begun_s
        self.phase = AgentPhase.FORKING
        self.pid = 0
        self.pidfd = -1
        self.said_ready = False
        self.doomed = False  # killed because it stood still


class AgentKeeper:
    """Keeps one agent running and remembers what it has not answered.

    :ivar agent: the present one; None when there is none.
    :ivar deaths: how many agents have died without being told to.
    """

    def __init__(self, context: Context, templates: TemplateKeeper, random: Callable[[], float]) -> None:
        self._context = context
        self._templates = templates
        self._guard = BootGuard(1 << 30, random)
        self._generation = 0
        self._unanswered: dict[tuple[str, int, int, int], dict[str, Any]] = {}
        self.agent: Agent | None = None
        self.deaths = 0

    @property
    def phase(self) -> AgentPhase:
        """What there is of an agent."""
        return AgentPhase.NONE if self.agent is None else self.agent.phase

    @property
    def forking(self) -> bool:
        """An agent may exist that has not been reported yet."""
        return self.phase is AgentPhase.FORKING

    def ensure(self, now_s: float, boot_timeout_s: float) -> None:
        """Start an agent if there is none and the back-off is over; kill one that does not start."""
        agent = self.agent
        if agent is None:
            if self._templates.can_fork and self._guard.may_fork(now_s):
                self._start(now_s)
        elif agent.phase in (AgentPhase.FORKING, AgentPhase.STARTING):
            if now_s - agent.begun_s > boot_timeout_s:
                self._context.log.error("the agent was not ready within %g s; replaced", boot_timeout_s)
                self.kill()
        elif now_s - agent.begun_s > _SETTLED_S:
            self._guard.succeeded()

    def _start(self, now_s: float) -> None:
        self._generation += 1
        try:
            ours, theirs = channel_pair()
        except OSError as error:
            self._guard.failed(now_s)
            self._context.log.error("no channel for the agent: %s", error)
            return
        agent = self.agent = Agent(self._generation, PacketChannel(ours), now_s)
        self._context.poller.add(agent.channel.fileno(), Source(Kind.AGENT_CHANNEL, agent))
        try:
            pid = self._templates.fork_agent(theirs, agent.generation)
        except OSError as error:
            self.fork_failed(agent.generation, str(error), now_s)
            return
        if pid:
            self.forked(agent.generation, pid, now_s)

    def forked(self, generation: int, pid: int, now_s: float) -> None:
        """The agent has a process."""
        agent = self.agent
        if agent is None or agent.generation != generation:
            return
        own_group(pid)
        try:
            agent.pid, agent.pidfd = pid, os.pidfd_open(pid)
        except OSError as error:
            # It is ours and not reaped, so the number is its own.
            os.kill(pid, signal.SIGKILL)
            self.fork_failed(generation, f"it cannot be watched ({error.strerror})", now_s)
            return
        agent.phase = AgentPhase.STARTING
        self._context.scoreboard.words[S_AGENT_PID] = pid
        self._context.poller.add(agent.pidfd, Source(Kind.AGENT, agent))
        if agent.said_ready:
            self.ready(agent)

    def fork_failed(self, generation: int, error: str, now_s: float) -> None:
        """The agent could not be forked; tried again after the back-off."""
        if self.agent is None or self.agent.generation != generation:
            return
        self._guard.failed(now_s)
        self._context.log.error("cannot fork the agent: %s", error)
        self._forget(self.agent)

    def ready(self, agent: Agent) -> None:
        """The agent serves: say again what its predecessor has left unanswered."""
        agent.said_ready = True
        if agent.phase is not AgentPhase.STARTING:
            return  # its own word may come before the template's, which brings its pid
        agent.phase = AgentPhase.READY
        for message in self._unanswered.values():
            agent.channel.send(message)

    def request(self, message: dict[str, Any]) -> None:
        """Ask something that must be answered; asked again of the next agent if need be."""
        self._unanswered[_key(message)] = message
        if self.agent is not None and self.agent.phase is AgentPhase.READY:
            self.agent.channel.send(message)

    def answered(self, message: dict[str, Any]) -> None:
        """The agent has answered ``dead`` (``recovered``) or ``recall`` (``moved``)."""
        asked = {"recovered": "dead", "moved": "recall"}[message["op"]]
        self._unanswered.pop(_key(message | {"op": asked}), None)
        if asked == "dead":
            # What was to be recalled from a child went with the rest of what it held.
            slot, generation = int(message["slot"]), int(message["generation"])
            for key in [key for key in self._unanswered if key[:3] == ("recall", slot, generation)]:
                del self._unanswered[key]

    def gone(self, agent: Agent, now_s: float) -> None:
        """The agent's process has ended: reap it."""
        expected = agent.phase in (AgentPhase.STOPPING, AgentPhase.REPLACED)
        kill_group(agent.pid, agent.pidfd)
        try:
            ended = os.waitid(os.P_PIDFD, agent.pidfd, os.WEXITED)
            status = ended.si_status if ended is not None else -1
        except ChildProcessError:
            status = -1
        self._forget(agent)
        if not expected:
            self.deaths += 1
            self._guard.failed(now_s)
            if self._guard.failures <= 1:
                self._guard.not_before_s = now_s
            self._context.log.error("the agent died (status %d); a new one is started", status)

    def _forget(self, agent: Agent) -> None:
        for fd in (agent.pidfd, agent.channel.fileno()):
            if fd >= 0:
                self._context.poller.remove(fd)
        agent.channel.close()
        if agent.pidfd >= 0:
            os.close(agent.pidfd)
        self._context.scoreboard.words[S_AGENT_PID] = 0
        self.agent = None

    def announce_stop(self, sig: str | None, how: str, exit_code: int) -> None:
        """Have the agent send ``worker_shutting_down``. Nobody is asked again: it is news, not a duty."""
        if self.agent is not None and self.agent.phase is AgentPhase.READY:
            self.agent.channel.send({"op": "stopping", "sig": sig, "how": how, "exitcode": exit_code})

    def stop(self) -> None:
        """Ask the agent to unregister and leave."""
        if self.agent is not None and self.agent.pidfd >= 0:
            self.agent.channel.send({"op": "stop"})
            self.agent.phase = AgentPhase.STOPPING
        elif self.agent is not None:
            self._forget(self.agent)

    def kill(self) -> None:
        """Kill the agent; its successor carries on."""
        if self.agent is not None and self.agent.pidfd >= 0:
            send_signal(self.agent.pidfd, signal.SIGKILL)
        elif self.agent is not None:
            self._forget(self.agent)

    def replace(self) -> None:
        """Have the agent's successor, of a new template, take its place."""
        self.kill()
        if self.agent is not None:
            self.agent.phase = AgentPhase.REPLACED

    def forget_unforked(self) -> None:
        """The template died before it could fork the agent that was asked for."""
        if self.agent is not None and self.agent.phase is AgentPhase.FORKING:
            self._forget(self.agent)

    # --- the lease -----------------------------------------------------------------------------

    def lease_age_s(self, now_ns: int) -> float | None:
        """Seconds since the lease was last renewed; None if it never was."""
        renewed_ns = self._context.scoreboard.words[A_RENEWED_NS]
        return (now_ns - renewed_ns) / 1e9 if renewed_ns else None

    def watch_lease(self, now_ns: int, lease_s: float) -> bool:
        """Pause the children while the lease is in doubt; True when that has just ended.

        A lease that is half over without being renewed may have lapsed by the time a message is
        reserved. An agent whose loop stands still as well is replaced.
        """
        words = self._context.scoreboard.words
        age_s = self.lease_age_s(now_ns)
        doubtful = age_s is None or age_s > lease_s / 2
        was_paused = bool(words[S_PAUSED])
        words[S_PAUSED] = int(doubtful)
        if doubtful and not was_paused:
            self._context.log.error(
                "the lease has not been renewed for %.1f s; children take no more messages", age_s
            )
        agent = self.agent
        if doubtful and agent is not None and agent.phase is AgentPhase.READY:
            still_s = (now_ns - max(words[A_LOOP_NS], int(agent.begun_s * 1e9))) / 1e9
            if still_s > lease_s / 2 and not agent.doomed:
                agent.doomed = True
                self._context.log.error("the agent has stood still for %.1f s; replaced", still_s)
                self.kill()
        return was_paused and not doubtful


def _key(message: dict[str, Any]) -> tuple[str, int, int, int]:
    return (message["op"], int(message["slot"]), int(message["generation"]), int(message.get("batch", 0)))

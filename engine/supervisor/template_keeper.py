"""The template process: started, asked to fork, replaced.

The present template forks; a newer one may be booting beside it (SIGHUP); older ones are leaving.
When the application cannot be forked from, the template leaves after its report and the
supervisor forks children and agent itself, which then load the application each (``fresh``).
"""

from __future__ import annotations

import enum
import os
import signal
import socket

from ..process_link import channel_pair
from ..scoreboard import S_TEMPLATE_PID
from .channel import PacketChannel
from .children import Child
from .context import Context
from .killing import send_signal
from .poller import Kind, Source
from .spawn import fork_entry


class TemplatePhase(enum.Enum):
    """How far a template has come. Only forward."""

    BOOTING = "booting"
    READY = "ready"
    LEAVING = "leaving"


class Template:
    """One template process. Written by the supervisor's loop only."""

    __slots__ = ("begun_s", "channel", "number", "phase", "pid", "pidfd")

    def __init__(self, number: int, pid: int, channel: PacketChannel, begun_s: float) -> None:
        self.number = number
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.channel = channel
        self.phase = TemplatePhase.BOOTING
        self.begun_s = begun_s


class TemplateKeeper:
    """Starts and replaces templates, and forks through them.

    :ivar current: the one that forks; None before the first is ready, and with `fresh`.
    :ivar booting: one that is loading the application.
    :ivar fresh: children and agent are forked by the supervisor itself.
    :ivar number: of the template that children are to come from; grows with each.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self.current: Template | None = None
        self.booting: Template | None = None
        self._leaving: list[Template] = []
        self.fresh = False
        self.number = 0
        self._begun = 0

    @property
    def can_fork(self) -> bool:
        """Whether processes can be asked for."""
        return self.current is not None or self.fresh

    def begin(self, now_s: float) -> None:
        """Start a template beside the present one.

        :raises OSError: no process could be made.
        """
        ours, theirs = channel_pair()
        try:
            keep = (theirs.fileno(), *self._context.inherited_fds)
            pid = fork_entry(self._context.entries.template, (self._context.link(theirs),), keep)
            try:
                template = Template(self._begun + 1, pid, PacketChannel(ours), now_s)
            except OSError:
                os.kill(pid, signal.SIGKILL)  # ours and not reaped, so the number is its own
                raise
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._begun += 1
        self.booting = template
        self._context.poller.add(template.pidfd, Source(Kind.TEMPLATE, template))
        self._context.poller.add(template.channel.fileno(), Source(Kind.TEMPLATE_CHANNEL, template))

    def promote(self, template: Template, *, fresh: bool) -> None:
        """A template has reported: children come from it (or from nothing, if fresh) from now on."""
        previous, self.current = self.current, None
        if previous is not None:
            self._send_away(previous)
        self.booting = None
        self.fresh = fresh
        self.number = template.number
        if fresh:
            template.phase = TemplatePhase.LEAVING
            self._leaving.append(template)
        else:
            template.phase = TemplatePhase.READY
            self.current = template
        self._context.scoreboard.words[S_TEMPLATE_PID] = 0 if fresh else template.pid

    def fork_child(self, child: Child) -> int:
        """Fork a child: its pid, or 0 when the template has been asked and will say.

        :raises OSError: no process could be made.
        """
        if self.current is not None:
            self.current.channel.send(
                {"op": "fork", "kind": "child", "slot": child.index, "generation": child.generation}
            )
            return 0
        link = self._context.link(_closed_socket())
        arguments = (link, child.index, child.generation)
        return fork_entry(self._context.entries.child, arguments, self._context.inherited_fds)

    def fork_agent(self, end: socket.socket, generation: int) -> int:
        """Fork an agent that holds this end of its channel; the same return value and errors."""
        if self.current is not None:
            message = {"op": "fork", "kind": "agent", "slot": None, "generation": generation}
            self.current.channel.send(message, [end.detach()])
            return 0
        with end:
            keep = (end.fileno(), *self._context.inherited_fds)
            return fork_entry(self._context.entries.agent, (self._context.link(end), end), keep)

    def gone(self, template: Template) -> bool:
        """A template's process has ended: reap it. True if it was the one that forks, or booting."""
        self._context.poller.remove(template.channel.fileno())
        self._context.poller.remove(template.pidfd)
        template.channel.close()
        try:
            os.waitid(os.P_PIDFD, template.pidfd, os.WEXITED)
        except ChildProcessError:
            self._context.log.debug("template pid %d was reaped by somebody else", template.pid)
        os.close(template.pidfd)
        if template in self._leaving:
            self._leaving.remove(template)
            return False
        if template is self.current:
            self.current = None
            self._context.scoreboard.words[S_TEMPLATE_PID] = 0
        if template is self.booting:
            self.booting = None
        return True

    def leave(self) -> None:
        """Send every template away; those that are still loading the application are killed."""
        if self.current is not None:
            self._send_away(self.current)
            self.current = None
        if self.booting is not None:
            self.kill(self.booting)

    def kill(self, template: Template) -> None:
        """Kill a template that does not do what it should."""
        send_signal(template.pidfd, signal.SIGKILL)

    def kill_current(self, number: int) -> bool:
        """Kill the template that forks, if it is the one of this number and was not killed before."""
        template = self.current
        if template is None or template.number != number or template.phase is not TemplatePhase.READY:
            return False
        template.phase = TemplatePhase.LEAVING
        self.kill(template)
        return True

    def all(self) -> list[Template]:
        """Every template that has a process."""
        some = [template for template in (self.current, self.booting) if template is not None]
        return some + self._leaving

    def _send_away(self, template: Template) -> None:
        template.phase = TemplatePhase.LEAVING
        template.channel.send({"op": "exit"})
        self._leaving.append(template)


def _closed_socket() -> socket.socket:
    """A fresh child has no channel of its own."""
    end = socket.socket(socket.AF_UNIX)
    end.close()
    return end

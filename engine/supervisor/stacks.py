"""SIGUSR1: the stacks of every process of the worker, to the log."""

from __future__ import annotations

import math
import signal
import traceback
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from .agent_keeper import Agent, AgentKeeper, AgentPhase
from .children import Child, ChildTable, Phase
from .context import Context
from .killing import send_signal
from .template_keeper import Template, TemplateKeeper, TemplatePhase

# faulthandler writes a stack piece by piece, and all processes write to one log: asked all at once,
# they would write into each other's lines.
_GAP_S: Final = 0.02


class Stacks:
    """Asks the processes of a worker for their stacks, one after the other."""

    def __init__(self, context: Context) -> None:
        self._context = context
        # Written by the supervisor's loop: what they are called, and their pidfd while they have
        # come far enough to have a handler (the signal kills those that have not).
        self._asked: deque[tuple[str, Callable[[], int | None]]] = deque()
        self._next_s = 0.0

    def ask(self, table: ChildTable, templates: TemplateKeeper, agent: AgentKeeper) -> None:
        """Log our own stack now, and have the others write theirs in the turns to come."""
        self._context.log.warning("stack of the supervisor:\n%s", "".join(traceback.format_stack()))
        self._asked.clear()
        for template in templates.all():
            self._asked.append((f"template (pid {template.pid})", partial(_of_template, templates, template)))
        if agent.agent is not None:
            self._asked.append((f"agent (pid {agent.agent.pid})", partial(_of_agent, agent, agent.agent)))
        for child in table:
            self._asked.append((f"child {child.index} (pid {child.pid})", partial(_of_child, table, child)))

    def turn(self, now_s: float) -> float:
        """Ask the next one if it is time; returns in how many seconds to come again."""
        if self._asked and now_s >= self._next_s:
            name, pidfd_of = self._asked.popleft()
            pidfd = pidfd_of()
            if pidfd is not None:
                self._context.log.warning("stack of %s:", name)
                send_signal(pidfd, signal.SIGUSR2)
                self._next_s = now_s + _GAP_S
        return max(0.0, self._next_s - now_s) if self._asked else math.inf


# A process that has gone meanwhile is in none of the tables any more, and its pidfd may be
# somebody else's.


def _of_template(templates: TemplateKeeper, template: Template) -> int | None:
    present = any(known is template for known in templates.all())
    return template.pidfd if present and template.phase is TemplatePhase.READY else None


def _of_agent(keeper: AgentKeeper, agent: Agent) -> int | None:
    return agent.pidfd if keeper.agent is agent and agent.phase is AgentPhase.READY else None


def _of_child(table: ChildTable, child: Child) -> int | None:
    present = any(known is child for known in table)
    return child.pidfd if present and child.phase is Phase.READY else None

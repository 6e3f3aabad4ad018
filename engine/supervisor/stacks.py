"""SIGUSR1: the stacks of every process of the worker, to the log."""

from __future__ import annotations

import signal
import traceback

from .agent_keeper import AgentKeeper, AgentPhase
from .children import ChildTable, Phase
from .context import Context
from .killing import send_signal
from .template_keeper import TemplateKeeper, TemplatePhase


def dump(context: Context, table: ChildTable, templates: TemplateKeeper, agent: AgentKeeper) -> None:
    """Log our own stack, and have the others write theirs (faulthandler on SIGUSR2).

    Only those are asked that have come far enough to have a handler: the signal kills the others.
    """
    context.log.warning("stack of the supervisor:\n%s", "".join(traceback.format_stack()))
    pidfds = [template.pidfd for template in templates.all() if template.phase is TemplatePhase.READY]
    if agent.agent is not None and agent.phase is AgentPhase.READY:
        pidfds.append(agent.agent.pidfd)
    pidfds += [child.pidfd for child in table if child.phase is Phase.READY]
    for pidfd in pidfds:
        send_signal(pidfd, signal.SIGUSR2)

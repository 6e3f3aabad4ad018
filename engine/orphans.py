"""What the template and the agent do when the supervisor is gone: leave nothing alive.

The children die with the supervisor by the kernel's hand (PDEATHSIG), their sub-processes do not:
they are in the children's process groups, and the scoreboard knows those.

Standard library only.
"""

from __future__ import annotations

import os
import select
import signal

from .scoreboard import S_HIGH_SLOT, S_PID, SLOTS, Scoreboard

_ENDING_MS = 1000


def kill_process_groups(scoreboard: Scoreboard) -> int:
    """Kill the process group of every child on the scoreboard; returns how many there were.

    Called when the supervisor has died, so nobody forks children any more. A group number cannot
    have been given to strangers as long as one member of the group lives; a group without members
    was reaped within the last milliseconds.
    """
    killed = 0
    for index in range(min(scoreboard.words[S_HIGH_SLOT], SLOTS)):
        pid = scoreboard.slot(index).words[S_PID]
        if pid <= 1:
            continue
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        killed += 1
    return killed


def clear_up_after(supervisor_pidfd: int, scoreboard: Scoreboard) -> None:
    """The supervisor's channel has ended: if that is because it died, leave nothing alive.

    A process closes its descriptors before it counts as dead, so the channel's end comes first.
    """
    if select.select([supervisor_pidfd], [], [], _ENDING_MS / 1000)[0]:
        kill_process_groups(scoreboard)

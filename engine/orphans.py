"""What the template and the agent do when the supervisor is gone: leave nothing alive.

The children die with the supervisor by the kernel's hand (PDEATHSIG), their sub-processes do not:
they are in the children's process groups, and the scoreboard knows those. What has left its group
(a daemon, a session of its own) is known by a mark that a child leaves in the environment of
everything it starts; /proc shows the environment that a program was started with.

Standard library only.
"""

from __future__ import annotations

import os
import select
import signal
from typing import Final

from .scoreboard import S_HIGH_SLOT, S_PID, S_SUPERVISOR_PID, SLOTS, Scoreboard

MARK: Final = "_PREFORK_CHILD"
"""Environment variable that says which child a program descends from."""

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
        except (ProcessLookupError, PermissionError):
            continue  # it has just ended, or has become another user's
        killed += 1
    for pid in descendants(scoreboard.words[S_SUPERVISOR_PID]):
        try:
            os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue  # it has just ended, or has become another user's
    return killed


def mark(supervisor_pid: int, slot: int, generation: int) -> str:
    """The mark of a child, for its environment."""
    return f"{supervisor_pid}.{slot}.{generation}."


def descendants(supervisor_pid: int) -> dict[int, tuple[int, int]]:
    """Programs that the children of this supervisor have started, wherever they are.

    :returns: pid -> slot and generation of the child; (-1, -1) where the mark was tampered with.
    """
    needle = f"\0{MARK}={supervisor_pid}.".encode()
    found = {}
    for pid in process_ids():
        try:
            with open(f"/proc/{pid}/environ", "rb") as environ:
                _, marked, rest = (b"\0" + environ.read()).partition(needle)
        except OSError:
            continue  # gone, or another user's
        if marked:
            found[pid] = _child_of(rest.partition(b"\0")[0])
    return found


def _child_of(mark_end: bytes) -> tuple[int, int]:
    slot, _, generation = mark_end[:32].rstrip(b".").partition(b".")
    return (int(slot), int(generation)) if slot.isdigit() and generation.isdigit() else (-1, -1)


def process_ids() -> list[int]:
    """Every process there is; none when no descriptor is left to look with."""
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


def clear_up_after(supervisor_pidfd: int, scoreboard: Scoreboard) -> None:
    """The supervisor's channel has ended: if that is because it died, leave nothing alive.

    A process closes its descriptors before it counts as dead, so the channel's end comes first.
    """
    if select.select([supervisor_pidfd], [], [], _ENDING_MS / 1000)[0]:
        kill_process_groups(scoreboard)

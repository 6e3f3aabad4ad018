"""Kill precisely: stop, wait until it stands still, look again, then act on that execution or not.

A signal concerns a process, a limit concerns one execution. Stopping is asynchronous, so the slot
is read again only once the stop is confirmed (design §3).
"""

from __future__ import annotations

import enum
import os
import signal
from typing import Final, NamedTuple

from ..linux import states_of_threads
from .deadlines import View

CONFIRM_S: Final = 0.1
UNKILLABLE_S: Final = 5.0


class Doom(NamedTuple):
    """Why a child was killed.

    :param verdict: ``crash``, ``timeout``, ``memory``, ``shutdown``, ``exit`` or ``boot``.
    :param cause: the same for people.
    :param limit_s: the limit that was exceeded, in seconds.
    :param charge: counts as a crash of the message that ran.
    """

    verdict: str
    cause: str
    charge: bool
    limit_s: float | None = None


class Purpose(enum.Enum):
    """What a child is stopped for."""

    HARD_LIMIT = "hard limit"
    MEMORY = "memory"
    RECALL = "recall"


class Stopping(NamedTuple):
    """A stop that is under way.

    :param execution: the execution it is about.
    :param batch: for a recall, the batch.
    :param doom: for a kill, the reason.
    """

    purpose: Purpose
    execution: int
    batch: int
    begun_s: float
    doom: Doom | None = None


class Verdict(enum.Enum):
    """What to do next with a child that was told to stop."""

    WAIT = "wait"
    KILL = "kill"
    MARK = "mark"
    CONTINUE = "continue"


def judge(stopping: Stopping, view: View, *, confirmed: bool, now_s: float) -> Verdict:
    """What to do next. An execution that has ended in the meantime is never punished."""
    if view.running != stopping.execution:
        return Verdict.CONTINUE
    if not confirmed and now_s - stopping.begun_s < CONFIRM_S:
        return Verdict.WAIT
    if stopping.purpose is not Purpose.RECALL:
        return Verdict.KILL  # unconfirmed too: it may be in a state in which it cannot stop
    if confirmed and view.batch == stopping.batch and view.has_recallable:
        return Verdict.MARK
    return Verdict.CONTINUE


def is_stopped(pid: int, pidfd: int) -> bool:
    """Whether every thread of a child stands still, without waiting for it."""
    try:
        # WNOWAIT: the answer stays there, so that asking twice says the same.
        if os.waitid(os.P_PIDFD, pidfd, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None:
            return True
    except ChildProcessError:
        return False
    states = states_of_threads(pid)
    return bool(states) and all(state in "Tt" for state in states)


def send_signal(pidfd: int, number: signal.Signals) -> bool:
    """Signal a process that may have gone; False if it has."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    return True


def kill_group(pid: int, pidfd: int) -> None:
    """Kill a child and everything in its process group.

    To be called before the child is reaped: until then nobody else can get its number.
    """
    try:
        if os.getpgid(pid) == pid:
            os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # no member left, or none that may be killed; the leader itself is next
    send_signal(pidfd, signal.SIGKILL)

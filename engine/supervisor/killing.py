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
from ..terminating import SOFT
from .deadlines import View

CONFIRM_S: Final = 0.1
UNKILLABLE_S: Final = 5.0
# Who catches the signal with which it is to end has so long.
TERMINATION_GRACE_S: Final = 5.0


class Doom(NamedTuple):
    """Why a child was killed.

    :param verdict: ``crash``, ``timeout``, ``memory``, ``terminated``, ``shutdown``, ``exit`` or ``boot``.
    :param cause: the same for people.
    :param limit_s: the limit that was exceeded, in seconds.
    :param charge: counts as a crash of the message that ran.
    :param execution: when it concerns one execution alone, its number; else 0.
    :param signum: the signal that somebody asked for; 0 for none.
    """

    verdict: str
    cause: str
    charge: bool
    limit_s: float | None = None
    execution: int = 0
    signum: int = 0

    def explains(self, running: int, signum: int | None) -> bool:
        """Whether a process that ended like this, with that execution, died of it.

        :param signum: the signal that killed it; None when it has left by itself.
        """
        if signum == signal.SIGKILL:
            return True
        # A task may catch the signal that was asked for, and leave in another way.
        return bool(self.execution) and (running == self.execution or signum == self.signum)


class Termination:
    """Somebody's request to end one execution. Written by the supervisor's loop only.

    :param execution: its number.
    :param signum: with what.
    :ivar sent_ns: when the signal was sent last; 0 until then.
    """

    __slots__ = ("execution", "sent_ns", "signum")

    def __init__(self, execution: int, signum: signal.Signals) -> None:
        self.execution = execution
        self.signum = signum
        self.sent_ns = 0

    @property
    def soft(self) -> bool:
        """It is raised in the task, as the soft limit is."""
        return self.signum in SOFT

    @property
    def deadly(self) -> bool:
        """It cannot be caught, or was, and too long ago."""
        return self.signum == signal.SIGKILL or self.sent_ns != 0

    @property
    def doom(self) -> Doom:
        """What a child is said to have died of that dies of this."""
        cause = f"terminated on request ({self.signum.name})"
        return Doom("terminated", cause, charge=False, execution=self.execution, signum=self.signum)


class Purpose(enum.Enum):
    """What a child is stopped for."""

    HARD_LIMIT = "hard limit"
    MEMORY = "memory"
    RECALL = "recall"
    TERMINATION = "termination"


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


def kill_group(pid: int, pidfd: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Kill a child and everything in its process group, or send it another signal.

    To be called before the child is reaped: until then nobody else can get its number.
    """
    try:
        if os.getpgid(pid) == pid:
            os.killpg(pid, number)
            if number != signal.SIGKILL:
                return  # once, since whoever catches it may count
    except (ProcessLookupError, PermissionError):
        pass  # no member left, or none that may be killed; the leader itself is next
    send_signal(pidfd, number)

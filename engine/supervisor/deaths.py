"""What a child died of, in words."""

from __future__ import annotations

import os
import signal
from typing import Final, NamedTuple

from .killing import Doom

EXIT_BOOT_FAILED: Final = 3
LEFT_AS_TOLD: Final = "left as told"
# Exit codes of a child that knows why it leaves (engine/child/loop.py).
_LEFT: Final = {
    4: "what it held was taken over by another worker",
    5: "left before the broker could be told what became of its last messages",
}

_UNSURPRISING: Final = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT})


class Exit(NamedTuple):
    """How a process ended: its exit code, or the signal that killed it."""

    code: int | None
    signal: int | None

    @property
    def text(self) -> str:
        """``signal 9``, ``signal 11 (SIGSEGV)`` or ``exit code 3``."""
        if self.signal is None:
            return f"exit code {self.code}"
        try:
            name = signal.Signals(self.signal)
        except ValueError:
            return f"signal {self.signal}"
        return f"signal {self.signal}" if name in _UNSURPRISING else f"signal {self.signal} ({name.name})"


def reap(pidfd: int) -> Exit | None:
    """Take the exit status of a child; None when it has not ended yet.

    A child that somebody else has reaped (SIGCHLD ignored by a debugger) counts as exit code -1.
    """
    try:
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return Exit(-1, None)
    if result is None:
        return None
    if result.si_code == os.CLD_EXITED:
        return Exit(result.si_status, None)
    return Exit(None, result.si_status)


def explain(
    ended: Exit,
    doom: Doom | None,
    *,
    running: int = 0,
    was_ready: bool,
    told_to_leave: bool,
    at_work: bool,
    out_of_memory: bool,
) -> Doom:
    """Verdict and cause of a death.

    :param doom: why the supervisor killed it, if it did, or had it signalled.
    :param running: the execution that it died in; 0 for none.
    :param at_work: it held a message: then it has not left by itself, whatever its exit code says,
        because a task may use any.
    :param out_of_memory: the kernel has killed for memory since the last death.
    """
    if doom is not None and doom.explains(running, ended.signal):
        return doom
    if not was_ready:
        return Doom("boot", f"{ended.text} before it was ready", charge=False)
    if ended.code == 0 and told_to_leave and not at_work:
        return Doom("exit", LEFT_AS_TOLD, charge=False)
    if ended.code in _LEFT and not at_work:
        return Doom("exit", _LEFT[ended.code], charge=False)
    if ended.signal == signal.SIGTERM and told_to_leave:
        # Whoever stops the worker has signalled its children, too: not the fault of a message.
        return Doom("shutdown", f"{ended.text} when it had been told to leave", charge=False)
    if ended.signal == signal.SIGKILL and out_of_memory:
        return Doom("crash", f"{ended.text}, probably out of memory", charge=True)
    return Doom("crash", ended.text, charge=True)


class OutOfMemoryCounter:
    """The kernel's count of processes it killed for memory in this control group (cgroups v1, v2)."""

    def __init__(self, paths: list[str] | None = None) -> None:
        self._paths = _counter_paths() if paths is None else paths
        self._seen = self._read()

    def risen(self) -> bool:
        """Whether the count has risen since this was last asked."""
        before, self._seen = self._seen, self._read()
        return self._seen > before

    def _read(self) -> int:
        for path in self._paths:
            try:
                with open(path, encoding="ascii", errors="replace") as counters:
                    lines = [line.split() for line in counters]
            except OSError:
                continue  # another version of control groups, or none
            for words in lines:
                if len(words) == 2 and words[0] == "oom_kill" and words[1].isdigit():
                    return int(words[1])
        return 0


def _counter_paths(membership: str = "/proc/self/cgroup", mount: str = "/sys/fs/cgroup") -> list[str]:
    """Where the counter may be: the group's own directory, or the root of a container's view."""
    try:
        with open(membership, encoding="utf-8", errors="replace") as groups:
            lines = [line.rstrip("\n").split(":", 2) for line in groups]
    except OSError:
        return []
    paths = []
    for line in lines:
        if len(line) != 3:
            continue
        _, controllers, group = line
        relative = group.strip("/")
        if "memory" in controllers.split(","):
            paths += [f"{mount}/memory/{relative}/memory.oom_control", f"{mount}/memory/memory.oom_control"]
        elif not controllers:
            paths += [f"{mount}/{relative}/memory.events", f"{mount}/memory.events"]
    return paths

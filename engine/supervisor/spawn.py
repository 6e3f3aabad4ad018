"""Forking a process from the supervisor and becoming something else in it.

The supervisor has one thread and no broker connection, so it stays safe to fork from. What the
new process runs is named by text and imported there: the supervisor itself never loads it.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Iterable
from typing import Any, Final, NamedTuple, NoReturn

from ..linux import Linux

_EXIT_FAILED: Final = 3
_STDERR: Final = 2


class Entries(NamedTuple):
    """What the processes run, each as ``module:function``.

    :param template: called with the `ProcessLink`.
    :param child: for workers without a template; called with link, slot index and generation.
    :param agent: likewise; called with link and channel.
    """

    template: str = "prefork.engine.template.main:main"
    child: str = "prefork.engine.template.fresh:child"
    agent: str = "prefork.engine.template.fresh:agent"


def fork_entry(entry: str, arguments: tuple[Any, ...], keep_fds: Iterable[int]) -> int:
    """Fork, and run an entry in the new process; returns its pid.

    Signals are blocked around the fork, so that none reaches the new process before its handlers
    are what they should be.

    :param keep_fds: descriptors that stay open in the new process besides 0, 1 and 2.
    :raises OSError: no process could be made (EAGAIN, ENOMEM).
    """
    supervisor_pid = os.getpid()
    blocked = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _become(entry, arguments, frozenset(keep_fds), supervisor_pid)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    own_group(pid)
    return pid


def own_group(pid: int) -> None:
    """Make a child the leader of a process group; the child does the same, whoever comes first."""
    try:
        os.setpgid(pid, pid)
    except (PermissionError, ProcessLookupError):
        # It has called exec, or is a zombie, or leads a session: too late, and no need.
        return


def _become(
    entry: str, arguments: tuple[Any, ...], keep_fds: frozenset[int], supervisor_pid: int
) -> NoReturn:
    """Runs in the new process."""
    code = _EXIT_FAILED
    try:
        os.setpgid(0, 0)
        # Until it has imported what it is to run, it cannot look after itself when the supervisor
        # dies. Whoever has something to clear up then takes this back once it can.
        Linux().die_with_parent(supervisor_pid)
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE}:
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
        # Not meant for it, though a service manager may send it to everybody: as an exception, it would
        # come out of the middle of an import.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _close_others(keep_fds)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        module, _, function = entry.partition(":")
        getattr(importlib.import_module(module), function)(*arguments)
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:  # noqa: BLE001 - the last frame of the process: reported, then it ends
        os.write(_STDERR, traceback.format_exc().encode("utf-8", "backslashreplace"))
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except (OSError, ValueError, AttributeError):
            code = code or 1  # a closed output must not keep the process
        os._exit(code)


def _close_others(keep_fds: frozenset[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd <= _STDERR or fd in keep_fds:
            continue
        try:
            os.close(fd)
        except OSError:
            continue  # the descriptor of the listing itself

"""Signals as items of the inbox: handlers only enqueue, the loop acts."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Final

_HANDLED: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGCHLD,
)


def remapped(environ: Mapping[str, str]) -> dict[int, int]:
    """Signals to be taken for others: ``REMAP_SIGTERM=SIGQUIT``, for platforms that only send TERM.

    :raises ValueError: the variable names no signal.
    """
    name = environ.get("REMAP_SIGTERM", "")
    if not name:
        return {}
    number = getattr(signal, name, None)
    if not isinstance(number, signal.Signals):
        raise ValueError(f"REMAP_SIGTERM={name!r} is no signal; SIGQUIT is meant")
    return {signal.SIGTERM: number}


class SignalInbox:
    """Catches the supervisor's signals and hands them out in order of arrival.

    :ivar fd: readable when there are some.
    """

    def __init__(self, remap: Mapping[int, int]) -> None:
        self._remap = dict(remap)
        self.fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def install(self) -> None:
        """Take the signals over. Nothing is done in the handlers, so nothing can be torn."""
        # A full pipe loses only what a thousand earlier signals already ask for.
        signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for number in _HANDLED:
            signal.signal(number, _arrived)
        # Whoever started this interpreter may have had them blocked.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    def mute(self) -> None:
        """Hear no signal any more: the exit code is decided, and the interpreter gives up its handlers.

        From then on the default action would end the process with the signal as its exit code.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)

    def drain(self) -> list[int]:
        """The signals that have arrived, SIGCHLD once at most."""
        try:
            numbers = os.read(self.fd, 4096)
        except BlockingIOError:
            return []
        arrived = [self._remap.get(number, number) for number in numbers if number != signal.SIGCHLD]
        if signal.SIGCHLD in numbers:
            arrived.append(signal.SIGCHLD)
        return arrived


def _arrived(_number: int, _frame: object) -> None:
    """The wakeup descriptor has said it already."""

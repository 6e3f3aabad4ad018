"""Signals in the processes that only do as the supervisor says."""

from __future__ import annotations

import faulthandler
import signal
import sys

_FOR_THE_SUPERVISOR = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
)


def leave_signals_to_supervisor() -> None:
    """Ignore what is meant for the supervisor: the terminal sends it to everybody."""
    for number in _FOR_THE_SUPERVISOR:
        signal.signal(number, signal.SIG_IGN)


def show_stacks_on_request() -> None:
    """Write the stacks of all threads to stderr on SIGUSR2.

    In C, so that a task that holds the GIL can be looked at as well.
    """
    if sys.__stderr__ is not None:
        faulthandler.register(signal.SIGUSR2, file=sys.__stderr__, all_threads=True)

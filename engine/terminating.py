"""The signals with which a running task may be ended on request. Standard library only."""

from __future__ import annotations

import signal
from typing import Any, Final

SOFT: Final = frozenset({signal.SIGINT, signal.SIGUSR1})
"""These raise `SoftTimeLimitExceeded` in the task; every other one is sent to its process group."""

_HARMLESS: Final = frozenset(
    {
        signal.SIGSTOP,
        signal.SIGTSTP,
        signal.SIGTTIN,
        signal.SIGTTOU,
        signal.SIGCONT,
        signal.SIGCHLD,
        signal.SIGURG,
        signal.SIGWINCH,
    }
)


def signal_of(value: Any) -> signal.Signals:
    """A signal by its name, with or without ``SIG``, or by its number; None is SIGTERM.

    :raises ValueError: there is no such signal, or it ends no process.
    """
    if value is None:
        return signal.SIGTERM
    try:
        if isinstance(value, str) and not value.isdigit():
            name = value.upper()
            number = signal.Signals[name if name.startswith("SIG") else f"SIG{name}"]
        else:
            number = signal.Signals(int(value))
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ValueError(f"no such signal: {value!r:.100}; give a name such as SIGTERM or SIGKILL") from None
    if number in _HARMLESS:
        raise ValueError(
            f"{number.name} ends no process; give SIGTERM, SIGKILL, or SIGUSR1 to raise in the task"
        )
    return number

"""Telling whoever has started the worker: the service manager, or the program that embeds it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from typing import Final

# A character takes six bytes at most, and the line must fit into an empty pipe.
_REASON_CHARACTERS_MAX: Final = 10_000


class ServiceManager:
    """sd_notify(3): READY, STOPPING, WATCHDOG. Silent when nobody asked (``NOTIFY_SOCKET``).

    The watchdog is fed from the supervisor's loop, so it bites when the loop stands still.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._interval_s = _watchdog_interval_s(environ)
        self._fed_s = 0.0
        self.unheard = 0

    def ready(self) -> None:
        """The worker serves."""
        self._say("READY=1")

    def stopping(self) -> None:
        """The worker stops."""
        self._say("STOPPING=1")

    def keep_alive(self, now_s: float) -> None:
        """The loop turns; said as often as the watchdog wants it."""
        if self._interval_s and now_s - self._fed_s >= self._interval_s:
            self._fed_s = now_s
            self._say("WATCHDOG=1")

    def _say(self, text: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as end:
                end.sendto(text.encode(), self._address)
        except OSError:
            self.unheard += 1  # the manager is away, its queue full, or we have no descriptor left


def _watchdog_interval_s(environ: Mapping[str, str]) -> float:
    """Half of what the manager allows; 0 when it does not watch this process."""
    microseconds, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or (pid and pid != str(os.getpid())):
        return 0.0
    return int(microseconds) / 2_000_000


class HostNotifier:
    """One JSON line on the descriptor that the embedding program reads: ready, or failed and why."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        if fd is not None:
            os.set_inheritable(fd, False)
            os.set_blocking(fd, False)

    def ready(self, node: str, control_path: str) -> None:
        """The worker serves."""
        self._say({"ready": True, "node": node, "pid": os.getpid(), "control": control_path})

    def failed(self, reason: str) -> None:
        """The worker will never serve. The end of a long reason is where a traceback says what it was."""
        self._say({"ready": False, "reason": reason[-_REASON_CHARACTERS_MAX:]})

    def _say(self, message: dict[str, object]) -> None:
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        try:
            data = json.dumps(message, ensure_ascii=False).encode("utf-8", "backslashreplace")
            os.write(fd, data + b"\n")
        except OSError:
            return  # nobody reads any more; its end is noticed by its pidfd

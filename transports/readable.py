"""Waits for descriptors of any number: `select.select` takes none above 1,023, and hosts have more."""

from __future__ import annotations

import select
from collections.abc import Iterable


def wait_readable(fds: Iterable[int], timeout_s: float) -> bool:
    """Sleep until one of the descriptors polls readable, or the time is over; whether one did.

    :param timeout_s: seconds; 0 or less only looks.
    """
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    return bool(poller.poll(max(0.0, timeout_s) * 1000))

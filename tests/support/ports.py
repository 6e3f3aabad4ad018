"""TCP ports that nobody else takes: not another test run, and not the kernel for a connection of its own.

Asked for any port, the kernel picks one that it gives to the next who asks as well, or to whoever connects
to somewhere, before a server listens there, or while one is restarted. So these lie below those that it
picks from, and each process claims a block of them: by a name that ends with the process, like its ports.
"""

from __future__ import annotations

import os
import random
import socket

FIRST = 10_240
BLOCK = 128
BLOCKS = 76
"""With 10,000 on top, all of them are still below those that the kernel picks: a cluster wants both."""


class _Block:
    """The ports of one process."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._claim = socket.socket(socket.AF_UNIX)
        self._first = self._claimed()
        self._next = 0

    def _claimed(self) -> int:
        for number in random.sample(range(BLOCKS), BLOCKS):
            try:
                self._claim.bind(f"\0prefork-test-ports-{number}")
            except OSError:
                continue  # another process has it
            return FIRST + number * BLOCK
        raise AssertionError("there are more test runs than blocks of ports")

    def port(self) -> int:
        for _ in range(BLOCK):
            port = self._first + self._next
            self._next = (self._next + 1) % BLOCK
            with socket.socket() as probe:
                # Connections that a server before left behind keep no other from listening there.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue  # a server of ours that still runs, or of somebody who knows nothing of this
            return port
        raise AssertionError("every port of this process is in use")


_blocks: list[_Block] = []


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, and nobody else will before this process has ended."""
    if not _blocks or _blocks[-1].pid != os.getpid():
        _blocks.append(_Block())  # the block of a fork's parent stays the parent's
    return _blocks[-1].port()

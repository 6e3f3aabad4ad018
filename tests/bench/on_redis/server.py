"""A Redis server of the run's own, on a free port of this host, that keeps nothing."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

_START_S = 20.0
_STOP_S = 20.0


class Server(NamedTuple):
    """A server that answers."""

    url: str
    client: Redis
    pid: int

    def empty(self) -> None:
        """Drop everything in it."""
        self.client.flushall()

    def version(self) -> str:
        """As it says itself."""
        return str(self.client.info("server")["redis_version"])


@contextlib.contextmanager
def server(directory: Path) -> Iterator[Server]:
    """Start one, and end it with the block.

    :raises RuntimeError: it does not answer; FileNotFoundError when there is no ``redis-server``.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [
            *("redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)),
            *("--save", "", "--appendonly", "no"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    client = Redis(port=port)
    try:
        _await(client)
        yield Server(f"redis://127.0.0.1:{port}/0", client, process.pid)
    finally:
        client.close()
        process.terminate()
        process.wait(_STOP_S)


def _await(client: Redis) -> None:
    deadline_s = time.monotonic() + _START_S
    while True:
        try:
            client.ping()
            return
        except RedisConnectionError:
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"redis-server does not answer within {_START_S:g} s") from None
            time.sleep(0.02)

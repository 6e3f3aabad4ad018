"""A RabbitMQ of the run's own, that the rounds empty between them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import amqp
import psutil

from support.rabbitmq_server import RabbitMQ

# Of all engines: what one leaves must not be read by the next.
_QUEUES = ("celery", "default", "default.DQ", "default.XQ")


class Server(NamedTuple):
    """A server that answers."""

    url: str
    pid: int
    release: str

    def empty(self) -> None:
        """Drop the queues of all engines."""
        at = urlsplit(self.url)
        with amqp.Connection(host=f"{at.hostname}:{at.port}") as connection:
            channel = connection.channel()
            for name in _QUEUES:
                channel.queue_delete(name)

    def version(self) -> str:
        """As it says itself."""
        return self.release


@contextlib.contextmanager
def server(directory: Path) -> Iterator[Server]:
    """Start one, and end it with the block.

    :raises support.rabbitmq_server.NoRabbitMQ: it is not installed, or does not start.
    """
    scratch = directory / "rabbitmq"
    scratch.mkdir()
    one = RabbitMQ(scratch)
    one.start()
    try:
        release = one.control("version").strip()
        yield Server(one.url, _of_erlang(one.pid), release)
    finally:
        one.stop()


def _of_erlang(pid: int) -> int:
    """The process that does the work, if it is one below the script that started it."""
    below = psutil.Process(pid).children(recursive=True)
    return max([psutil.Process(pid), *below], key=lambda process: process.memory_info().rss).pid

"""No engine at all: what it costs redis-py to push a message of the size of Celery's, one at a time."""

from __future__ import annotations

import os

from redis import Redis

_MESSAGE_BYTES = 800
_client = Redis.from_url(os.environ["BENCH_REDIS"])
_message = b"x" * _MESSAGE_BYTES


def send(number: int) -> None:
    """One round trip."""
    _client.lpush("bench-bare", _message)

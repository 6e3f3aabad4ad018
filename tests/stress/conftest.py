"""A site per test, and dice whose seed is shown."""

from __future__ import annotations

import os
import random
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.redis_server import RedisServer, running_redis
from support.stress_worker import Site


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One server for all tests; each has a key prefix of its own."""
    with running_redis() as server:
        yield server


@pytest.fixture(params=["filesystem", "redis"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """Broker, ledger and workers; nothing of it is alive afterwards."""
    url = None
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        url = f"{server.url}?global_keyprefix={uuid.uuid4().hex}:"
    made = Site(tmp_path, url)
    yield made
    made.close()


@pytest.fixture
def dice() -> random.Random:
    """Random numbers; STRESS_SEED repeats a run."""
    seed = int(os.environ.get("STRESS_SEED") or random.SystemRandom().randrange(2**31))
    print(f"STRESS_SEED={seed}")
    return random.Random(seed)

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What has little to do with the broker runs on the embedded one, and in a soak on the others."""
    for item in items:
        broker = getattr(item, "callspec", None) and item.callspec.params.get("site")
        if item.get_closest_marker("one_broker") and broker not in (None, "filesystem"):
            item.add_marker(pytest.mark.soak)


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

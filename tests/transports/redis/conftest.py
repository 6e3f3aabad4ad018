"""One private server for all tests of Redis that do not harm it, with a fresh database prefix for each."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.redis_server import RedisServer, make_certificates, running_redis


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[RedisServer]:
    """A server for tests that leave it as it is; keys begin with the prefix of the test."""
    with running_redis() as server:
        yield server


@pytest.fixture
def prefix() -> str:
    """A key prefix that no other test uses."""
    return f"t{uuid.uuid4().hex[:12]}:"


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A server of its own, for tests that stop, flush or configure it."""
    with running_redis() as server:
        yield server


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with ca.crt, server.crt and server.key for localhost."""
    return make_certificates(tmp_path_factory.mktemp("tls"))

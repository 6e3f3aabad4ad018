"""One private server for all tests of Redis that do not harm it, with a fresh database prefix for each."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from prefork.transports.redis import RedisTransport, open_transport
from prefork.transports.redis.keys import Keys
from prefork.transports.redis.settings import read_settings
from support.redis_links import close_links
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
def transport(shared_redis: RedisServer, prefix: str) -> Iterator[RedisTransport]:
    """A broker on the shared server."""
    transport = open_transport(shared_redis.url, {"global_keyprefix": prefix})
    yield transport
    transport.close()


@pytest.fixture
def keys(shared_redis: RedisServer, prefix: str) -> Keys:
    """The names of its keys."""
    return Keys(read_settings(shared_redis.url, {"global_keyprefix": prefix}))


@pytest.fixture
def server(shared_redis: RedisServer) -> Iterator[redis.Redis]:
    """A plain client of the shared server, to look and to spoil."""
    client = redis.Redis(host="127.0.0.1", port=shared_redis.port)
    yield client
    client.close()


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A server of its own, for tests that stop, flush or configure it."""
    with running_redis() as server:
        yield server


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with ca.crt, server.crt and server.key for localhost."""
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def links_closed_afterwards() -> Iterator[None]:
    """No link of ``support.redis_links`` outlives the test."""
    yield
    close_links()

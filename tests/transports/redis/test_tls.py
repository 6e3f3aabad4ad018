"""Links to Redis through TLS: how they are configured, and which servers are refused."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefork.transports.errors import BrokerUnavailable
from support.redis_links import link_to, refused
from support.redis_server import RedisServer, make_certificates, running_redis

pytestmark = pytest.mark.usefixtures("links_closed_afterwards")


@pytest.fixture(scope="module")
def tls_redis(certificates: Path) -> Iterator[RedisServer]:
    with running_redis(tls=certificates) as server:
        yield server


def test_tls_with_a_known_authority_works(tls_redis: RedisServer) -> None:
    link = link_to(tls_redis.url_of(2))
    assert link.call("PING") == b"PONG"
    big = b"x" * 1_000_000
    assert link.many([("SET", "big", big), ("GET", "big")])[1] == big
    assert link.call("BLPOP", "nothing", 0.2, timeout_s=2.0) is None
    with pytest.raises(BrokerUnavailable) as caught:
        link.call("BLPOP", "nothing", 5, timeout_s=0.2)
    assert caught.value.outcome_unknown
    wire = link.connection(protocol=3)
    assert not wire.can_read()
    wire.close()
    link.close()


def test_tls_options_may_come_as_celery_gives_them(tls_redis: RedisServer, certificates: Path) -> None:
    plain_url = f"rediss://localhost:{tls_redis.port}/0"
    for ssl in ({"ca_certs": str(certificates / "ca.crt")}, {"ssl_ca_certs": str(certificates / "ca.crt")}):
        link = link_to(plain_url, ssl=ssl)
        assert link.call("PING") == b"PONG"
        link.close()
    link = link_to(f"redis://localhost:{tls_redis.port}/0", ssl={"ca_certs": str(certificates / "ca.crt")})
    assert link.call("PING") == b"PONG"
    link.close()


def test_an_unknown_authority_is_refused_before_a_password_is_sent(
    tls_redis: RedisServer, tmp_path: Path
) -> None:
    other = make_certificates(tmp_path / "other")
    for query in ("", f"?ssl_ca_certs={other / 'ca.crt'}"):
        error = refused(link_to(f"rediss://:secret@localhost:{tls_redis.port}/0{query}"), "PING")
        assert type(error) is BrokerUnavailable and not error.outcome_unknown
        assert "certificate verify failed" in str(error).lower()
        assert "secret" not in str(error)


def test_a_certificate_for_another_host_is_refused(certificates: Path, tls_redis: RedisServer) -> None:
    url = f"rediss://127.0.0.1:{tls_redis.port}/0?ssl_ca_certs={certificates / 'ca.crt'}"
    assert "mismatch" in str(refused(link_to(url), "PING")).lower()
    link = link_to(url + "&ssl_check_hostname=false")
    assert link.call("PING") == b"PONG"
    link.close()


def test_tls_without_verification_is_possible_and_logged(
    tls_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        link = link_to(f"rediss://:pw@127.0.0.1:{tls_redis.port}/0?ssl_cert_reqs=none")
    assert "without verifying the certificate" in caplog.text
    assert "pw@" not in caplog.text
    # Authentication fails because the server knows no password, which shows that TLS was set up.
    assert "AUTH" in str(refused(link, "PING"))


def test_a_plain_server_behind_a_tls_address_is_unavailable(shared_redis: RedisServer) -> None:
    error = refused(link_to(f"rediss://localhost:{shared_redis.port}/0", socket_connect_timeout=0.5), "PING")
    assert isinstance(error, BrokerUnavailable) and not error.outcome_unknown


def test_files_that_are_missing_are_named(tls_redis: RedisServer) -> None:
    url = f"rediss://localhost:{tls_redis.port}/0?ssl_ca_certs=/nowhere/ca.crt"
    error = refused(link_to(url), "PING")
    assert isinstance(error, BrokerUnavailable) and not error.outcome_unknown
    assert "No such file" in str(error)

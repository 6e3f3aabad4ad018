"""Which servers TLS takes for the right one: chain, name and dates are verified, and versions agreed on."""

from __future__ import annotations

import shutil
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prefork.transports.errors import BrokerUnavailable
from prefork.transports.redis.link import Link
from prefork.transports.redis.settings import read_settings
from support.ports import free_port
from support.redis_server import RedisServer, make_certificates
from support.tls_front import TlsFront

PASSWORD = "c4n4ry-s3cr3t"
Front = Callable[..., int]


@pytest.fixture
def front(shared_redis: RedisServer) -> Iterator[Front]:
    """Puts TLS in front of a server; returns the port."""
    opened: list[TlsFront] = []

    def open_front(certificates: Path, **more: Any) -> int:
        port = free_port()
        opened.append(TlsFront(port, shared_redis.port, certificates, **more))
        return port

    yield open_front
    for one in opened:
        one.close()


def answer(port: int, authority: Path, *, host: str = "localhost", login: str = "", **options: Any) -> Any:
    """What the server behind a front says to PING."""
    url = f"rediss://{login}{host}:{port}/0"
    link = Link(read_settings(url, {"ssl_ca_certs": str(authority / "ca.crt"), **options}))
    try:
        return link.call("PING")
    finally:
        link.close()


def refusal(port: int, authority: Path, **given: Any) -> str:
    """Why the client, which would send a password, does not take the server, or the server not it."""
    with pytest.raises(BrokerUnavailable) as refused:
        answer(port, authority, login=f":{PASSWORD}@", **given)
    assert not refused.value.outcome_unknown
    assert PASSWORD not in str(refused.value)
    return str(refused.value).lower()


@pytest.mark.parametrize(
    ("valid", "said"),
    [
        (("20200101000000Z", "20200201000000Z"), "expired"),
        (("20900101000000Z", "20900201000000Z"), "not yet valid"),
    ],
)
def test_a_certificate_out_of_its_time_is_refused(
    front: Front, tmp_path: Path, valid: tuple[str, str], said: str
) -> None:
    made = make_certificates(tmp_path / "own", valid=valid)
    assert said in refusal(front(made), made)


def test_a_certificate_that_vouches_for_itself_is_refused(
    front: Front, tmp_path: Path, certificates: Path
) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(certificates / "ca.crt", alone / "server.crt")
    shutil.copy(certificates / "ca.key", alone / "server.key")
    other = make_certificates(tmp_path / "other")
    assert "self-signed" in refusal(front(alone), other).replace("self signed", "self-signed")


def test_a_certificate_may_bear_an_address_and_must_bear_the_right_name(front: Front, tmp_path: Path) -> None:
    made = make_certificates(tmp_path / "own", name="127.0.0.1")
    port = front(made)
    assert answer(port, made, host="127.0.0.1") == b"PONG"
    assert "mismatch" in refusal(port, made, host="localhost")


def test_a_name_in_the_subject_alone_is_not_enough(front: Front, tmp_path: Path) -> None:
    made = make_certificates(tmp_path / "own", name="cache.example")
    assert "mismatch" in refusal(front(made), made)


def test_a_server_that_asks_for_a_certificate_is_given_ours(
    front: Front, tmp_path: Path, certificates: Path
) -> None:
    client = make_certificates(tmp_path / "client")
    port = front(certificates, clients=client / "ca.crt")
    ours = {"ssl_certfile": str(client / "server.crt"), "ssl_keyfile": str(client / "server.key")}
    assert answer(port, certificates, **ours) == b"PONG"
    refusal(port, certificates)


def test_a_server_that_speaks_only_what_is_too_old_for_us_is_refused(
    front: Front, certificates: Path
) -> None:
    port = front(certificates, newest=ssl.TLSVersion.TLSv1_2)
    assert answer(port, certificates) == b"PONG"
    assert "version" in refusal(port, certificates, ssl_min_version="TLSv1_3")

"""amqps: which servers are taken for the right one, and what is said when one is not."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prefork.transports.amqp import AmqpTransport, InvalidOption
from prefork.transports.base import Outcome, Outgoing
from prefork.transports.errors import BrokerUnavailable
from support.ports import free_port
from support.rabbitmq_server import RabbitMQ
from support.redis_server import make_certificates
from support.tls_front import TlsFront

from .conftest import Open

Front = Callable[..., int]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, and a certificate for localhost."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def front(rabbitmq: RabbitMQ) -> Iterator[Front]:
    """Puts TLS in front of the server; returns the port."""
    opened: list[TlsFront] = []

    def open_front(certificates: Path, **more: Any) -> int:
        port = free_port()
        opened.append(TlsFront(port, rabbitmq.port, certificates, **more))
        return port

    yield open_front
    for one in opened:
        one.close()


def connect(
    open_amqp: Open, port: int, authority: Path | None, *, host: str = "localhost", **tls: Any
) -> AmqpTransport:
    if authority is not None:
        tls["ca_certs"] = str(authority / "ca.crt")
    transport = open_amqp(f"amqps://guest:guest@{host}:{port}//", ssl=tls, socket_connect_timeout=2.0)
    transport.heartbeat("w", 10.0)
    return transport


def refusal(open_amqp: Open, port: int, authority: Path | None, **given: Any) -> str:
    with pytest.raises(BrokerUnavailable) as refused:
        connect(open_amqp, port, authority, **given)
    assert not refused.value.outcome_unknown
    return str(refused.value).lower()


def test_messages_of_every_size_go_through_tls(
    open_amqp: Open, front: Front, certificates: Path, queue: str
) -> None:
    transport = connect(open_amqp, front(certificates), certificates)
    documents = [bytes(size) for size in (1, 20_000, 1_000_000)]
    transport.send([Outgoing(queue, document) for document in documents])
    consumer = transport.consumer([queue], f"{queue}.o", "w")
    held = consumer.reserve(10, timeout_s=5.0)
    held += consumer.reserve(10, timeout_s=1.0) if len(held) < 3 else []
    assert [one.document for one in held] == documents
    assert all(consumer.settle([Outcome(one.tag) for one in held]))
    consumer.flush()
    assert transport.lock(queue, "mine", 10.0) is None


def test_a_server_of_an_authority_that_nobody_trusts_is_refused(
    open_amqp: Open, front: Front, certificates: Path, tmp_path: Path
) -> None:
    port = front(certificates)
    assert "certificate verify failed" in refusal(open_amqp, port, make_certificates(tmp_path / "other"))
    assert "certificate verify failed" in refusal(open_amqp, port, None)


def test_a_server_of_another_name_is_refused(open_amqp: Open, front: Front, certificates: Path) -> None:
    port = front(certificates)
    said = refusal(open_amqp, port, certificates, host="127.0.0.1")
    assert "mismatch" in said and f"127.0.0.1:{port}" in said
    connect(open_amqp, port, certificates, host="127.0.0.1", server_hostname="localhost")


def test_a_server_that_asks_for_a_certificate_is_given_ours(
    open_amqp: Open, front: Front, certificates: Path, tmp_path: Path
) -> None:
    client = make_certificates(tmp_path / "client")
    port = front(certificates, clients=client / "ca.crt")
    ours = {"certfile": str(client / "server.crt"), "keyfile": str(client / "server.key")}
    connect(open_amqp, port, certificates, **ours)
    refusal(open_amqp, port, certificates)


def test_nothing_is_verified_only_where_somebody_says_so(
    open_amqp: Open, front: Front, certificates: Path
) -> None:
    connect(open_amqp, front(certificates), None, host="127.0.0.1", cert_reqs="none")


def test_a_server_without_tls_is_refused(open_amqp: Open, rabbitmq: RabbitMQ) -> None:
    assert "rabbitmq cannot be reached" in refusal(open_amqp, rabbitmq.port, None)


def test_old_versions_of_tls_are_not_spoken_and_ciphers_can_be_chosen(
    open_amqp: Open, front: Front, certificates: Path
) -> None:
    port = front(certificates, newest=ssl.TLSVersion.TLSv1_2)
    connect(open_amqp, port, certificates, ciphers="ECDHE-ECDSA-AES256-GCM-SHA384", ssl_version=5)
    refusal(open_amqp, port, certificates, ciphers="ECDHE-RSA-AES256-GCM-SHA384")
    with pytest.raises(InvalidOption, match="cannot be used"):
        connect(open_amqp, port, certificates, ciphers="no such")

"""What a URL and options say about a RabbitMQ broker."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from prefork.transports.amqp import InvalidOption, open_transport, read_settings
from prefork.transports.base import QueueDeclaration
from prefork.transports.url import InvalidUrl


def test_what_is_not_said_is_as_everywhere() -> None:
    settings = read_settings("amqp://", {})
    (endpoint,) = settings.endpoints
    assert (endpoint.host, endpoint.port, endpoint.user, endpoint.virtual_host) == (
        "localhost",
        5672,
        "guest",
        "/",
    )
    assert settings.confirms is True and settings.tls is None and settings.publish_timeout_s == 5.0
    assert settings.ladder_type == "quorum"


@pytest.mark.parametrize(
    ("url", "virtual_host"),
    [
        ("amqp://h", "/"),
        ("amqp://h/", "/"),
        ("amqp://h//", "/"),
        ("amqp://h/v", "v"),
        ("amqp://h/%2Fa", "/a"),
    ],
)
def test_the_path_names_the_virtual_host(url: str, virtual_host: str) -> None:
    assert read_settings(url, {}).endpoints[0].virtual_host == virtual_host


def test_a_failover_list_keeps_its_order_and_its_secrets() -> None:
    settings = read_settings("amqp://u:hush@a:1/v;amqp://u:hush@b:2/v", {})
    assert [(one.host, one.port, one.password) for one in settings.endpoints] == [
        ("a", 1, "hush"),
        ("b", 2, "hush"),
    ]
    assert "hush" not in repr(settings) + settings.shown


def test_the_query_wins_over_the_options() -> None:
    settings = read_settings(
        "amqp://h?confirm_publish=false&dead_letter_queue=graves&publish_deadline=2", {"publish_deadline": 9}
    )
    assert (settings.confirms, settings.dead_queue, settings.publish_timeout_s) == (False, "graves", 2.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("publish_deadline", "soon"),
        ("publish_deadline", 0),
        ("publish_deadline", "nan"),
        ("confirm_publish", "perhaps"),
        ("native_delayed_delivery_queue_type", "stream"),
        ("missing_queue_type", "odd"),
        ("ssl", {"cert_reqs": "sometimes"}),
        ("ssl", {"cert_reqs": ssl.CERT_OPTIONAL}),
        ("ssl", {"colour": "blue"}),
        ("ssl", {"ca_certs": "no-such-file.pem"}),
    ],
)
def test_an_option_with_no_meaning_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidOption) as raised:
        read_settings("amqp://h", {name: value})
    assert name in str(raised.value)


def test_a_url_of_nothing_is_refused() -> None:
    with pytest.raises(InvalidUrl):
        open_transport("amqp://h:port", {})


def test_tls_verifies_chain_and_host_name_unless_somebody_says_otherwise() -> None:
    for settings in (read_settings("amqps://h", {}), read_settings("amqp://h", {"ssl": True})):
        assert settings.tls is not None
        assert (settings.tls.verify_mode, settings.tls.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert read_settings("amqps://h", {}).endpoints[0].port == 5671
    blind = read_settings("amqps://h", {"ssl": {"ssl_cert_reqs": "none"}}).tls
    assert blind is not None and blind.verify_mode == ssl.CERT_NONE
    assert read_settings("amqps://h?ssl_cert_reqs=CERT_NONE", {}).tls.verify_mode == ssl.CERT_NONE  # type: ignore[union-attr]


def test_a_certificate_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "own.pem"
    broken.write_text("no certificate")
    with pytest.raises(InvalidOption, match="own.pem"):
        read_settings("amqps://h", {"ssl": {"certfile": str(broken)}})


def test_queues_that_nobody_describes_are_declared_as_the_settings_say() -> None:
    plain = read_settings("amqp://h", {}).declaration("q")
    assert (plain.exchange, plain.exchange_type, plain.routing_key, plain.arguments) == (
        "q",
        "direct",
        "q",
        {},
    )
    options = {"queue_max_priority": 9, "missing_exchange_type": "topic"}
    described = read_settings("amqp://h", options).declaration("q")
    assert (described.exchange_type, described.arguments) == ("topic", {"x-max-priority": 9})
    quorum = read_settings("amqp://h", {"queue_max_priority": 9, "missing_queue_type": "quorum"}).declaration(
        "q"
    )
    assert quorum.arguments == {"x-queue-type": "quorum"}


def test_what_is_said_of_one_queue_wins_over_what_is_said_of_all() -> None:
    declarations = {
        "a": QueueDeclaration("a", arguments={"x-max-priority": 3}),
        "b": QueueDeclaration("b"),
        "c": QueueDeclaration("c"),
    }
    options = {"declarations": declarations, "queue_max_priority": 9, "quorum_queues": ("c",)}
    settings = read_settings("amqp://h", options)
    assert [dict(settings.declaration(name).arguments) for name in "abc"] == [
        {"x-max-priority": 3},
        {"x-max-priority": 9},
        {"x-queue-type": "quorum"},
    ]

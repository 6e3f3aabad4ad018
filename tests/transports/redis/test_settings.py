"""Settings of a Redis broker: addresses, options, what is refused, and what is never shown."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.transports.redis.address import Endpoint, parse_address
from prefork.transports.redis.option_values import InvalidOption
from prefork.transports.redis.settings import RedisSettings, read_settings
from prefork.transports.redis.tls_settings import CERT_NONE, CERT_OPTIONAL, CERT_REQUIRED
from prefork.transports.url import InvalidUrl


@pytest.mark.parametrize(
    ("url", "endpoints", "db"),
    [
        ("redis://", [Endpoint("localhost", 6379)], 0),
        ("redis://host", [Endpoint("host", 6379)], 0),
        ("redis://host:1/7", [Endpoint("host", 1)], 7),
        ("redis://host/?db=4", [Endpoint("host", 6379)], 4),
        ("redis://u:p%40@[::1]:9/0", [Endpoint("::1", 9, user="u", password="p@")], 0),
        ("redis://:word@host", [Endpoint("host", 6379, password="word")], 0),
        ("rediss://host/2", [Endpoint("host", 6379)], 2),
        ("redis+socket:///run/redis.sock?virtual_host=3", [Endpoint(path="/run/redis.sock")], 3),
        ("redis+socket:///run/redis.sock?virtual_host=/3", [Endpoint(path="/run/redis.sock")], 3),
        ("redis+socket://u:w@/run/r.sock", [Endpoint(path="/run/r.sock", user="u", password="w")], 0),
        ("redis://a/1;redis://b:2/1", [Endpoint("a", 6379), Endpoint("b", 2)], 1),
        ("sentinel://a/5;sentinel://b", [Endpoint("a", 26379), Endpoint("b", 26379)], 5),
    ],
)
def test_addresses(url: str, endpoints: list[Endpoint], db: int) -> None:
    address = parse_address(url)
    assert list(address.endpoints) == endpoints
    assert address.db == db


@pytest.mark.parametrize(
    "url", ["redis://host/zero", "redis://host/-1", "redis+socket://", "http://host", "redis://host/1/2"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidUrl):
        parse_address(url)


def test_places_are_shown_without_user_and_password() -> None:
    assert str(Endpoint("::1", 9, user="u", password="p")) == "[::1]:9"
    assert str(Endpoint(path="/run/x")) == "/run/x"


def test_defaults_are_kombus_except_that_every_wait_ends() -> None:
    settings = read_settings("redis://host/3")
    assert settings.priority_steps == (0, 3, 6, 9)
    assert settings.sep == "\x06\x16"
    assert settings.fanout_prefix == "/3."
    assert settings.visibility_timeout_s == 3600
    assert settings.unacked_restore_limit is None
    assert settings.tls is None and settings.sentinel is None
    assert 0 < settings.socket_timeout_s <= 5
    assert 0 < settings.connect_timeout_s <= 5
    assert settings.keepalive


def test_options_have_kombus_names() -> None:
    settings = read_settings(
        "redis://host/0",
        {
            "global_keyprefix": "app:",
            "sep": "|",
            "priority_steps": [0, 5],
            "socket_timeout": 7,
            "socket_connect_timeout": 2,
            "socket_keepalive": False,
            "socket_keepalive_options": {4: 60},
            "visibility_timeout": 60,
            "unacked_key": "u",
            "unacked_index_key": "ui",
            "unacked_mutex_key": "um",
            "unacked_mutex_expire": 30,
            "unacked_restore_limit": 5,
            "unacked_restore_interval": 3,
            "fanout_prefix": "x{db}.",
            "fanout_patterns": False,
            "max_connections": 3,
            "deadletter_queue": "lost",
            "client_name": "shop",
            "ack_emulation": True,
            "polling_interval": 1.0,
            "health_check_interval": 9,
            "something_else": object(),
        },
    )
    assert settings.global_keyprefix == "app:"
    assert settings.sep == "|"
    assert settings.priority_steps == (0, 5)
    assert (settings.socket_timeout_s, settings.connect_timeout_s) == (7, 2)
    assert (settings.keepalive, settings.keepalive_options) == (False, ((4, 60),))
    assert settings.visibility_timeout_s == 60
    assert (settings.unacked_key, settings.unacked_index_key, settings.unacked_mutex_key) == ("u", "ui", "um")
    assert settings.unacked_mutex_expire_s == 30
    assert (settings.unacked_restore_limit, settings.unacked_restore_interval_s) == (5, 3)
    assert (settings.fanout_prefix, settings.fanout_patterns) == ("x0.", False)
    assert settings.max_connections == 3
    assert (settings.deadletter_queue, settings.client_name) == ("lost", "shop")


@pytest.mark.parametrize(("given", "prefix"), [(True, "/0."), (False, ""), (None, "/0."), ("my.", "my.")])
def test_the_prefix_of_channels(given: Any, prefix: str) -> None:
    assert read_settings("redis://h", {"fanout_prefix": given}).fanout_prefix == prefix


def test_options_may_stand_in_the_query_as_text_and_win_there() -> None:
    settings = read_settings(
        "redis://h/0?socket_timeout=1.5&fanout_patterns=no&priority_steps=0,2,4&max_connections=2",
        {"socket_timeout": 9, "max_connections": 99},
    )
    assert settings.socket_timeout_s == 1.5
    assert settings.fanout_patterns is False
    assert settings.priority_steps == (0, 2, 4)
    assert settings.max_connections == 2


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("socket_timeout", 0),
        ("socket_timeout", -1),
        ("socket_timeout", "soon"),
        ("socket_timeout", float("nan")),
        ("socket_timeout", float("inf")),
        ("socket_timeout", True),
        ("socket_keepalive", "perhaps"),
        ("socket_keepalive_options", [1]),
        ("socket_keepalive_options", {"x": 1}),
        ("max_connections", 0),
        ("max_connections", 1.5),
        ("priority_steps", []),
        ("priority_steps", [3, 6]),
        ("priority_steps", [0, 6, 3]),
        ("priority_steps", [0, 0]),
        ("priority_steps", 3),
        ("priority_steps", ["x"]),
        ("global_keyprefix", 7),
        ("client_name", "two words"),
        ("unacked_restore_limit", 0),
        ("visibility_timeout", 0),
        ("credential_provider", object()),
        ("credential_provider", "no.such:thing"),
        ("username", 5),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_the_name_of_its_option(option: str, value: Any) -> None:
    with pytest.raises(InvalidOption, match=option) as caught:
        read_settings("redis://h", {option: value})
    assert caught.value.name == option
    assert caught.value.why


def test_a_secret_value_is_not_shown_when_it_is_refused() -> None:
    with pytest.raises(InvalidOption) as caught:
        read_settings("redis://h", {"password": ["hunter2"]})
    assert "hunter2" not in str(caught.value)


def test_an_interval_of_nothing_means_the_default_as_in_kombu() -> None:
    assert read_settings("redis://h", {"unacked_restore_interval": 0}).unacked_restore_interval_s == 10
    assert read_settings("redis://h", {"unacked_restore_interval": -1}).unacked_restore_interval_s == 10
    assert read_settings("redis://h").unacked_restore_throttle == 10
    assert read_settings("redis://h", {"unacked_restore_throttle": 0}).unacked_restore_throttle == 1


def test_bytes_count_as_text() -> None:
    assert read_settings("redis://h", {"global_keyprefix": b"app:"}).global_keyprefix == "app:"


# -- TLS ---------------------------------------------------------------------------------------


def test_tls_verifies_chain_and_host_unless_told_otherwise() -> None:
    tls = read_settings("rediss://h").tls
    assert tls is not None
    assert (tls.cert_reqs, tls.check_hostname) == (CERT_REQUIRED, True)
    assert int(ssl.CERT_REQUIRED) == CERT_REQUIRED and int(ssl.CERT_OPTIONAL) == CERT_OPTIONAL


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("none", CERT_NONE),
        ("CERT_NONE", CERT_NONE),
        (ssl.CERT_NONE, CERT_NONE),
        ("optional", CERT_OPTIONAL),
        ("CERT_REQUIRED", CERT_REQUIRED),
        (ssl.CERT_REQUIRED, CERT_REQUIRED),
    ],
)
def test_the_requirement_may_be_written_in_every_way_of_celerys(given: Any, expected: int) -> None:
    for options in (
        {"ssl_cert_reqs": given},
        {"ssl": {"ssl_cert_reqs": given}},
        {"ssl": {"cert_reqs": given}},
    ):
        tls = read_settings("rediss://h", options).tls
        assert tls is not None
        assert tls.cert_reqs == expected
        assert tls.check_hostname == (expected != CERT_NONE)


def test_tls_by_option_alone() -> None:
    assert read_settings("redis://h", {"ssl": True}).tls is not None
    assert read_settings("redis://h", {"ssl": False}).tls is None
    assert read_settings("redis://h", {"ssl": {}}).tls is None


def test_every_file_and_limit_of_tls_has_an_option() -> None:
    tls = read_settings(
        "rediss://h?ssl_ca_certs=/ca&ssl_certfile=/c&ssl_keyfile=/k&ssl_min_version=TLSv1_2",
        {
            "ssl": {
                "ca_certs": "/loses",
                "ciphers": "HIGH",
                "ca_path": "/p",
                "ca_data": "d",
                "password": "secret",
            }
        },
    ).tls
    assert tls is not None
    assert (tls.ca_certs, tls.ca_path, tls.ca_data, tls.certfile, tls.keyfile) == (
        "/ca",
        "/p",
        "d",
        "/c",
        "/k",
    )
    assert (tls.ciphers, tls.min_version, tls.password) == ("HIGH", "TLSv1_2", "secret")
    assert "secret" not in repr(tls)
    assert read_settings("rediss://h", {"ssl_min_version": ssl.TLSVersion.TLSv1_3}).tls is not None


@pytest.mark.parametrize(
    ("option", "value"), [("ssl_cert_reqs", "perhaps"), ("ssl_cert_reqs", 9), ("ssl_min_version", "SSLv3")]
)
def test_a_tls_option_that_cannot_be_is_refused(option: str, value: Any) -> None:
    with pytest.raises(InvalidOption, match=option):
        read_settings("rediss://h", {option: value})


# -- sentinels ---------------------------------------------------------------------------------


def test_sentinels_have_their_own_credentials_and_tls() -> None:
    settings = read_settings(
        "sentinel://:main-secret@a;sentinel://b",
        {
            "master_name": "main",
            "min_other_sentinels": 1,
            "sentinel_kwargs": {
                "username": "s",
                "password": "s-secret",
                "ssl": True,
                "ssl_cert_reqs": "none",
            },
        },
    )
    assert settings.password == "main-secret"
    sentinel = settings.sentinel
    assert sentinel is not None
    assert (sentinel.service, sentinel.min_others) == ("main", 1)
    assert (sentinel.user, sentinel.password) == ("s", "s-secret")
    assert sentinel.tls is not None and sentinel.tls.cert_reqs == CERT_NONE
    assert settings.tls is None
    assert "secret" not in repr(settings)


def test_sentinels_without_a_service_are_refused() -> None:
    with pytest.raises(InvalidOption, match="master_name"):
        read_settings("sentinel://a")


# -- what is not shown -------------------------------------------------------------------------


words = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_characters="*"), min_size=8)


@given(words)
def test_a_password_is_nowhere_to_be_seen(word: str) -> None:
    shown = {repr(described(secret)) + str(described(secret).endpoints) for secret in (word, "another")}
    assert len(shown) == 1


def described(word: str) -> RedisSettings:
    return RedisSettings(
        shown="redis://host",
        endpoints=(Endpoint("host", 1, user="u", password=word),),
        password=word,
        options={"password": word},
    )


def test_an_address_is_shown_without_its_password() -> None:
    settings = read_settings("redis://u:secret@h/0;redis://u:other@i/0")
    assert settings.shown == "redis://u:**@h/0;redis://u:**@i/0"
    assert "secret" not in repr(settings) and "other" not in repr(settings)
    assert (settings.user, settings.password) == ("u", "secret")


def test_the_same_database_is_recognised_whatever_the_options() -> None:
    one = read_settings("redis://a:1/2", {"max_connections": 3})
    same = read_settings("redis://user:word@a:1/2")
    assert one.server == same.server
    for url in ("redis://a:1/3", "redis://b:1/2", "redis://a:2/2"):
        assert read_settings(url).server != one.server


class Provider:
    """A credential provider that is named by its class."""

    def get_credentials(self) -> tuple[str]:
        return ("word",)


def test_a_credential_provider_may_be_an_object_or_a_class() -> None:
    for one in (Provider, Provider()):
        settings = read_settings("redis://h", {"credential_provider": one})
        assert settings.credential_provider.get_credentials() == ("word",)

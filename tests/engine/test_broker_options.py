"""From the configuration to the options of brokers and result stores."""

from __future__ import annotations

from typing import Any

import pytest

from prefork.engine import App
from prefork.engine.boot import BootSpec
from prefork.engine.broker_options import (
    broker_options,
    consume_url,
    publish_url,
    refuse_split_worker,
    result_options,
)
from prefork.engine.config import SETTINGS
from prefork.engine.exceptions import ImproperlyConfigured
from prefork.engine.loaded_app import worker_options


def config_of(**settings: Any) -> Any:
    app = App("options", set_as_current=False)
    app.conf.update(settings)
    return app.conf.resolve()


def test_the_broker_is_opened_with_the_timeouts_of_the_configuration() -> None:
    options = broker_options(config_of(broker_connection_timeout=2.5, broker_publish_timeout=7))
    assert options["socket_connect_timeout"] == 2.5
    assert options["publish_deadline"] == 7
    assert options["max_connections"] == 10
    assert "ssl" not in options


@pytest.mark.parametrize("limit", [None, 0])
def test_without_a_pool_no_connection_is_kept(limit: int | None) -> None:
    options = broker_options(config_of(broker_pool_limit=limit))
    assert options["keep_connections"] is False
    assert "max_connections" not in options


def test_tls_of_broker_and_of_result_store_are_two_settings() -> None:
    config = config_of(broker_use_ssl={"ca_certs": "a"}, redis_backend_use_ssl={"ssl_ca_certs": "b"})
    assert broker_options(config)["ssl"] == {"ca_certs": "a"}
    assert result_options(config)["ssl"] == {"ssl_ca_certs": "b"}


def test_what_a_result_store_is_told_is_not_said_to_have_no_effect() -> None:
    told = result_options(config_of(result_backend="db+sqlite:///results.db"))
    settings = [SETTINGS[name] for name in told if name in SETTINGS]
    assert len(settings) > 10
    assert [setting for setting in settings if not setting.has_effect] == []


def test_transport_options_win_over_single_settings() -> None:
    config = config_of(
        broker_connection_timeout=2,
        broker_transport_options={"socket_connect_timeout": 9, "visibility_timeout": 60},
        redis_max_connections=3,
        result_backend_transport_options={"max_connections": 4, "global_keyprefix": "p:"},
    )
    assert broker_options(config)["socket_connect_timeout"] == 9
    assert broker_options(config)["visibility_timeout"] == 60
    assert result_options(config)["max_connections"] == 4
    assert result_options(config)["global_keyprefix"] == "p:"


def test_settings_of_the_redis_result_store_become_its_options() -> None:
    provider = object()
    options = result_options(
        config_of(
            redis_socket_timeout=9,
            redis_socket_connect_timeout=2,
            redis_socket_keepalive=False,
            redis_max_connections=5,
            redis_client_name="shop",
            redis_backend_credential_provider=provider,
            result_expires=60,
        )
    )
    assert options["socket_timeout"] == 9
    assert options["socket_connect_timeout"] == 2
    assert options["socket_keepalive"] is False
    assert options["max_connections"] == 5
    assert options["client_name"] == "shop"
    assert options["credential_provider"] is provider
    assert options["result_expires"] == 60


def test_what_is_not_set_is_not_passed_on() -> None:
    options = result_options(config_of())
    assert "ssl" not in options
    assert "max_connections" not in options
    assert "credential_provider" not in options
    assert options["socket_timeout"] == 5.0


def test_addresses_for_reading_and_writing_fall_back_on_the_one_address() -> None:
    config = config_of(broker_url="memory://a")
    assert (consume_url(config), publish_url(config)) == ("memory://a", "memory://a")
    config = config_of(broker_url="memory://a", broker_read_url="memory://b", broker_write_url="memory://c")
    assert (consume_url(config), publish_url(config)) == ("memory://b", "memory://c")


def test_two_equal_addresses_suit_a_worker() -> None:
    config = config_of(broker_url="memory://a", broker_read_url="memory://b", broker_write_url="memory://b")
    refuse_split_worker(config)
    assert consume_url(config) == publish_url(config) == "memory://b"


@pytest.mark.parametrize("key", ["broker_read_url", "broker_write_url"])
def test_a_worker_that_would_read_here_and_publish_there_is_refused(key: str) -> None:
    app = App("options", set_as_current=False)
    app.conf.update({"broker_url": "redis://u:word@one/0", key: "redis://u:secret@two/0"})
    with pytest.raises(
        ImproperlyConfigured, match="broker_write_url for programs that only publish"
    ) as caught:
        worker_options(BootSpec(app="options"), app, app.conf.resolve())
    assert "word" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "two" in str(caught.value)

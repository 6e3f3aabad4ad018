"""The broker and the connection to it."""

from __future__ import annotations

from typing import Any

from ..kinds import (
    BOOLEAN,
    COUNT,
    DURATION,
    FLAG_OR_MAP,
    MAP,
    OBJECT,
    SECONDS,
    TEXT,
    URLS,
    choice,
    integer,
    number,
    optional,
    zero_is_none,
)
from ..reasons import NETWORK_BROKERS, PIECEWISE
from ..setting import section, setting


@section
class BrokerSettings:
    """The broker and the connection to it."""

    broker_url: str = setting(
        URLS,
        "filesystem://",
        'Address of the broker, or several for failover (a list, or separated by ";"); filesystem:// is '
        "the embedded broker in the state directory of the user.",
        celery=None,
        old="BROKER_URL",
    )
    broker_read_url: str | None = setting(
        optional(URLS),
        None,
        "Separate URL for consuming. Env CELERY_BROKER_READ_URL.",
        old="BROKER_READ_URL",
        no_effect=NETWORK_BROKERS,
    )
    broker_write_url: str | None = setting(
        optional(URLS),
        None,
        "Separate URL for publishing. Env CELERY_BROKER_WRITE_URL.",
        old="BROKER_WRITE_URL",
        no_effect=NETWORK_BROKERS,
    )
    broker_transport: str | None = setting(
        optional(TEXT),
        None,
        "Transport alias when the URL does not say.",
        old="BROKER_TRANSPORT",
        no_effect=PIECEWISE,
    )
    broker_transport_options: dict[str, Any] = setting(
        MAP,
        {},
        "Options of the transport, free-form.",
        old="BROKER_TRANSPORT_OPTIONS",
    )
    broker_connection_timeout: float = setting(
        DURATION,
        4.0,
        "Seconds before giving up a connect attempt.",
        unit="s",
        old="BROKER_CONNECTION_TIMEOUT",
        no_effect=NETWORK_BROKERS,
    )
    broker_connection_retry: bool = setting(
        BOOLEAN,
        True,
        "Reconnect automatically after a lost connection (and, unless overridden, at start-up).",
        old="BROKER_CONNECTION_RETRY",
    )
    broker_connection_retry_on_startup: bool = setting(
        BOOLEAN,
        True,
        "Keep trying to reach the broker at start, too.",
        celery=None,
        old="BROKER_CONNECTION_RETRY_ON_STARTUP",
    )
    broker_connection_max_retries: int | None = setting(
        zero_is_none(COUNT),
        100,
        "Attempts before giving up; 0/null = forever.",
        old="BROKER_CONNECTION_MAX_RETRIES",
        no_effect=NETWORK_BROKERS,
    )
    broker_channel_error_retry: bool = setting(
        BOOLEAN,
        False,
        "Also restart the consumer loop on channel-level errors.",
        old="BROKER_CHANNEL_ERROR_RETRY",
        no_effect=NETWORK_BROKERS,
    )
    broker_failover_strategy: Any = setting(
        OBJECT,
        None,
        "Round-robin, shuffle or a callable choosing the next URL.",
        old="BROKER_FAILOVER_STRATEGY",
        no_effect=NETWORK_BROKERS,
    )
    broker_heartbeat: float | None = setting(
        zero_is_none(SECONDS),
        120.0,
        "AMQP heartbeat seconds (0/null off).",
        unit="s",
        old="BROKER_HEARTBEAT",
        no_effect=NETWORK_BROKERS,
    )
    broker_heartbeat_checkrate: float = setting(
        number(0),
        3.0,
        "Checks per heartbeat interval.",
        old="BROKER_HEARTBEAT_CHECKRATE",
        no_effect=NETWORK_BROKERS,
    )
    broker_login_method: str | None = setting(
        optional(TEXT),
        None,
        "SASL mechanism (AMQPLAIN, PLAIN, EXTERNAL).",
        old="BROKER_LOGIN_METHOD",
        no_effect=NETWORK_BROKERS,
    )
    broker_native_delayed_delivery_queue_type: str = setting(
        choice("quorum", "classic"),
        "quorum",
        "Queue type of the RabbitMQ delay ladder: quorum or classic.",
        old="BROKER_NATIVE_DELAYED_DELIVERY_QUEUE_TYPE",
        no_effect=NETWORK_BROKERS,
    )
    broker_pool_limit: int | None = setting(
        zero_is_none(COUNT),
        10,
        "Maximum pooled producer/consumer connections; 0 or null disables the pool.",
        old="BROKER_POOL_LIMIT",
        no_effect=NETWORK_BROKERS,
    )
    broker_pool_acquire_timeout: float | None = setting(
        optional(SECONDS),
        None,
        "Seconds to wait for a free pooled connection; null = wait forever.",
        unit="s",
        old="BROKER_POOL_ACQUIRE_TIMEOUT",
        no_effect=NETWORK_BROKERS,
    )
    broker_use_ssl: bool | dict[str, Any] = setting(
        FLAG_OR_MAP,
        False,
        "True or a map of ssl options (ssl_cert_reqs, ca_certs, …).",
        old="BROKER_USE_SSL",
        no_effect=NETWORK_BROKERS,
    )
    broker_host: str | None = setting(
        optional(TEXT),
        None,
        "Legacy piecewise broker address *(deprecated style (undocumented))*.",
        old="BROKER_HOST",
        no_effect=PIECEWISE,
    )
    broker_port: int | None = setting(
        optional(integer(1, 65535)),
        None,
        "Legacy piecewise broker port *(deprecated style (undocumented))*.",
        old="BROKER_PORT",
        no_effect=PIECEWISE,
    )
    broker_user: str | None = setting(
        optional(TEXT),
        None,
        "Legacy piecewise broker user *(deprecated style (undocumented))*.",
        old="BROKER_USER",
        no_effect=PIECEWISE,
    )
    broker_password: str | None = setting(
        optional(TEXT),
        None,
        "Legacy piecewise broker password *(deprecated style (undocumented))*.",
        old="BROKER_PASSWORD",
        no_effect=PIECEWISE,
    )
    broker_vhost: str | None = setting(
        optional(TEXT),
        None,
        "Legacy piecewise virtual host *(deprecated style (undocumented))*.",
        old="BROKER_VHOST",
        no_effect=PIECEWISE,
    )
    broker_publish_timeout: float = setting(
        DURATION,
        5.0,
        "Publishing ends within this time, in success or with BrokerUnavailable.",
        unit="s",
        ours=True,
    )

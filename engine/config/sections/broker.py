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
from ..reasons import IN_TURN, KEEPALIVE, NO_POOL, PIECEWISE, RECONNECTS
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
        "Another address for consuming; a worker whose two addresses differ is refused.",
        old="BROKER_READ_URL",
    )
    broker_write_url: str | None = setting(
        optional(URLS),
        None,
        "Another address for publishing, for programs that only publish.",
        old="BROKER_WRITE_URL",
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
        "How long one attempt to connect may take.",
        unit="s",
        old="BROKER_CONNECTION_TIMEOUT",
    )
    broker_connection_retry: bool = setting(
        BOOLEAN,
        True,
        "Connect again after the connection was lost.",
        old="BROKER_CONNECTION_RETRY",
        no_effect=RECONNECTS,
    )
    broker_connection_retry_on_startup: bool = setting(
        BOOLEAN,
        True,
        "Keep trying to reach the broker at start, too.",
        celery=None,
        old="BROKER_CONNECTION_RETRY_ON_STARTUP",
        no_effect=RECONNECTS,
    )
    broker_connection_max_retries: int | None = setting(
        zero_is_none(COUNT),
        100,
        "Attempts before giving up; none or 0 never gives up.",
        old="BROKER_CONNECTION_MAX_RETRIES",
        no_effect=RECONNECTS,
    )
    broker_channel_error_retry: bool = setting(
        BOOLEAN,
        False,
        "Start consuming again after an error of the channel, too.",
        old="BROKER_CHANNEL_ERROR_RETRY",
        no_effect=RECONNECTS,
    )
    broker_failover_strategy: Any = setting(
        OBJECT,
        None,
        "How the next of several addresses is chosen: round-robin, shuffle, or a function.",
        old="BROKER_FAILOVER_STRATEGY",
        no_effect=IN_TURN,
    )
    broker_heartbeat: float | None = setting(
        zero_is_none(SECONDS),
        120.0,
        "Interval of AMQP heartbeats; none or 0 sends none.",
        unit="s",
        old="BROKER_HEARTBEAT",
        no_effect=KEEPALIVE,
    )
    broker_heartbeat_checkrate: float = setting(
        number(0),
        3.0,
        "How often a heartbeat is looked for, per interval.",
        old="BROKER_HEARTBEAT_CHECKRATE",
        no_effect=KEEPALIVE,
    )
    broker_login_method: str | None = setting(
        optional(TEXT),
        None,
        "SASL mechanism (AMQPLAIN, PLAIN, EXTERNAL).",
        old="BROKER_LOGIN_METHOD",
    )
    broker_native_delayed_delivery_queue_type: str = setting(
        choice("quorum", "classic"),
        "quorum",
        "Queue type of the RabbitMQ delay ladder: quorum or classic.",
        old="BROKER_NATIVE_DELAYED_DELIVERY_QUEUE_TYPE",
    )
    broker_pool_limit: int | None = setting(
        zero_is_none(COUNT),
        10,
        "Greatest number of connections kept for publishing; none or 0 keeps none.",
        old="BROKER_POOL_LIMIT",
    )
    broker_pool_acquire_timeout: float | None = setting(
        optional(SECONDS),
        None,
        "How long publishing waits for a free connection; none waits without end.",
        unit="s",
        old="BROKER_POOL_ACQUIRE_TIMEOUT",
        no_effect=NO_POOL,
    )
    broker_use_ssl: bool | dict[str, Any] = setting(
        FLAG_OR_MAP,
        False,
        "Use TLS: true, or a map of its options (ssl_cert_reqs, ca_certs and so on).",
        old="BROKER_USE_SSL",
    )
    broker_host: str | None = setting(
        optional(TEXT),
        None,
        "Host of the broker, in the style of long ago.",
        old="BROKER_HOST",
        no_effect=PIECEWISE,
    )
    broker_port: int | None = setting(
        optional(integer(1, 65535)),
        None,
        "Port of the broker, in the style of long ago.",
        old="BROKER_PORT",
        no_effect=PIECEWISE,
    )
    broker_user: str | None = setting(
        optional(TEXT),
        None,
        "User at the broker, in the style of long ago.",
        old="BROKER_USER",
        no_effect=PIECEWISE,
    )
    broker_password: str | None = setting(
        optional(TEXT),
        None,
        "Password at the broker, in the style of long ago.",
        old="BROKER_PASSWORD",
        no_effect=PIECEWISE,
    )
    broker_vhost: str | None = setting(
        optional(TEXT),
        None,
        "Virtual host at the broker, in the style of long ago.",
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

"""From the configuration to the options that a broker and a result store are opened with.

Pure. Names are those of kombu's transport options; whoever opens something takes what it knows. What
`broker_transport_options` and `result_backend_transport_options` say wins.
"""

from __future__ import annotations

from typing import Any

from ..transports.url import redact
from .exceptions import ImproperlyConfigured

_RESULT_NAMES = (
    "result_serializer",
    "result_expires",
    "result_extended",
    "result_backend_always_retry",
    "result_backend_max_retries",
    "result_backend_base_sleep_between_retries_ms",
    "result_backend_max_sleep_between_retries_ms",
    "database_engine_options",
    "database_engine_callback",
    "database_short_lived_sessions",
    "database_table_schemas",
    "database_table_names",
    "database_create_tables_at_setup",
)
_REDIS_NAMES = {
    "redis_backend_use_ssl": "ssl",
    "redis_socket_timeout": "socket_timeout",
    "redis_socket_connect_timeout": "socket_connect_timeout",
    "redis_socket_keepalive": "socket_keepalive",
    "redis_max_connections": "max_connections",
    "redis_client_name": "client_name",
    "redis_backend_credential_provider": "credential_provider",
}


def publish_url(config: Any) -> str:
    """Where everybody sends: `broker_write_url`, else `broker_url`."""
    return str(config.broker_write_url or config.broker_url)


def consume_url(config: Any) -> str:
    """What workers read: `broker_read_url`, else `broker_url`."""
    return str(config.broker_read_url or config.broker_url)


def refuse_split_worker(config: Any) -> None:
    """A worker acknowledges a task and sends what follows from it in one step, so to one broker.

    :raises ImproperlyConfigured: it would read from one address and publish to another.
    """
    reads, writes = consume_url(config), publish_url(config)
    if reads != writes:
        raise ImproperlyConfigured(
            f"a worker cannot read from {redact(reads)} and publish to {redact(writes)}: a task and what "
            "follows from it (retries, callbacks) are settled in one step. Give the worker one broker_url "
            "(--broker), and keep broker_write_url for programs that only publish"
        )


def broker_options(config: Any) -> dict[str, Any]:
    """Options of the broker, without names and queues of the application."""
    options: dict[str, Any] = {
        "socket_connect_timeout": config.broker_connection_timeout,
        "publish_deadline": config.broker_publish_timeout,
    }
    if config.broker_use_ssl:
        options["ssl"] = config.broker_use_ssl
    if config.broker_pool_limit is None:
        options["keep_connections"] = False
    else:
        options["max_connections"] = config.broker_pool_limit
    options.update(_amqp_options(config))
    return {**options, **config.broker_transport_options}


def _amqp_options(config: Any) -> dict[str, Any]:
    """What only RabbitMQ is told: how queues are declared that nobody describes in full."""
    options: dict[str, Any] = {
        "native_delayed_delivery_queue_type": config.broker_native_delayed_delivery_queue_type,
        "missing_queue_type": config.task_create_missing_queue_type,
        "queue_max_priority": config.task_queue_max_priority,
    }
    if config.broker_login_method:
        options["login_method"] = config.broker_login_method
    if config.task_create_missing_queue_exchange_type:
        options["missing_exchange_type"] = config.task_create_missing_queue_exchange_type
    if not config.task_queues and config.task_default_queue_type == "quorum":
        options["quorum_queues"] = (config.task_default_queue,)
    return options


def result_options(config: Any) -> dict[str, Any]:
    """Options of the result store."""
    options: dict[str, Any] = {name: getattr(config, name) for name in _RESULT_NAMES}
    for name, option in _REDIS_NAMES.items():
        value = getattr(config, name)
        if value is not None:
            options[option] = value
    if str(config.result_backend or "").startswith("rpc:"):
        options["broker_url"] = publish_url(config)
        options["broker_options"] = broker_options(config)
        options["result_persistent"] = config.result_persistent
    return {**options, **config.result_backend_transport_options}

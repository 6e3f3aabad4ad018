"""Result stores: Redis, cache, database."""

from __future__ import annotations

from typing import Any

from ..kinds import BOOLEAN, COUNT, FLAG_OR_MAP, MAP, OBJECT, POSITIVE, SECONDS, TEXT, integer, optional
from ..reasons import PIECEWISE_RESULTS, STORES
from ..setting import section, setting


@section
class StoresSettings:
    """Result stores: Redis, cache, database."""

    redis_backend_use_ssl: bool | dict[str, Any] | None = setting(
        optional(FLAG_OR_MAP),
        None,
        "TLS options of the Redis result store.",
        old="CELERY_REDIS_BACKEND_USE_SSL",
    )
    redis_max_connections: int | None = setting(
        optional(POSITIVE),
        None,
        "Connections to the Redis result store, at most.",
        old="CELERY_REDIS_MAX_CONNECTIONS",
    )
    redis_socket_timeout: float = setting(
        SECONDS,
        5.0,
        "How long Redis may take to answer before the connection counts as dead.",
        unit="s",
        celery=120.0,
        old="CELERY_REDIS_SOCKET_TIMEOUT",
    )
    redis_socket_connect_timeout: float | None = setting(
        optional(SECONDS),
        None,
        "How long connecting to Redis may take.",
        unit="s",
        old="CELERY_REDIS_SOCKET_CONNECT_TIMEOUT",
    )
    redis_retry_on_timeout: bool = setting(
        BOOLEAN,
        False,
        "Repeat a Redis command that took too long.",
        old="CELERY_REDIS_RETRY_ON_TIMEOUT",
        no_effect="a command whose outcome is unknown is repeated only where that is safe",
    )
    redis_socket_keepalive: bool = setting(
        BOOLEAN,
        True,
        "Keep idle connections to Redis alive by TCP.",
        celery=False,
        old="CELERY_REDIS_SOCKET_KEEPALIVE",
    )
    redis_host: str | None = setting(
        optional(TEXT),
        None,
        "Host of the Redis result store, in the style of long ago.",
        old="CELERY_REDIS_HOST",
        no_effect=PIECEWISE_RESULTS,
    )
    redis_port: int | None = setting(
        optional(integer(1, 65535)),
        None,
        "Port of the Redis result store, in the style of long ago.",
        old="CELERY_REDIS_PORT",
        no_effect=PIECEWISE_RESULTS,
    )
    redis_db: int | None = setting(
        optional(COUNT),
        None,
        "Database of the Redis result store, in the style of long ago.",
        old="CELERY_REDIS_DB",
        no_effect=PIECEWISE_RESULTS,
    )
    redis_username: str | None = setting(
        optional(TEXT),
        None,
        "User at the Redis result store, in the style of long ago.",
        old="CELERY_REDIS_USERNAME",
        no_effect=PIECEWISE_RESULTS,
    )
    redis_password: str | None = setting(
        optional(TEXT),
        None,
        "Password at the Redis result store, in the style of long ago.",
        old="CELERY_REDIS_PASSWORD",
        no_effect=PIECEWISE_RESULTS,
    )
    cache_backend: str | None = setting(
        optional(TEXT),
        None,
        "Cache backend URL when result_backend is cache.",
        old="CELERY_CACHE_BACKEND",
        no_effect=STORES,
    )
    cache_backend_options: dict[str, Any] = setting(
        MAP,
        {},
        "Memcached client options.",
        old="CELERY_CACHE_BACKEND_OPTIONS",
        no_effect=STORES,
    )
    database_url: str | None = setting(
        optional(TEXT),
        None,
        "Database URL when result_backend is database.",
        old="CELERY_RESULT_DBURI",
        no_effect=PIECEWISE_RESULTS,
    )
    database_engine_options: dict[str, Any] = setting(
        MAP,
        {"pool_pre_ping": True, "pool_recycle": 3600},
        "SQLAlchemy create_engine options.",
        old="CELERY_RESULT_ENGINE_OPTIONS",
    )
    database_engine_callback: Any = setting(
        OBJECT,
        None,
        "Callable applied to the engine.",
        old="DATABASE_ENGINE_CALLBACK",
    )
    database_short_lived_sessions: bool = setting(
        BOOLEAN,
        False,
        "New session per operation.",
        old="CELERY_RESULT_DB_SHORT_LIVED_SESSIONS",
    )
    database_table_schemas: dict[str, Any] | None = setting(
        optional(MAP),
        None,
        "Schemas of the tables: a map of task and group.",
        old="DATABASE_TABLE_SCHEMAS",
    )
    database_table_names: dict[str, Any] | None = setting(
        optional(MAP),
        None,
        "Names of the tables: a map of task and group.",
        old="CELERY_RESULT_DB_TABLENAMES",
    )
    database_create_tables_at_setup: bool = setting(
        BOOLEAN,
        True,
        "Create tables on first use.",
        old="DATABASE_CREATE_TABLES_AT_SETUP",
    )

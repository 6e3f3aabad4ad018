"""What a database result store is opened with: a URL, and options named like Celery's settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType
from typing import Any

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from ..errors import TransportError, UnsupportedTransport
from ..url import InvalidUrl, redact
from .codec import CODECS, Codec

SCHEME_PREFIX = "db+"
TASK_TABLE = "celery_taskmeta"
GROUP_TABLE = "celery_tasksetmeta"
LIFETIME_S = 86400.0
"""How long results live when nothing else is said: Celery's `result_expires`."""

_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "application/json": "json",
        "application/x-msgpack": "msgpack",
        "application/x-python-serialize": "pickle",
    }
)

ENGINE_OPTIONS: Mapping[str, Any] = MappingProxyType({"pool_pre_ping": True, "pool_recycle": 3600})


class InvalidOption(TransportError, ValueError):
    """An option of a database result store has no meaning for it.

    :param name: the option.
    :param why: what is wrong with it.
    """

    def __init__(self, name: str, why: str) -> None:
        super().__init__(name, why)
        self.name = name
        self.why = why

    def __str__(self) -> str:
        return f"the option {self.name} cannot be used: {self.why}"


@dataclass(frozen=True)
class DatabaseSettings:
    """A URL and its options, checked.

    :param lifetime_s: after how many seconds a row of either table counts as gone; None keeps it.
    :param extended: whether a new table of tasks has the columns of `result_extended`.
    :param pooled: connections are kept for the next operation.
    :param engine_callback: is given the engine, once per process.
    """

    url: URL
    codec: Codec
    lifetime_s: float | None = LIFETIME_S
    extended: bool = False
    task_table: str = TASK_TABLE
    task_schema: str | None = None
    group_table: str = GROUP_TABLE
    group_schema: str | None = None
    create_tables: bool = True
    pooled: bool = True
    engine_options: Mapping[str, Any] = field(default_factory=lambda: ENGINE_OPTIONS)
    engine_callback: Callable[[Any], object] | None = None

    @property
    def shown(self) -> str:
        """The URL without its password."""
        return SCHEME_PREFIX + self.url.render_as_string(hide_password=True)


def read_settings(url: str, options: Mapping[str, Any]) -> DatabaseSettings:
    """Check a URL and options.

    :param options: ``result_serializer``, ``result_expires`` (seconds or a timedelta; None and 0
        keep results), ``result_extended``, ``database_table_names`` and ``database_table_schemas``
        (maps of ``task`` and ``group``), ``database_create_tables_at_setup``,
        ``database_short_lived_sessions``, ``database_engine_options``,
        ``database_engine_callback``; others have no meaning here.
    :raises InvalidUrl: the URL cannot be used.
    :raises UnsupportedTransport: documents of this serializer cannot be taken apart.
    """
    serializer = str(options.get("result_serializer") or "json")
    codec = CODECS.get(_NAMES.get(serializer, serializer))
    if codec is None:
        raise UnsupportedTransport(
            SCHEME_PREFIX,
            tuple(sorted(CODECS)),
            f"a database keeps the parts of a result in columns, and cannot take apart what the serializer "
            f"{serializer!r} makes; set result_serializer to one of {', '.join(sorted(CODECS))}",
        )
    names = options.get("database_table_names") or {}
    schemas = options.get("database_table_schemas") or {}
    return DatabaseSettings(
        url=_database_url(url),
        codec=codec,
        lifetime_s=_seconds(options.get("result_expires", LIFETIME_S)),
        extended=bool(options.get("result_extended", False)),
        task_table=names.get("task") or TASK_TABLE,
        task_schema=schemas.get("task"),
        group_table=names.get("group") or GROUP_TABLE,
        group_schema=schemas.get("group"),
        create_tables=bool(options.get("database_create_tables_at_setup", True)),
        pooled=not options.get("database_short_lived_sessions", False),
        engine_options={**ENGINE_OPTIONS, **(options.get("database_engine_options") or {})},
        engine_callback=options.get("database_engine_callback"),
    )


def require_driver(url: URL) -> None:
    """Import the driver of a database; connects to nothing.

    :raises UnsupportedTransport: it is not installed.
    """
    scheme = SCHEME_PREFIX + url.drivername
    try:
        url.get_dialect().import_dbapi()
    except (NoSuchModuleError, ImportError) as error:
        raise UnsupportedTransport(
            scheme, (), f"{scheme}:// needs a driver that is not installed ({error}); install it with pip"
        ) from error


def _seconds(value: Any) -> float | None:
    if isinstance(value, timedelta):
        value = value.total_seconds()
    return float(value) if value else None


def _database_url(text: str) -> URL:
    try:
        url = make_url(text.removeprefix(SCHEME_PREFIX))
    # ValueError: a port that is no number.
    except (ArgumentError, ValueError) as error:
        raise InvalidUrl(
            redact(text), "write db+ and the URL of a database, as SQLAlchemy reads it"
        ) from error
    if url.get_backend_name() == "sqlite" and (url.database or ":memory:") == ":memory:":
        raise InvalidUrl(
            redact(text),
            "a database in memory is seen by one connection only; name a file (db+sqlite:////path) "
            "or use memory://",
        )
    return url

"""The tables of results: their columns as Celery declares them, made or completed on first use."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from .settings import DatabaseSettings

KEY_CHARACTERS = 155
"""How long a task id or group id may be (interop §8.7)."""

TEXT_CHARACTERS = 155
STATUS_CHARACTERS = 50
_CREATE_TRIES = 5
EXTENDED = ("name", "args", "kwargs", "worker", "retries", "queue", "stamps")
"""The columns that only `result_extended` brings."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tables:
    """Both tables with the columns that the database really has."""

    task: sa.Table
    group: sa.Table


def declared(settings: DatabaseSettings) -> Tables:
    """The tables as they should be."""
    metadata = sa.MetaData()
    columns = _task_columns(settings)
    if not settings.extended:
        columns = [column for column in columns if column.name not in EXTENDED]
    return Tables(
        sa.Table(
            settings.task_table, metadata, *columns, schema=settings.task_schema, sqlite_autoincrement=True
        ),
        sa.Table(
            settings.group_table,
            metadata,
            *_group_columns(settings),
            schema=settings.group_schema,
            sqlite_autoincrement=True,
        ),
    )


def _task_columns(settings: DatabaseSettings) -> list[sa.Column[Any]]:
    return [
        _identity("task_id_sequence", settings.task_schema),
        sa.Column("task_id", sa.String(KEY_CHARACTERS), unique=True),
        sa.Column("status", sa.String(STATUS_CHARACTERS)),
        sa.Column("result", sa.LargeBinary),
        sa.Column("date_done", sa.DateTime, index=True),
        sa.Column("traceback", sa.Text),
        sa.Column("children", sa.LargeBinary),
        sa.Column("name", sa.String(TEXT_CHARACTERS)),
        sa.Column("args", sa.LargeBinary),
        sa.Column("kwargs", sa.LargeBinary),
        sa.Column("worker", sa.String(TEXT_CHARACTERS)),
        sa.Column("retries", sa.Integer),
        sa.Column("queue", sa.String(TEXT_CHARACTERS)),
        sa.Column("stamps", sa.LargeBinary),
    ]


def _group_columns(settings: DatabaseSettings) -> list[sa.Column[Any]]:
    return [
        _identity("taskset_id_sequence", settings.group_schema),
        sa.Column("taskset_id", sa.String(KEY_CHARACTERS), unique=True),
        sa.Column("result", sa.LargeBinary),
        sa.Column("date_done", sa.DateTime, index=True),
    ]


def _identity(sequence: str, schema: str | None) -> sa.Column[Any]:
    number = sa.Integer().with_variant(sa.BigInteger(), "mssql")
    return sa.Column("id", number, sa.Sequence(sequence, schema=schema), primary_key=True, autoincrement=True)


def prepare(engine: sa.Engine, settings: DatabaseSettings) -> Tables:
    """Make the tables if need be, and say which columns they have.

    :raises SQLAlchemyError: the database cannot be reached, or a table is missing and may not be made.
    """
    wanted = declared(settings)
    if settings.create_tables:
        _create(engine, wanted)
        _add_missing_columns(engine, wanted)
    return Tables(
        _as_found(engine, wanted.task, _task_columns(settings)),
        _as_found(engine, wanted.group, _group_columns(settings)),
    )


def _create(engine: sa.Engine, tables: Tables) -> None:
    """Create what is missing. Several processes may do so at once: who loses looks again."""
    for tries_left in reversed(range(_CREATE_TRIES)):
        try:
            tables.task.metadata.create_all(engine)
            return
        except DBAPIError:
            if not tries_left:
                raise


def _add_missing_columns(engine: sa.Engine, tables: Tables) -> None:
    """Add what older releases did not have. All are nullable, so that those go on writing."""
    quote = engine.dialect.identifier_preparer
    for table in (tables.task, tables.group):
        known = _columns(engine, table)
        for column in table.columns:
            if column.name in known:
                continue
            statement = (
                f"ALTER TABLE {quote.format_table(table)} "
                f"ADD COLUMN {quote.quote(column.name)} {column.type.compile(engine.dialect)}"
            )
            try:
                with engine.begin() as connection:
                    connection.execute(sa.text(statement))
            except DBAPIError as error:
                if column.name not in _columns(engine, table):
                    _log.warning(
                        "results are stored without %r: the column cannot be added (%s); run %s",
                        column.name,
                        type(error.orig).__name__,
                        statement,
                    )


def _columns(engine: sa.Engine, table: sa.Table) -> frozenset[str]:
    found = sa.inspect(engine).get_columns(table.name, schema=table.schema)
    return frozenset(column["name"] for column in found)


def _as_found(engine: sa.Engine, table: sa.Table, columns: Sequence[sa.Column[Any]]) -> sa.Table:
    """The table with those of the columns that the database has."""
    known = _columns(engine, table)
    kept = [column for column in columns if column.name in known]
    return sa.Table(table.name, sa.MetaData(), *kept, schema=table.schema)

"""The result store in a relational database."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DataError, IntegrityError, SQLAlchemyError

from ..base import StoredResult
from ..errors import ResultStoreUnavailable
from ..result_state import SUCCESS
from ..url import InvalidUrl, redact
from .polling import ResultPolling
from .rows import (
    FINAL_STATES,
    date_of,
    document_of,
    expired_before,
    folded,
    group_document,
    group_row,
    key_of,
    row_of,
)
from .settings import DatabaseSettings, InvalidOption, require_driver
from .tables import Tables, prepare

KEYS_PER_STATEMENT = 500
"""Databases bound how many values a statement may hold."""

_WRITE_TRIES = 5
_NO_POOL = sa.pool.NullPool


class DatabaseResults:
    """Implements `transports.base.ResultStore` (interop §8.7).

    Usable after a fork too: a child leaves the connections of its parent alone and makes its own.

    :param wall: the clock of dates, Unix time in seconds.
    """

    def __init__(self, settings: DatabaseSettings, *, wall: Callable[[], float] = time) -> None:
        self._settings = settings
        self._codec = settings.codec
        self._wall = wall
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        # All written by the thread that opens the store, or that first uses it after a fork.
        self._pid = os.getpid()
        self._engine = _engine(self._settings)
        self._tables: Tables | None = None  # written under _lock
        self._polling = ResultPolling(self._final)

    def store(self, results: Sequence[StoredResult]) -> None:
        """Write documents, as in `ResultStore.store`.

        :raises NoDocument: one of them is no result document; none was stored.
        """
        if not results:
            return
        with self._connected() as tables:
            columns = frozenset(tables.task.columns.keys())
            now_wall_s = self._wall()
            rows = [
                row_of(result, self._codec, columns, self._settings.lifetime_s, now_wall_s)
                for result in results
            ]
            try:
                self._write(tables.task, folded(rows))
            except DataError as error:
                self._write_apart(tables.task, folded(rows), error)
        self._polling.nudge()

    def store_soon(self, results: Sequence[StoredResult]) -> None:
        """Write documents, as in `ResultStore.store_soon`; nothing is quicker than to do it."""
        self.store(results)

    def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Read documents, as in `ResultStore.get`."""
        found = self._read(keys)
        return [found.get(key) for key in keys]

    def wait(self, keys: Sequence[str], timeout_s: float | None) -> dict[str, bytes]:
        """Wait for final documents, as in `ResultStore.wait`, by looking again and again.

        :raises ResultStoreUnavailable: the database cannot be reached.
        """
        self._connect()
        return self._polling.wait(keys, timeout_s)

    def forget(self, keys: Sequence[str]) -> None:
        """Delete documents, as in `ResultStore.forget`."""
        with self._connected() as tables:
            column = tables.task.c.task_id
            for chunk in _chunks(sorted({key_of(key) for key in keys})):
                self._change(sa.delete(tables.task).where(column.in_(chunk)))

    def save_group(self, group_id: str, document: bytes, expires_s: float | None) -> None:
        """Write a group, as in `ResultStore.save_group`.

        :raises NoDocument: it is no group document.
        """
        date = date_of(expires_s, self._settings.lifetime_s, self._wall())
        row = group_row(group_id, document, self._codec, date)
        with self._connected() as tables:
            table = tables.group
            update = sa.update(table).where(table.c.taskset_id == row["taskset_id"]).values(row)
            for tries_left in reversed(range(_WRITE_TRIES)):
                try:
                    if not self._change(update):
                        self._change(sa.insert(table).values(row))
                    return
                except IntegrityError:  # somebody saved it meanwhile
                    if not tries_left:
                        raise

    def get_group(self, group_id: str) -> bytes | None:
        """Read a group, as in `ResultStore.get_group`."""
        with self._connected() as tables:
            table = tables.group
            query = sa.select(table).where(table.c.taskset_id == key_of(group_id), *self._alive(table))
            with self._engine.connect() as connection:
                row = connection.execute(query).mappings().first()
        return None if row is None else group_document(dict(row), self._codec)

    def forget_group(self, group_id: str) -> None:
        """Delete a group, as in `ResultStore.forget_group`."""
        with self._connected() as tables:
            self._change(sa.delete(tables.group).where(tables.group.c.taskset_id == key_of(group_id)))

    def expire(self, limit: int = 1000) -> int:
        """Drop expired documents and groups, as in `ResultStore.expire`."""
        cutoff = expired_before(self._settings.lifetime_s, self._wall())
        if cutoff is None:
            return 0
        dropped = 0
        with self._connected() as tables:
            for table in (tables.task, tables.group):
                old = sa.select(table.c.id).where(table.c.date_done <= cutoff).limit(limit - dropped)
                with self._engine.connect() as connection:
                    numbers = connection.execute(old).scalars().all()
                for chunk in _chunks(numbers):
                    # A row that was written again meanwhile has another date.
                    found = sa.delete(table).where(table.c.id.in_(chunk), table.c.date_done <= cutoff)
                    dropped += self._change(found)
        return dropped

    def close(self) -> None:
        """Let waiters return and close the connections. Safe to call twice."""
        if os.getpid() != self._pid:
            return  # what was inherited is the parent's to close
        self._polling.close()
        self._engine.dispose()

    # -- the database -------------------------------------------------------------------------

    def _connect(self) -> Tables:
        """The tables of this process, which are made or looked at on first use."""
        if os.getpid() != self._pid:
            self._lock = threading.Lock()  # another thread of the parent may have held it
            self._engine.dispose(close=False)
            self._begin()
        with self._lock, self._translated():
            if self._tables is None:
                self._tables = prepare(self._engine, self._settings)
            return self._tables

    @contextmanager
    def _connected(self) -> Iterator[Tables]:
        tables = self._connect()
        with self._translated():
            yield tables

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        # OSError: a socket of a driver that does not wrap its errors.
        except (SQLAlchemyError, OSError) as error:
            raise ResultStoreUnavailable(f"{self._settings.shown}: {self._why(error)}") from None

    def _why(self, error: Exception) -> str:
        lines = str(getattr(error, "orig", None) or error).strip().splitlines() or [""]
        password = self._settings.url.password
        shown = redact(lines[0])[:300]
        return f"{type(error).__name__}: {shown.replace(str(password), '**') if password else shown}"

    def _change(self, statement: Any) -> int:
        with self._engine.begin() as connection:
            return max(0, connection.execute(statement).rowcount)

    def _alive(self, table: sa.Table) -> list[sa.ColumnElement[bool]]:
        cutoff = expired_before(self._settings.lifetime_s, self._wall())
        if cutoff is None:
            return []
        return [sa.or_(table.c.date_done.is_(None), table.c.date_done > cutoff)]

    # -- writing ------------------------------------------------------------------------------

    def _write(self, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows in one transaction, each unless a living SUCCESS stands there."""
        for tries_left in reversed(range(_WRITE_TRIES)):
            try:
                with self._engine.begin() as connection:
                    self._upsert(connection, table, rows)
                return
            except IntegrityError:  # another writer was first: now there is a row to update
                if not tries_left:
                    raise

    def _upsert(self, connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
        known: set[str] = set()
        for chunk in _chunks([row["task_id"] for row in rows]):
            query = sa.select(table.c.task_id).where(table.c.task_id.in_(chunk))
            known.update(connection.execute(query).scalars())
        missing = [row for row in rows if row["task_id"] not in known]
        if missing:
            connection.execute(sa.insert(table), missing)
        there = [
            {f"new_{name}": value for name, value in row.items()} for row in rows if row["task_id"] in known
        ]
        if there:
            connection.execute(self._guarded_update(table), there)

    def _guarded_update(self, table: sa.Table) -> sa.Update:
        """An update that finds no row where a SUCCESS lives, whoever stored it and however lately."""
        columns = [column.name for column in table.columns if column.name not in {"id", "task_id"}]
        overwritable = sa.or_(table.c.status.is_(None), table.c.status != SUCCESS)
        cutoff = expired_before(self._settings.lifetime_s, self._wall())
        if cutoff is not None:
            overwritable = sa.or_(overwritable, table.c.date_done <= cutoff)
        return (
            sa.update(table)
            .where(table.c.task_id == sa.bindparam("new_task_id"), overwritable)
            .values({name: sa.bindparam(f"new_{name}") for name in columns})
        )

    def _write_apart(self, table: sa.Table, rows: Sequence[dict[str, Any]], error: DataError) -> None:
        """Write rows one by one; one that the database cannot hold becomes a FAILURE that says so."""
        for row in rows:
            try:
                self._write(table, [row])
            except DataError:
                self._write(table, [self._refused(row, error)])

    def _refused(self, row: Mapping[str, Any], error: DataError) -> dict[str, Any]:
        why = f"the database cannot hold the result: {self._why(error)}"
        value = {"exc_type": "BackendStoreError", "exc_message": [why], "exc_module": "celery.exceptions"}
        kept = {"task_id": row["task_id"], "date_done": row["date_done"]}
        return {**dict.fromkeys(row), **kept, "status": "FAILURE", "result": self._codec.encode(value)}

    # -- reading ------------------------------------------------------------------------------

    def _read(self, keys: Iterable[str], *, final: bool = False) -> dict[str, bytes]:
        """The documents of keys, without those that have none."""
        by_column = {key_of(key): key for key in keys}
        found: dict[str, bytes] = {}
        with self._connected() as tables:
            table = tables.task
            with self._engine.connect() as connection:
                for chunk in _chunks(list(by_column)):
                    query = sa.select(table).where(table.c.task_id.in_(chunk), *self._alive(table))
                    if final:
                        query = query.where(table.c.status.in_(FINAL_STATES))
                    for row in connection.execute(query).mappings():
                        key = by_column.get(row["task_id"])
                        # A database that ignores case finds rows of other tasks as well.
                        if key is not None:
                            found[key] = document_of(key, dict(row), self._codec)
        return found

    def _final(self, keys: Sequence[str]) -> dict[str, bytes]:
        return self._read(keys, final=True)


def _engine(settings: DatabaseSettings) -> sa.Engine:
    """The engine of one process; it connects to nothing yet.

    :raises UnsupportedTransport: the driver is missing.
    :raises InvalidUrl: the driver cannot use the URL.
    :raises InvalidOption: it has no use for an option.
    """
    options = dict(settings.engine_options)
    if not settings.pooled:
        options = {
            name: value for name, value in options.items() if not name.startswith(("pool", "max_over"))
        }
        options["poolclass"] = _NO_POOL
    if "module" not in options:
        require_driver(settings.url)
    try:
        engine = sa.create_engine(settings.url, **options)
    except ArgumentError as error:
        raise InvalidUrl(settings.shown, str(error).partition("\n")[0]) from error
    except TypeError as error:
        raise InvalidOption("database_engine_options", str(error)) from error
    if settings.engine_callback is not None:
        settings.engine_callback(engine)
    return engine


def _chunks(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), KEYS_PER_STATEMENT):
        yield items[start : start + KEYS_PER_STATEMENT]

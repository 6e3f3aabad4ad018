"""The store itself: tables, transactions, threads, forks, and what goes wrong."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from prefork.transports.base import ResultStore, StoredResult
from prefork.transports.database import check_options, open_results, read_settings
from prefork.transports.database.codec import CODECS
from prefork.transports.database.settings import InvalidOption
from prefork.transports.errors import ResultStoreUnavailable, UnsupportedTransport
from prefork.transports.url import InvalidUrl
from support.forked import in_child
from support.waiting import Background

LIFE_S = 86400.0


def stored(key: str, status: str, result: object = None, **fields: object) -> StoredResult:
    document = {"status": status, "result": result, **fields}
    return StoredResult(key, json.dumps(document).encode(), LIFE_S, status in {"SUCCESS", "FAILURE"})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.db"


@pytest.fixture
def open_store(path: Path) -> Iterator[Callable[..., ResultStore]]:
    opened: list[ResultStore] = []

    def _open(**options: object) -> ResultStore:
        opened.append(open_results(f"db+sqlite:///{path}", options))
        return opened[-1]

    yield _open
    for store in opened:
        store.close()


def result_of(store: ResultStore, key: str) -> Any:
    (found,) = store.get([key])
    return None if found is None else json.loads(found)["result"]


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def columns(path: Path, table: str) -> set[str]:
    return {row[1] for row in rows(path, f"PRAGMA table_info({table})")}


# -- tables -----------------------------------------------------------------------------------


def test_the_tables_have_the_names_that_are_configured(open_store: Any, path: Path) -> None:
    store = open_store(database_table_names={"task": "tasks", "group": "groups"})
    store.store([stored("t", "SUCCESS", 1)])
    store.save_group("g", b'{"result": [1]}', LIFE_S)
    assert rows(path, "SELECT task_id, status, result FROM tasks") == [("t", "SUCCESS", b"1")]
    assert rows(path, "SELECT taskset_id, result FROM groups") == [("g", b"[1]")]


def test_the_tables_lie_in_the_schemas_that_are_configured(
    open_store: Any, path: Path, tmp_path: Path
) -> None:
    def attach(engine: sa.Engine) -> None:
        @sa.event.listens_for(engine, "connect")
        def _attach(connection: sqlite3.Connection, record: object) -> None:
            connection.execute(f"ATTACH '{tmp_path}/jobs.db' AS jobs")

    store = open_store(
        database_table_schemas={"task": "jobs", "group": "jobs"}, database_engine_callback=attach
    )
    store.store([stored("t", "SUCCESS", 1)])
    assert result_of(store, "t") == 1
    assert rows(tmp_path / "jobs.db", "SELECT task_id FROM celery_taskmeta") == [("t",)]
    assert columns(path, "celery_taskmeta") == set()


def test_only_extended_results_bring_the_extended_columns(open_store: Any, path: Path) -> None:
    open_store().get(["t"])
    assert "children" in columns(path, "celery_taskmeta")
    assert not {"name", "stamps"} & columns(path, "celery_taskmeta")
    open_store(result_extended=True).get(["t"])
    assert {"name", "args", "kwargs", "worker", "retries", "queue", "stamps"} <= columns(
        path, "celery_taskmeta"
    )


def test_a_store_reads_the_extended_columns_that_others_made(open_store: Any) -> None:
    fields = {"name": "shop.bill", "args": [1], "kwargs": {}, "worker": "w", "retries": 0, "queue": "q"}
    open_store(result_extended=True).store([stored("t", "SUCCESS", 1, **fields)])
    found = json.loads(open_store().get(["t"])[0])
    assert {name: found[name] for name in fields} == fields


OLD_TABLES = (
    "CREATE TABLE celery_taskmeta (id INTEGER PRIMARY KEY AUTOINCREMENT, task_id VARCHAR(155) UNIQUE, "
    "status VARCHAR(50), result BLOB, date_done DATETIME, traceback TEXT)",
    "CREATE TABLE celery_tasksetmeta (id INTEGER PRIMARY KEY AUTOINCREMENT, taskset_id VARCHAR(155) UNIQUE, "
    "result BLOB, date_done DATETIME)",
)


def make_old_tables(path: Path) -> None:
    connection = sqlite3.connect(path)
    for statement in OLD_TABLES:
        connection.execute(statement)
    connection.close()


def test_tables_of_older_releases_are_completed(open_store: Any, path: Path) -> None:
    make_old_tables(path)
    store = open_store()
    store.store([stored("t", "SUCCESS", 1, children=[[["c", None], None]])])
    assert json.loads(store.get(["t"])[0])["children"] == [[["c", None], None]]


def test_tables_that_must_not_be_changed_are_used_as_they_are(open_store: Any, path: Path) -> None:
    make_old_tables(path)
    store = open_store(database_create_tables_at_setup=False, result_extended=True)
    store.store([stored("t", "SUCCESS", 1, name="n", children=[[["c", None], None]])])
    assert result_of(store, "t") == 1
    assert "children" not in columns(path, "celery_taskmeta")


def test_a_missing_table_that_must_not_be_made_is_an_error(open_store: Any) -> None:
    store = open_store(database_create_tables_at_setup=False)
    with pytest.raises(ResultStoreUnavailable, match="celery_taskmeta"):
        store.get(["t"])


def test_a_column_that_cannot_be_added_is_done_without(
    open_store: Any, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_old_tables(path)

    def refuse(engine: sa.Engine) -> None:
        @sa.event.listens_for(engine, "do_execute")
        def _refuse(cursor: Any, statement: str, parameters: Any, context: Any) -> None:
            if statement.startswith("ALTER"):
                raise sqlite3.OperationalError("not yours to change")

    store = open_store(database_engine_callback=refuse)
    store.store([stored("t", "SUCCESS", 1, children=[1])])
    assert result_of(store, "t") == 1
    assert "ALTER TABLE celery_taskmeta ADD COLUMN children BLOB" in caplog.text


def test_several_processes_may_make_the_tables_at_once(open_store: Any, path: Path) -> None:
    stores = [open_store() for _ in range(8)]
    makers = [
        Background(lambda store=store, i=i: store.store([stored(f"t{i}", "SUCCESS", i)]))
        for i, store in enumerate(stores)
    ]
    for maker in makers:
        maker.result(20.0)
    assert [result_of(stores[0], f"t{i}") for i in range(8)] == list(range(8))


def test_making_the_tables_is_not_tried_for_ever(tmp_path: Path) -> None:
    store = open_results(f"db+sqlite:///{tmp_path}/missing/results.db", {})
    for attempt in (
        lambda: store.get(["t"]),
        lambda: store.store([stored("t", "SUCCESS")]),
        lambda: store.wait(["t"], 1.0),
        lambda: store.forget(["t"]),
        lambda: store.save_group("g", b'{"result": 1}', None),
        lambda: store.get_group("g"),
        lambda: store.forget_group("g"),
        lambda: store.expire(),
    ):
        with pytest.raises(ResultStoreUnavailable, match="unable to open database file"):
            attempt()
    store.close()


# -- writing ----------------------------------------------------------------------------------


def test_of_many_writers_one_success_stays(open_store: Any) -> None:
    stores = [open_store() for _ in range(6)]
    for turn in range(5):
        key = f"t{turn}"
        writers = [
            Background(
                lambda store=store, i=i, key=key: store.store(
                    [stored(key, "FAILURE", -1), stored(key, "SUCCESS", i), stored(key, "RETRY", -2)]
                )
            )
            for i, store in enumerate(stores)
        ]
        first = None
        for writer in writers:
            writer.result(20.0)
            first = result_of(stores[0], key) if first is None else first
            assert result_of(stores[0], key) == first
        assert first in range(6)


def test_a_large_batch_is_stored_and_read(open_store: Any) -> None:
    store = open_store()
    keys = [f"t{i}" for i in range(1300)]
    store.store([stored(key, "SUCCESS", key) for key in keys])
    store.store([stored(key, "FAILURE", "late") for key in keys])
    assert [json.loads(found)["result"] for found in store.get(keys)] == keys
    store.forget(keys)
    assert store.get(keys) == [None] * 1300


def test_nothing_is_stored_of_nothing(open_store: Any, path: Path) -> None:
    open_store().store([])
    assert not path.exists()


def test_a_writer_that_always_comes_second_gives_up(open_store: Any, path: Path) -> None:
    def always_second(engine: sa.Engine) -> None:
        def _fail(cursor: Any, statement: str, parameters: Any, context: Any) -> None:
            if statement.startswith("INSERT"):
                raise sqlite3.IntegrityError("UNIQUE constraint failed")

        sa.event.listen(engine, "do_execute", _fail)
        sa.event.listen(engine, "do_executemany", _fail)

    store = open_store(database_engine_callback=always_second)
    with pytest.raises(ResultStoreUnavailable, match="UNIQUE"):
        store.store([stored("t", "SUCCESS")])
    with pytest.raises(ResultStoreUnavailable, match="UNIQUE"):
        store.save_group("g", b'{"result": 1}', None)
    assert rows(path, "SELECT * FROM celery_taskmeta") == []


def test_a_result_that_the_database_cannot_hold_becomes_a_failure(open_store: Any) -> None:
    def small(engine: sa.Engine) -> None:
        def _refuse(cursor: Any, statement: str, parameters: Any, context: Any) -> None:
            sets = parameters if isinstance(parameters, list) else [parameters]
            if any(isinstance(one, memoryview) and b"BIG" in bytes(one) for values in sets for one in values):
                raise sqlite3.DataError("Data too long for column 'result'")

        sa.event.listen(engine, "do_execute", _refuse)
        sa.event.listen(engine, "do_executemany", _refuse)

    store = open_store(database_engine_callback=small, result_extended=True)
    store.store(
        [stored("a", "SUCCESS", 1), stored("b", "SUCCESS", "BIG", name="n"), stored("c", "SUCCESS", 3)]
    )
    assert (result_of(store, "a"), result_of(store, "c")) == (1, 3)
    found = json.loads(store.get(["b"])[0])
    assert found["status"] == "FAILURE"
    assert found["result"]["exc_type"] == "BackendStoreError"
    assert "too long for column" in found["result"]["exc_message"][0]


def test_results_that_never_expire_are_never_dropped(open_store: Any) -> None:
    store = open_store(result_expires=None)
    store.store([stored("t", "SUCCESS", 1)])
    assert (store.expire(), result_of(store, "t")) == (0, 1)


@pytest.mark.parametrize("kept", [None, 0, timedelta(0)])
def test_no_lifetime_keeps_results(kept: object) -> None:
    assert read_settings("db+sqlite:///x", {"result_expires": kept}).lifetime_s is None


def test_a_lifetime_may_be_a_timedelta_and_a_serializer_its_content_type() -> None:
    options = {"result_expires": timedelta(minutes=1), "result_serializer": "application/x-msgpack"}
    settings = read_settings("db+sqlite:///x", options)
    assert (settings.lifetime_s, settings.codec) == (60.0, CODECS["msgpack"])


def test_expiry_drops_groups_as_well(open_store: Any, path: Path) -> None:
    store = open_store()
    store.save_group("old", b'{"result": 1}', 0.0)
    store.save_group("young", b'{"result": 2}', LIFE_S)
    assert store.expire() == 1
    assert rows(path, "SELECT taskset_id FROM celery_tasksetmeta") == [("young",)]


def test_a_store_that_keeps_no_connections_works_the_same(open_store: Any) -> None:
    store = open_store(database_short_lived_sessions=True)
    store.store([stored("t", "SUCCESS", 1)])
    assert result_of(store, "t") == 1


# -- processes and threads --------------------------------------------------------------------


def test_a_forked_child_uses_connections_of_its_own(open_store: Any) -> None:
    store = open_store()
    store.store([stored("t", "SUCCESS", 1)])

    def child() -> None:
        assert result_of(store, "t") == 1
        store.store([stored("child", "SUCCESS", os.getpid())])
        store.close()

    in_child(child)
    assert isinstance(result_of(store, "child"), int)
    in_child(store.close)  # what it inherited is not its own to close
    assert result_of(store, "t") == 1


def test_a_closed_store_lets_its_waiters_go(open_store: Any) -> None:
    store = open_store()
    waiting = Background(lambda: store.wait(["t"], 30.0))
    open_store().get(["t"])
    assert waiting.running
    store.close()
    assert waiting.result(10.0) == {}


def test_opening_connects_to_nothing(path: Path) -> None:
    store = open_results(f"db+sqlite:///{path}", {})
    assert not path.exists()
    store.close()


# -- what cannot be used ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["db+sqlite://", "db+sqlite:///:memory:", "db+no url", "db+sqlite://h:x/y", "db+sqlite://h/y"]
)
def test_a_url_that_names_no_shared_database_is_refused(url: str) -> None:
    with pytest.raises(InvalidUrl):
        open_results(url, {})


@pytest.mark.parametrize("url", ["db+nosuch://h/d", "db+postgresql+nosuch://u:s3cret@h/d"])
def test_a_missing_driver_is_named(url: str) -> None:
    with pytest.raises(UnsupportedTransport, match="nosuch") as caught:
        open_results(url, {})
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("url", ["db+nosuch://h/d", "db+sqlite://"])
def test_what_cannot_be_opened_is_refused_before_processes_are_forked(url: str) -> None:
    with pytest.raises((UnsupportedTransport, InvalidUrl)):
        check_options(url, {})
    with pytest.raises(UnsupportedTransport, match="yaml"):
        check_options("db+sqlite:///x", {"result_serializer": "yaml"})


def test_an_option_without_meaning_is_refused(path: Path) -> None:
    with pytest.raises(InvalidOption, match="database_engine_options"):
        open_results(f"db+sqlite:///{path}", {"database_engine_options": {"no_such_option": 1}})


def test_a_serializer_that_cannot_be_taken_apart_is_refused(path: Path) -> None:
    with pytest.raises(UnsupportedTransport, match="'yaml'"):
        open_results(f"db+sqlite:///{path}", {"result_serializer": "yaml"})


class NoServer(types.ModuleType):
    """A driver that tells everything it knows when it cannot connect."""

    class Error(Exception): ...

    class OperationalError(Error): ...

    ProgrammingError = InterfaceError = InternalError = OperationalError
    paramstyle = "pyformat"

    @staticmethod
    def connect(**parameters: object) -> None:
        raise NoServer.OperationalError(f"no entry: {parameters} at mysql://app:s3cret@db")


def test_an_error_shows_no_password() -> None:
    options = {"database_engine_options": {"module": NoServer("driver")}}
    store = open_results("db+mysql+pymysql://app:s3cret@db/results", options)
    with pytest.raises(ResultStoreUnavailable, match="no entry") as caught:
        store.get(["t"])
    assert "s3cret" not in str(caught.value)
    assert caught.value.__suppress_context__
    store.close()


def test_importing_the_store_loads_no_driver_and_the_registry_loads_no_sqlalchemy() -> None:
    code = (
        "import sys; from prefork.transports import registry; print('sqlalchemy' in sys.modules);"
        "registry.preload('memory://', 'db+sqlite:////nowhere/x.db'); print('sqlalchemy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]

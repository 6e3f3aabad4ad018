"""The tables of the store: names, schemas, columns, those of older releases, and who makes them."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from prefork.transports.database import open_results
from prefork.transports.errors import ResultStoreUnavailable
from support.database_file import LIFE_S, result_of, rows, stored
from support.waiting import Background


def columns(path: Path, table: str) -> set[str]:
    return {row[1] for row in rows(path, f"PRAGMA table_info({table})")}


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

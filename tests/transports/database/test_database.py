"""The store itself: transactions, threads, forks, and what goes wrong."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import types
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from prefork.transports.database import check_options, open_results, read_settings
from prefork.transports.database.codec import CODECS
from prefork.transports.database.settings import InvalidOption
from prefork.transports.errors import ResultStoreUnavailable, UnsupportedTransport
from prefork.transports.url import InvalidUrl
from support.database_file import LIFE_S, result_of, rows, stored
from support.forked import in_child
from support.waiting import Background

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

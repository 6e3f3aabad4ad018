"""`result_extended` holds of tasks that were lost as well: by their workers, or to a time limit."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator

import pytest

from prefork.engine import App
from prefork.engine.exceptions import TimeLimitExceeded, WorkerLostError
from support.host import Host

SHOP = """
import os, signal, time
from prefork.engine import App

app = App("shop", broker="filesystem://{root}/broker", backend="{backend}")
app.conf.update(result_extended=True, task_max_crashes=1)

@app.task
def ends(how, seconds=0):
    if how == "exit":
        os._exit(7)
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
"""


@pytest.fixture(scope="module", params=["db+sqlite:///{root}/results.db", "filesystem://{root}/results"])
def shop(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Host, App]]:
    host = Host(tmp_path_factory.mktemp("extended"))
    request.addfinalizer(host.close)
    backend = request.param.format(root=host.root)
    host.write("shop.py", SHOP.format(root=host.root, backend=backend))
    host.start("-A", "shop", "worker", "-c", "1", "-n", "w@here", "-l", "INFO")
    host.wait_for_log("is ready")
    broker = f"filesystem://{host.root}/broker"
    app = App("client", broker=broker, backend=backend, set_as_current=False, result_extended=True)
    yield host, app
    app.close()


@pytest.mark.parametrize(
    ("how", "error"),
    [("exit", WorkerLostError), ("killed", WorkerLostError), ("hard limit", TimeLimitExceeded)],
)
def test_the_failure_of_a_lost_task_says_what_ran_and_where(
    shop: tuple[Host, App], how: str, error: type[Exception]
) -> None:
    host, app = shop
    limit = {"time_limit": 0.3} if how == "hard limit" else {}
    result = app.send_task("shop.ends", (how,), {"seconds": 3}, **limit)
    with pytest.raises(error):
        result.get(timeout=30)
    assert (result.name, result.worker, result.queue, result.retries) == ("shop.ends", "w@here", "celery", 0)
    assert (list(result.args), result.kwargs) == ([how], {"seconds": 3})
    database = host.root / "results.db"
    if database.exists():
        with sqlite3.connect(database) as connection:
            columns = "name, worker, queue, retries, kwargs"
            rows = connection.execute(
                f"SELECT {columns} FROM celery_taskmeta WHERE task_id = ?",
                (result.id,),
            ).fetchall()
        assert [(*row[:4], json.loads(row[4])) for row in rows] == [
            ("shop.ends", "w@here", "celery", 0, {"seconds": 3})
        ]

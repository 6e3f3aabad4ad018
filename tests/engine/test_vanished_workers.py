"""A message that takes whole workers with it: nobody is left to say why, and it is told all the same."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from prefork.engine import App
from prefork.engine.exceptions import WorkerLostError
from support.host import Host
from support.rabbitmq_server import shared
from support.waiting import eventually

pytestmark = pytest.mark.slow

SHOP = """
import pathlib, time
from prefork.engine import App

app = App("shop", broker="{broker}", backend="filesystem://{root}/results")
app.conf.broker_native_delayed_delivery_queue_type = "classic"

@app.task
def stays(marker):
    with pathlib.Path(marker).open("a") as file:
        file.write("began\\n")
    time.sleep(600)
"""


@pytest.fixture
def broker() -> str:
    return shared().vhost_url()


@pytest.fixture
def host(tmp_path: Path, broker: str) -> Iterator[Host]:
    host = Host(tmp_path)
    host.write("shop.py", SHOP.format(broker=broker, root=tmp_path))
    yield host
    host.close()


@pytest.fixture
def client(host: Host, broker: str) -> Iterator[App]:
    app = App("client", broker=broker, backend=f"filesystem://{host.root}/results", set_as_current=False)
    app.conf.broker_native_delayed_delivery_queue_type = "classic"
    yield app
    app.close()


def kill_whole(worker: subprocess.Popen[str]) -> None:
    """Supervisor, agent and children, as if the host was gone."""
    supervisor = psutil.Process(worker.pid)
    for process in [supervisor, *supervisor.children(recursive=True)]:
        process.kill()
    worker.wait(20)


def test_a_dead_letter_after_deaths_of_whole_workers_is_logged_and_has_a_cause_for_each(
    host: Host, client: App
) -> None:
    # Given a task, each of whose starts ends with the death of a whole worker
    marker = host.root / "marker"
    result = client.send_task("shop.stays", (str(marker),))
    for start in range(1, 5):  # the first is not counted: what was merely delivered is no suspect
        worker = host.start("-A", "shop", "worker", "-c", "1", log=f"{start}.log")
        eventually(
            lambda start=start: marker.exists() and marker.read_text().count("began") == start,
            deadline_s=30.0,
        )
        kill_whole(worker)
    # When the next worker finds that it was one too many
    host.start("-A", "shop", "worker", "-c", "1", log="last.log")
    causes = "; ".join(["its worker vanished"] * 3)
    with pytest.raises(WorkerLostError, match=f"dead-lettered after 3 crashes: {causes}"):
        result.get(timeout=30)
    # Then it says so, and the letter has the causes
    log = host.wait_for_log("dead letter", "last.log")
    assert f"ERROR/child 0] dead letter: shop.stays[{result.id}], queue celery, 3 crashes: {causes}" in log
    (letter,) = json.loads(host.run("-A", "shop", "dead", "list", "--json").stdout)
    assert (letter["crashes"], letter["causes"]) == (3, ["its worker vanished"] * 3)

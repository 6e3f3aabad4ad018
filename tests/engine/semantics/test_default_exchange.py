"""The default queue at an exchange and with a key of its own, and queues that nobody has described."""

from __future__ import annotations

import pytest

from prefork.engine.exceptions import BackendStoreError
from prefork.transports.errors import Unroutable
from support.semantics import Fleet
from support.waiting import eventually

SOURCE = """
app = App("defaults", **SETTINGS)
app.conf.update(
    task_default_queue="main",
    task_default_exchange="tasks",
    task_default_exchange_type="topic",
    task_default_routing_key="task.default",
)


@app.task(bind=True)
def which(self):
    return self.request.delivery_info["routing_key"]


@app.task(bind=True, default_retry_delay=0)
def moves(self, routing_key):
    if not self.request.retries:
        self.retry(exchange="tasks", routing_key=routing_key)
    return self.request.delivery_info["routing_key"]
"""
WORKER = {"queues": ["main", "described-nowhere"]}


def test_calls_that_say_nothing_reach_the_default_queue(fleet: Fleet) -> None:
    assert fleet.task("which").delay().get(timeout=15) == "task.default"


def test_so_do_calls_that_name_its_exchange_and_key(fleet: Fleet) -> None:
    result = fleet.task("which").apply_async(exchange="tasks", routing_key="task.default")
    assert result.get(timeout=15) == "task.default"


def test_its_exchange_is_taken_when_a_call_names_a_key_alone(fleet: Fleet) -> None:
    assert fleet.task("which").apply_async(routing_key="task.default").get(timeout=15) == "task.default"


@pytest.mark.parametrize("options", [{"exchange": "tasks"}, {}], ids=["named", "the default one"])
def test_a_key_that_no_queue_is_bound_for_is_an_error_where_it_is_sent(
    fleet: Fleet, options: dict[str, str]
) -> None:
    # RabbitMQ looks for bindings when a delayed message is due: nobody knows before.
    for delay_s in (None,) if fleet.name == "amqp" else (None, 60):
        with pytest.raises(Unroutable, match="no queue takes routing key 'nothing.such' of exchange 'tasks'"):
            fleet.task("which").apply_async(routing_key="nothing.such", countdown=delay_s, **options)


def test_a_retry_that_names_an_exchange_takes_its_bindings(fleet: Fleet) -> None:
    assert fleet.task("moves").delay("task.default").get(timeout=15) == "task.default"


def test_a_retry_that_no_queue_is_bound_for_is_a_failure_of_its_task(fleet: Fleet) -> None:
    with pytest.raises((Unroutable, BackendStoreError), match=r"Unroutable|nothing\.such"):
        fleet.task("moves").delay("nothing.such").get(timeout=15)


def test_delayed_calls_take_the_same_way(fleet: Fleet) -> None:
    result = fleet.task("which").apply_async(countdown=0.3)
    assert "task.default" in result.get(timeout=15)


def test_a_queue_that_nobody_has_described_is_made_and_reached_by_its_name(fleet: Fleet) -> None:
    result = fleet.task("which").apply_async(queue="described-nowhere")
    assert result.get(timeout=15) == "described-nowhere"
    eventually(lambda: fleet.depth("described-nowhere").ready == 0)

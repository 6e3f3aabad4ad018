"""States, results, compression, models and sizes in a worker, on each broker."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest

from prefork.engine import App, AsyncResult
from prefork.engine.exceptions import InvalidArguments, PayloadTooLarge
from prefork.engine.progress_report import Progress
from prefork.engine.request import Context
from support.semantics import Fleet
from support.waiting import eventually

SOURCE = """
from decimal import Decimal
from pydantic import BaseModel
from prefork.engine import progress

LIMITS = {"task_payload_max_bytes": 200_000, "result_max_bytes": 150_000}
app = App("states", **SETTINGS, **LIMITS, result_extended=True)


class Line(BaseModel):
    sku: str
    price: Decimal


class Total(BaseModel):
    lines: int
    sum: Decimal


def wait_for(name):
    while not (ROOT / name).exists():
        time.sleep(0.01)


@app.task
def echo(value, repeat=1):
    return value * repeat


@app.task(track_started=True)
def started(name):
    wait_for(name)
    return name


@app.task(bind=True)
def report(self, name):
    self.update_state(state="SEARCHING", meta={"found": 1})
    wait_for(name + "-1")
    for n in range(1, 6):
        self.progress(n, 5, note=name)
    wait_for(name + "-2")
    progress(5, 5)
    return name


@app.task(bind=True, default_retry_delay=0.3, max_retries=1)
def retried(self):
    if not self.request.retries:
        raise self.retry(exc=ValueError("first"))
    return self.request.retries


@app.task(store_errors_even_if_ignored=True, ignore_result=True)
def quiet(fail):
    if fail:
        raise ValueError("loud after all")


@app.task(ignore_result=True)
def silent(fail):
    if fail:
        raise ValueError("silent")


@app.task(pydantic=True)
def total(lines: Line, more: Line | None = None) -> Total:
    both = [line for line in (lines, more) if line is not None]
    return Total(lines=len(both), sum=sum(line.price for line in both))


@app.task
def secret(token):
    if token.startswith("bad"):
        raise ValueError("no such account")


@app.task(bind=True)
def shown(self):
    return self.request.shadow
"""


def go(fleet: Fleet, name: str) -> None:
    (fleet.root / name).touch()


def extended(result: AsyncResult[Any]) -> dict[str, Any]:
    """What is stored now beside the state, so that it must be there."""
    stored = result.backend.get_task_meta(result.id)
    return {name: stored[name] for name in ("name", "args", "kwargs", "worker", "retries", "queue")}


def test_started_is_seen_while_it_runs_and_says_where(fleet: Fleet) -> None:
    name = fleet.unique()
    result = fleet.task("started").delay(name)
    eventually(lambda: result.state == "STARTED", deadline_s=20)
    assert set(result.info) == {"pid", "hostname"}
    assert (result.name, result.args, result.kwargs) == (fleet.task("started").name, [name], {})
    go(fleet, name)
    assert result.get(timeout=20) == name


def test_states_of_ones_own_and_progress_are_seen(fleet: Fleet) -> None:
    name = fleet.unique()
    result = fleet.task("report").delay(name)
    assert result.progress is None
    eventually(lambda: result.state == "SEARCHING", deadline_s=20)
    assert result.info == {"found": 1}
    searching = extended(result)
    assert searching["name"] == fleet.task("report").name
    go(fleet, name + "-1")
    eventually(lambda: result.progress == Progress(5, 5, name))
    assert result.state == "PROGRESS"
    assert extended(result) == searching
    go(fleet, name + "-2")
    assert result.get(timeout=20) == name
    assert (result.state, result.progress) == ("SUCCESS", None)
    assert extended(result) == searching


def test_retry_is_a_state_with_its_reason(fleet: Fleet) -> None:
    result = fleet.task("retried").delay()
    eventually(lambda: result.state in ("RETRY", "SUCCESS"), deadline_s=20, every_s=0.01)
    assert result.get(timeout=20) == 1
    assert result.retries == 1


def test_extended_results_say_what_ran_where(fleet: Fleet) -> None:
    result = fleet.task("echo").delay("ab", repeat=2)
    assert result.get(timeout=20) == "abab"
    assert (result.args, result.kwargs, result.retries) == (["ab"], {"repeat": 2}, 0)
    assert (result.queue, "@" in (result.worker or "")) == ("celery", True)
    assert fleet.app.AsyncResult(result.id).name == f"{fleet.project.__name__}.echo"


def test_ignored_results_are_not_stored_and_failures_where_they_are_wanted(fleet: Fleet) -> None:
    ids = [fleet.task(name).delay(fail).id for name in ("quiet", "silent") for fail in (False, True)]
    failed = fleet.app.AsyncResult(ids[1])
    eventually(lambda: failed.state == "FAILURE", deadline_s=20)
    assert str(failed.result) == "loud after all"
    assert fleet.task("echo").delay("x").get(timeout=20) == "x"
    assert [fleet.app.AsyncResult(ids[n]).exists() for n in (0, 2, 3)] == [False, False, False]


@pytest.mark.parametrize("method", ["zlib", "gzip", "bzip2", "lzma", "brotli", "zstd"])
def test_compressed_messages_are_read(fleet: Fleet, method: str) -> None:
    text = fleet.unique("compress me ") * 200
    raw, packed = (
        fleet.task("echo").apply_async((text,), compression=c, queue="unread") for c in (None, method)
    )
    waiting = fleet.waiting("unread") if fleet.capabilities.name != "amqp" else []
    sizes = {message.id: len(message.envelope.body) for message in waiting}
    if sizes:
        assert sizes[packed.id] < sizes[raw.id] / 5
    assert fleet.task("echo").apply_async((text,), compression=method).get(timeout=20) == text


def test_models_come_and_go_as_plain_data(fleet: Fleet) -> None:
    line = {"sku": "a", "price": "1.5"}
    total = fleet.task("total")
    assert total.delay(line).get(timeout=20) == {"lines": 1, "sum": "1.5"}
    assert total.delay(fleet.project.Line(**line), more=line).get(timeout=20) == {"lines": 2, "sum": "3.0"}
    with pytest.raises(InvalidArguments, match=r"argument 'lines' of .*total: price: "):
        total.delay({"sku": "a", "price": "much"}).get(timeout=20)


def test_what_is_too_large_is_refused_on_both_sides(fleet: Fleet) -> None:
    echo = fleet.task("echo")
    with pytest.raises(PayloadTooLarge, match=r"echo has \d+ bytes, of at most 200000"):
        echo.delay("x" * 200_000)
    with pytest.raises(Exception, match=r"the result has \d+ bytes, of at most 150000.*result_max_bytes"):
        echo.delay("x" * 1000, repeat=200).get(timeout=20)


def test_arguments_are_in_no_log_and_no_header(fleet: Fleet) -> None:
    secret, token = fleet.task("secret"), fleet.unique("hunter2")
    secret.delay(token).get(timeout=20)
    with pytest.raises(ValueError, match="no such account"):
        secret.delay("bad" + token).get(timeout=20)
    secret.apply_async((token,), queue="parked")
    secret.apply_async((token,), queue="parked", argsrepr="('***',)", kwargsrepr="{}")
    if fleet.capabilities.name != "amqp":
        headers = [message.all_headers(fleet.app.client.table) for message in fleet.waiting("parked")]
        assert [header["argsrepr"] for header in headers] == ["", "('***',)"]
        assert token not in repr(headers)
    fleet.wait_for_log("no such account")
    assert token not in fleet.log


def test_a_shadow_is_another_name_to_show(fleet: Fleet) -> None:
    assert fleet.task("shown").apply_async(shadow="night run").get(timeout=20) == "night run"


@pytest.mark.parametrize("lifetime", [timedelta(seconds=0.4), 0.4])
def test_results_end_when_they_should(fleet: Fleet, lifetime: Any) -> None:
    conf = fleet.app.conf
    urls = {"broker_url": conf.broker_url, "result_backend": conf.result_backend}
    with App("brief", set_as_current=False, **urls, result_expires=lifetime) as app:
        stored, options, task_id = app.client.stored, fleet.task("echo").options, fleet.unique("id")
        begun_s = time.monotonic()  # before its lifetime begins: it cannot end within 0.4 s from here
        stored.store_state(task_id, "SUCCESS", 1, request=Context(), options=options)
        found = app.AsyncResult(task_id).result
        assert found == 1 or (found is None and time.monotonic() - begun_s > 0.4)
        eventually(lambda: not app.AsyncResult(task_id).exists(), deadline_s=5)


def test_a_result_is_forgotten(fleet: Fleet) -> None:
    result = fleet.task("echo").delay("x")
    assert result.get(timeout=20) == "x"
    result.forget()
    assert not fleet.app.AsyncResult(result.id).exists()
    assert result.state == "PENDING"

"""Every signal that a worker and its client send, in a real worker: from whom, with which arguments."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import celery.signals
import pytest

from prefork.engine import signals
from support.corpus import good_document
from support.semantics import Fleet
from support.waiting import eventually

WITHIN_S = 20.0
PAGE = Path(__file__).parents[3] / "docs" / "reference" / "signals.md"
# Whoever listens to it takes logging over, and the worker's log is wanted here.
EVERY = {name for name, value in vars(signals).items() if isinstance(value, signals.Signal)}
LISTENED = sorted(EVERY - {"setup_logging"})

SOURCE = """
import json

app = App("signals", **SETTINGS)
KEPT = []


def listen(name):
    def receiver(signal, sender=None, **named):
        about = {
            "signal": name,
            "sender": getattr(sender, "name", None) or str(sender),
            "app": getattr(getattr(sender, "app", None), "main", None),
            "hostname": getattr(sender, "hostname", None),
            "pid": os.getpid(),
            "arguments": sorted(named),
            "instance": getattr(named.get("instance"), "hostname", None),
            "task_id": named.get("task_id") or getattr(named.get("request"), "id", None),
        }
        if "message" in named:
            about["message"] = [named["message"].headers.get("task"), len(named["message"].body) > 0]
        if name in ("task_received", "task_revoked"):
            request = named["request"]
            about["request"] = [request.task_name, request.task.name, request.task_id, request.app.main]
            about["args"] = request.args
        if name == "task_failure":
            about["exception"] = type(named["exception"]).__name__
            about["args"] = list(named["args"])
        note("signals", json.dumps(about))
        if name.startswith("task_"):
            raise ValueError("a receiver that fails")

    KEPT.append(receiver)
    getattr(signals, name).connect(receiver)


for name in NAMES:
    listen(name)


@signals.before_task_publish.connect
def trace_out(headers, **_):
    headers["trace"] = "trace-" + headers["id"]


@signals.task_prerun.connect
def trace_in(task, task_id, **_):
    note("traces", f"{task_id} {(task.request.headers or {}).get('trace')}")


@app.task
def good(x):
    return x


@app.task
def bad():
    raise LookupError("bad")


@app.task
def leaves(x):
    raise SystemExit(3)


@app.task
async def leaves_later(x):
    raise SystemExit(3)


@app.task
def opaque(x):
    return {1, 2, object()}


@app.task(time_limit=1)
def over_limit(x):
    time.sleep(60)


@app.task(acks_late=False)
def killed_early(x):
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(reject_on_worker_lost=False)
def killed(x):
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
def killed_again(x):
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(bind=True, max_retries=1)
def again(self):
    if self.request.retries == 0:
        raise self.retry(countdown=0.01)


class Hooked(app.Task):
    def on_success(self, *_):
        raise RuntimeError("a hook that fails")


@app.task(base=Hooked)
def hooked():
    return 1
""".replace("NAMES", repr(LISTENED))
WORKER = {"task_unknown_grace": 0.0, "task_max_crashes": 1}

# What each signal is sent with (parity §16), and whether its sender is the task or the worker.
OF_TASKS = {
    "task_prerun": {"args", "kwargs", "task", "task_id"},
    "task_postrun": {"args", "kwargs", "retval", "state", "task", "task_id"},
    "task_success": {"result", "runtime"},
    "task_failure": {"args", "einfo", "exception", "kwargs", "task_id", "traceback"},
    "task_retry": {"einfo", "reason", "request"},
    "task_revoked": {"expired", "request", "signum", "terminated"},
    "task_internal_error": {"args", "einfo", "exception", "kwargs", "request", "task_id", "traceback"},
    "before_task_publish": {
        *("body", "declare", "exchange", "headers", "properties", "retry_policy", "routing_key")
    },
    "after_task_publish": {"body", "exchange", "headers", "routing_key"},
    "task_sent": {"args", "eta", "kwargs", "task", "task_id", "taskset"},
}
OF_WORKERS = {
    "celeryd_init": {"conf", "instance", "options"},
    "celeryd_after_setup": {"conf", "instance"},
    "worker_init": set(),
    "worker_ready": set(),
    "worker_process_init": set(),
    "worker_process_shutdown": {"exitcode", "pid"},
    "worker_shutdown": set(),
    "task_received": {"request"},
    "task_rejected": {"exc", "message"},
    "task_unknown": {"exc", "id", "message", "name"},
}
# Sent only where the worker is told to stop by somebody, or where it sets logging up.
OF_PROCESSES = {
    "worker_shutting_down": {"exitcode", "how", "sig"},
    "worker_before_create_process": set(),
}
OF_LOGGING = {
    "after_setup_logger": {"colorize", "format", "logfile", "logger", "loglevel"},
    "after_setup_task_logger": {"colorize", "format", "logfile", "logger", "loglevel"},
}
# Of programs and pools that this version has not.
ELSEWHERE = {
    *("beat_init", "beat_embedded_init", "eventlet_pool_started", "eventlet_pool_preshutdown"),
    *("eventlet_pool_postshutdown", "eventlet_pool_apply", "heartbeat_sent", "user_preload_options"),
    "setup_logging",  # replaces the log of this test
}
OF_APPS = {"import_modules": set()}


def heard(fleet: Fleet) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for line in fleet.notes("signals"):
        about = json.loads(line)
        found.setdefault(about["signal"], []).append(about)
    return found


@pytest.fixture(scope="module")
def everything(fleet: Fleet) -> dict[str, list[dict[str, Any]]]:
    """All that was heard while every kind of task ran, and the worker stopped."""
    assert fleet.task("good").delay(1).get(timeout=WITHIN_S) == 1
    assert isinstance(fleet.task("bad").delay().get(timeout=WITHIN_S, propagate=False), LookupError)
    fleet.task("again").delay().get(timeout=WITHIN_S)
    fleet.task("hooked").delay().get(timeout=WITHIN_S)
    expired = fleet.task("good").apply_async((1,), expires=-1)
    expired.get(timeout=WITHIN_S, propagate=False)
    unknown = fleet.app.send_task("of.nobody")
    unknown.get(timeout=WITHIN_S, propagate=False)
    fleet.send_raw(good_document(retries="many"))
    eventually(lambda: "task_rejected" in heard(fleet), deadline_s=WITHIN_S)
    fleet.worker.stop()
    eventually(lambda: "worker_shutdown" in heard(fleet), deadline_s=WITHIN_S)
    found = heard(fleet)
    fleet.start_worker()
    return found


def test_nobody_has_forgotten_a_signal() -> None:
    known = {*OF_TASKS, *OF_WORKERS, *OF_PROCESSES, *OF_LOGGING, *OF_APPS, *ELSEWHERE}
    assert known == EVERY
    assert set(celery.signals.__all__) <= EVERY


def test_the_reference_lists_them_with_their_arguments() -> None:
    rows = [line.split("|") for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    listed = {
        row[1].strip(" `"): {word.strip() for word in row[3].split(",") if word.strip()} for row in rows
    }
    sent = {**OF_TASKS, **OF_WORKERS, **OF_PROCESSES, **OF_LOGGING, **OF_APPS}
    assert listed.pop("setup_logging") == {"colorize", "format", "logfile", "loglevel"}
    assert listed == sent
    text = PAGE.read_text()
    assert [name for name in ELSEWHERE if "eventlet" not in name and name not in text] == []


@pytest.mark.parametrize("name", sorted(OF_TASKS))
def test_signals_about_tasks_come_from_the_task(
    fleet: Fleet, everything: dict[str, list[dict[str, Any]]], name: str
) -> None:
    assert everything[name]
    for about in everything[name]:
        assert set(about["arguments"]) == OF_TASKS[name]
        assert about["sender"].startswith(("signals_project.", "of.nobody", "prefork."))


@pytest.mark.parametrize("name", sorted(OF_WORKERS))
def test_signals_about_workers_come_from_the_worker(
    fleet: Fleet, everything: dict[str, list[dict[str, Any]]], name: str
) -> None:
    assert everything[name]
    for about in everything[name]:
        assert set(about["arguments"]) == OF_WORKERS[name]
        assert about["sender"].endswith("@tests")
        if "instance" in OF_WORKERS[name]:
            assert about["instance"] == about["sender"]
        elif not name.startswith("worker_process"):
            assert (about["hostname"], about["app"]) == (about["sender"], "signals")


def test_receivers_get_requests_and_messages_with_the_names_that_those_of_celery_read(
    fleet: Fleet, everything: dict[str, list[dict[str, Any]]]
) -> None:
    for about in [*everything["task_received"], *everything["task_revoked"]]:
        task_name, name, task_id, app = about["request"]
        assert task_name == name and task_name.startswith(("signals_project.", "prefork."))
        assert (task_id, app) == (about["task_id"], "signals")
    assert [1] in [about["args"] for about in everything["task_received"]]
    assert [about["args"] for about in everything["task_revoked"]] == [[1]]
    assert [about["message"] for about in everything["task_unknown"]] == [["of.nobody", True]]
    assert [about["message"] for about in everything["task_rejected"]] == [["proj.add", True]]


@pytest.mark.needs("several_processes")
@pytest.mark.parametrize("name", sorted({**OF_PROCESSES, **OF_LOGGING}))
def test_a_worker_of_its_own_says_how_it_stops_and_that_it_logs(
    fleet: Fleet, everything: dict[str, list[dict[str, Any]]], name: str
) -> None:
    assert everything[name]
    for about in everything[name]:
        assert set(about["arguments"]) == {**OF_PROCESSES, **OF_LOGGING}[name]


CHILD, AGENT = {"worker_process_init"}, {"worker_ready"}
# Name of the task, its exception, and who tells of it: a signal that is sent there too. Where an agent cannot
# settle for a child, on RabbitMQ, it may be the child that is given the message next.
ENDS = {
    "bad": ("LookupError", CHILD),
    "leaves": ("SystemExit", CHILD),
    "leaves_later": ("SystemExit", CHILD),
    "opaque": ("EncodeError", CHILD),
    "over_limit": ("TimeLimitExceeded", AGENT),
    "killed": ("WorkerLostError", AGENT),
    "killed_again": ("WorkerLostError", AGENT),
    "killed_early": ("WorkerLostError", AGENT),
}
NEED_PROCESSES = ("over_limit", "killed", "killed_again", "killed_early")


def failures_of(fleet: Fleet, task_id: str) -> list[dict[str, Any]]:
    return [about for about in heard(fleet).get("task_failure", ()) if about["task_id"] == task_id]


def tells(fleet: Fleet, name: str) -> None:
    kind, who = ENDS[name]
    args = () if name == "bad" else (7,)
    result = fleet.task(name).delay(*args)
    result.get(timeout=WITHIN_S, propagate=False)
    eventually(lambda: failures_of(fleet, result.id), deadline_s=WITHIN_S)
    assert fleet.task("good").delay(1).get(timeout=WITHIN_S) == 1
    (about,) = failures_of(fleet, result.id)
    assert (about["sender"], about["exception"]) == (f"signals_project.{name}", kind)
    assert about["args"] == ([] if name == "killed_early" else list(args))
    told = heard(fleet)
    assert result.id not in [success["task_id"] for success in told.get("task_success", ())]
    if fleet.several_processes:
        senders = who | CHILD if fleet.name == "amqp" and name != "killed_early" else who
        assert about["pid"] in [other["pid"] for sent in senders for other in told[sent]]


@pytest.mark.parametrize("name", sorted(ENDS.keys() - NEED_PROCESSES))
def test_error_reporters_hear_once_of_a_failure_whatever_it_is(fleet: Fleet, name: str) -> None:
    tells(fleet, name)


@pytest.mark.needs("several_processes")
@pytest.mark.parametrize("name", NEED_PROCESSES)
def test_error_reporters_hear_once_of_a_task_that_was_ended_from_outside(fleet: Fleet, name: str) -> None:
    tells(fleet, name)


@pytest.mark.needs("several_processes")
def test_signals_are_sent_in_the_process_that_they_are_about(
    fleet: Fleet, everything: dict[str, list[dict[str, Any]]]
) -> None:
    def pids(name: str) -> set[int]:
        return {about["pid"] for about in everything[name]}

    children = pids("worker_process_init")
    assert pids("task_prerun") <= children and pids("task_received") <= children
    assert pids("before_task_publish") - children == {os.getpid()}
    for name in ("worker_init", "worker_ready", "worker_shutdown", "celeryd_init"):
        assert not pids(name) & (children | {os.getpid()}), name


def test_the_app_says_when_modules_are_imported(everything: dict[str, list[dict[str, Any]]]) -> None:
    assert [about["arguments"] for about in everything["import_modules"]] == [[]]


def test_receivers_that_fail_change_nothing_and_are_in_the_log(
    fleet: Fleet, everything: dict[str, list[dict[str, Any]]]
) -> None:
    result = fleet.task("good").delay(5)
    assert result.get(timeout=WITHIN_S) == 5
    if fleet.several_processes:
        fleet.wait_for_log("a receiver that fails")


def test_what_a_receiver_puts_into_the_headers_reaches_the_task(
    fleet: Fleet, everything: dict[str, list[dict[str, Any]]]
) -> None:
    result = fleet.task("again").delay()
    result.get(timeout=WITHIN_S)
    expected = f"{result.id} trace-{result.id}"
    assert [line for line in fleet.notes("traces") if line.startswith(result.id)] == [expected] * 2

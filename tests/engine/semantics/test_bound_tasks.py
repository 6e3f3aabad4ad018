"""What a bound task knows and may do: its request, the tasks it sends, its class, and who takes its place."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from prefork.engine.canvas import ChordNeeded
from prefork.engine.exceptions import ImproperlyConfigured, RemoteTaskError
from support.semantics import OUTSIDE_S, Fleet
from support.waiting import eventually

WORKER = {"concurrency": 1, "task_inherit_parent_priority": True}
SOURCE = """
from prefork.engine import chain, current_task, group

app = App("bound", task_inherit_parent_priority=True, **SETTINGS)

FIELDS = '''
    id task args kwargs retries called_directly is_eager hostname delivery_info root_id parent_id group
    group_index chord chain callbacks errbacks timelimit headers eta expires utc reply_to correlation_id
    origin shadow ignore_result replaced_task_nesting stamps stamped_headers properties time_limit
    soft_time_limit taskset logfile loglevel
'''.split()

def plain(value):
    signatures = isinstance(value, list) and value and isinstance(value[0], dict)
    return [dict(one) for one in value] if signatures else value

@app.task(bind=True)
def request(self, *args, **kwargs):
    self.send_event("task-custom", note="accepted")
    seen = {name: plain(getattr(self.request, name)) for name in FIELDS}
    return {**seen, "as options": self.request.as_execution_options(), "custom": self.request.get("trace"),
            "current": current_task.name, "app": self.app.main, "backend": self.backend is app.backend}

@app.task(bind=True, priority=4)
def parent(self):
    child = lineage.delay()
    grandchild = lineage.apply_async(priority=7)
    return [child.id, grandchild.id]

@app.task(bind=True)
def lineage(self):
    return [self.request.root_id, self.request.parent_id, self.request.delivery_info["priority"]]

class Counting(app.Task):
    def __init__(self):
        self.connections = 0

    @property
    def connection(self):
        self.connections += 1
        return self.connections

    def before_start(self, task_id, args, kwargs):
        note(args[0], f"before_start {self.request.id == task_id}")

    def on_success(self, retval, task_id, args, kwargs):
        note(args[0], f"on_success {retval!r}")

    def on_failure(self, exc, task_id, args, kwargs, einfo):
        note(args[0], f"on_failure {exc!r} {type(einfo).__name__}")

    def on_retry(self, exc, task_id, args, kwargs, einfo):
        note(args[0], f"on_retry {exc!r}")

    def after_return(self, status, retval, task_id, args, kwargs, einfo):
        note(args[0], f"after_return {status} {retval!r} {einfo is not None}")

@app.task(base=Counting, bind=True, default_retry_delay=0)
def hooked(self, key, how="return"):
    if how == "fail":
        raise ValueError("failed")
    if how == "retry" and not self.request.retries:
        raise self.retry(exc=KeyError("once more"))
    return self.connection

@app.task
def add(x, y=0):
    return x + y

@app.task(bind=True)
def replaced_by(self, what, key):
    note(key, "before")
    own = {"task": lambda: add.s(1, 2), "chain": lambda: chain(add.s(1, 2), add.s(10), add.s(100)),
           "retrying": lambda: then_retries.s(key), "group": lambda: group(add.s(1)),
           "empty": lambda: chain(), "chord": lambda: add.s(1).set(chord=add.s())}
    self.replace(own[what]())
    note(key, "after")

@app.task(bind=True, default_retry_delay=0)
def then_retries(self, key):
    if not self.request.retries:
        raise self.retry()
    return [self.request.id, self.request.replaced_task_nesting, self.request.group, self.request.group_index,
            self.request.root_id]

@app.task
def noted(value, key):
    note(key, f"linked {value}")

@app.task(bind=True)
def again(self, n):
    if n:
        return self.signature_from_request(args=(n - 1,), task_id="again-" + self.request.id).apply_async().id
    return self.request.headers
"""


def test_the_request_has_every_field(fleet: Fleet) -> None:
    task, add = fleet.task("request"), fleet.task("add")
    eta = datetime.now(timezone.utc) + timedelta(milliseconds=20)
    result = task.apply_async(
        (1, "two"),
        {"three": 3},
        eta=eta,
        expires=60,
        time_limit=30,
        soft_time_limit=20,
        headers={"trace": "abc"},
        root_id="root",
        parent_id="parent",
        group_id="group",
        group_index=2,
        shadow="shown",
        priority=3,
        link=add.s(1),
        link_error=add.si(2),
        reply_to="me",
    )
    seen = result.get(timeout=OUTSIDE_S)
    assert (seen["id"], seen["task"], seen["args"], seen["kwargs"]) == (
        result.id,
        task.name,
        [1, "two"],
        {"three": 3},
    )
    assert (seen["retries"], seen["called_directly"], seen["is_eager"], seen["utc"]) == (
        0,
        False,
        False,
        True,
    )
    assert "@" in seen["hostname"]
    assert seen["delivery_info"] == {
        "exchange": "",
        "routing_key": "celery",
        "priority": 3,
        "redelivered": False,
    }
    assert (seen["root_id"], seen["parent_id"]) == ("root", "parent")
    assert (seen["group"], seen["group_index"], seen["shadow"]) == ("group", 2, "shown")
    assert [sig["args"] for sig in seen["callbacks"]] == [[1]]
    assert [sig["args"] for sig in seen["errbacks"]] == [[2]]
    assert (seen["timelimit"], seen["time_limit"], seen["soft_time_limit"]) == ([30, 20], 30, 20)
    assert (seen["headers"], seen["custom"]) == ({"trace": "abc"}, "abc")
    assert datetime.fromisoformat(seen["eta"]) == eta
    assert datetime.fromisoformat(seen["expires"]) > eta
    assert (seen["reply_to"], seen["correlation_id"]) == ("me", result.id)
    assert seen["origin"].startswith("gen")
    properties = seen["properties"]
    assert (properties["correlation_id"], properties["priority"], properties["delivery_mode"]) == (
        result.id,
        3,
        2,
    )
    assert (seen["current"], seen["app"], seen["backend"]) == (task.name, "bound", True)
    options = seen["as options"]
    assert (options["task_id"], options["time_limit"], options["soft_time_limit"]) == (result.id, 30, 20)
    assert (options["headers"], options["group_index"], options["retries"]) == ({"trace": "abc"}, 2, 0)


def test_a_call_that_says_nothing_has_the_defaults(fleet: Fleet) -> None:
    result = fleet.task("request").delay()
    seen = result.get(timeout=OUTSIDE_S)
    for name in ("parent_id", "group", "group_index", "chord", "chain", "callbacks", "errbacks", "headers"):
        assert seen[name] is None, name
    for name in ("eta", "expires", "shadow", "stamped_headers", "taskset", "logfile", "loglevel"):
        assert seen[name] is None, name
    assert not seen["stamps"]
    assert (seen["root_id"], seen["timelimit"], seen["ignore_result"]) == (result.id, [None, None], False)


def test_tasks_that_a_task_sends_know_where_they_come_from(fleet: Fleet) -> None:
    result = fleet.task("parent").apply_async(root_id="the root", priority=4)
    child, grandchild = result.get(timeout=OUTSIDE_S)
    find = fleet.app.AsyncResult
    assert find(child).get(timeout=OUTSIDE_S) == ["the root", result.id, 4]
    assert find(grandchild).get(timeout=OUTSIDE_S) == ["the root", result.id, 7]


def test_the_hooks_of_a_class_are_called_in_order(fleet: Fleet) -> None:
    key = fleet.unique()
    hooked = fleet.task("hooked")
    first = hooked.delay(key).get(timeout=OUTSIDE_S)
    expected = [
        "before_start True",
        f"on_success {first}",
        f"after_return SUCCESS {first} False",
    ]
    assert fleet.notes(key) == expected
    key = fleet.unique()
    second = hooked.delay(key, "retry").get(timeout=OUTSIDE_S)
    assert fleet.notes(key) == [
        "before_start True",
        "on_retry KeyError('once more')",
        "before_start True",
        f"on_success {second}",
        f"after_return SUCCESS {second} False",
    ], "after_return is called at the end only"
    assert second == first + 1, "an instance lives as long as its process"
    key = fleet.unique()
    with pytest.raises(ValueError, match="failed"):
        hooked.delay(key, "fail").get(timeout=OUTSIDE_S)
    assert fleet.notes(key) == [
        "before_start True",
        "on_failure ValueError('failed') ExceptionInfo",
        "after_return FAILURE ValueError('failed') True",
    ]


def test_a_task_that_is_replaced_has_the_result_of_the_other(fleet: Fleet) -> None:
    for what, value in (("task", 3), ("chain", 113)):
        key = fleet.unique()
        result = fleet.task("replaced_by").apply_async(
            (what, key), link=fleet.task("noted").s(key), group_id="a group", group_index=5
        )
        assert result.get(timeout=OUTSIDE_S) == value
        eventually(lambda: len(fleet.notes(key)) > 1, deadline_s=OUTSIDE_S)  # noqa: B023
        assert fleet.notes(key) == ["before", f"linked {value}"]


def test_a_replacement_retries_and_keeps_its_place(fleet: Fleet) -> None:
    result = fleet.task("replaced_by").apply_async(
        ("retrying", fleet.unique()), group_id="a group", group_index=5, root_id="the root"
    )
    assert result.get(timeout=OUTSIDE_S) == [result.id, 1, "a group", 5, "the root"]


def test_what_was_to_follow_follows_the_replacement(fleet: Fleet) -> None:
    chained = fleet.task("replaced_by").si("chain", fleet.unique()) | fleet.task("add").s(1000)
    assert chained.delay().get(timeout=OUTSIDE_S) == 1113


@pytest.mark.parametrize(
    ("what", "error"),
    [("group", ChordNeeded), ("empty", ImproperlyConfigured), ("chord", ImproperlyConfigured)],
)
def test_what_cannot_take_the_place_fails_the_task(fleet: Fleet, what: str, error: type[Exception]) -> None:
    with pytest.raises((error, RemoteTaskError), match=r"chord|empty"):
        fleet.task("replaced_by").delay(what, fleet.unique()).get(timeout=OUTSIDE_S)


def test_an_eager_task_is_replaced_as_in_a_worker(fleet: Fleet) -> None:
    key = fleet.unique()

    def run(what: str) -> Any:
        return fleet.task("replaced_by").apply((what, key)).get()

    assert (run("task"), run("chain")) == (3, 113)
    assert fleet.notes(key) == ["before"] * 2


def test_a_task_is_sent_again_as_it_was(fleet: Fleet) -> None:
    result = fleet.task("again").apply_async((1,), headers={"trace": "x"})
    following = result.get(timeout=OUTSIDE_S)
    assert following == f"again-{result.id}"
    assert fleet.app.AsyncResult(following).get(timeout=OUTSIDE_S) == {"trace": "x"}

"""What a task sends in its own place, and what it has to leave alone."""

from __future__ import annotations

from typing import Any

import pytest

from prefork.engine import states
from prefork.engine.canvas import ChordNeeded, chain, group
from prefork.engine.exceptions import ImproperlyConfigured
from prefork.engine.execution import execute
from prefork.engine.message import parse
from prefork.engine.replacing import Replaced
from prefork.engine.request import Context
from support.apps import memory_app


@pytest.fixture
def app() -> Any:
    with memory_app() as made:
        made.task(name="add")(lambda x, y=0: x + y)
        yield made


def replaced(app: Any, make: Any, **fields: Any) -> Any:
    """What came of a task that had itself replaced, and the messages of the other."""

    @app.task(name="host", bind=True)
    def host(self: Any) -> None:
        return self.replace(make())

    context = Context({"id": "i", "root_id": "r", "parent_id": "p", "called_directly": False, **fields})
    done = execute(host, context)
    if not isinstance(done.value, Replaced):
        raise done.value
    assert done.state == states.IGNORED
    messages = [parse(one.document, app.client.table) for one in done.value.messages]
    return [(message, *message.payload(app.client.table)) for message in messages]


def test_a_signature_takes_id_place_and_callbacks(app: Any) -> None:
    add = app.tasks["add"]
    ((message, args, _, embed),) = replaced(
        app,
        lambda: add.s(1, 2),
        callbacks=[dict(add.s(3))],
        errbacks=[dict(add.s(4))],
        chain=[dict(add.s(6)), dict(add.s(5))],
        chord=dict(add.s(7)),
        group="g",
        group_index=2,
        replaced_task_nesting=1,
        reply_to="me",
    )
    assert (message.id, message.task, message.root_id, message.parent_id) == ("i", "add", "r", "p")
    assert (message.group, message.group_index, message.replaced_task_nesting) == ("g", 2, 2)
    assert (args, message.reply_to) == ([1, 2], "me")
    assert [one["args"] for one in embed.callbacks or ()] == [[3]]
    assert [one["args"] for one in embed.errbacks or ()] == [[4]]
    assert [one["args"] for one in embed.chain or ()] == [[6], [5]]
    assert [one["options"]["replaced_task_nesting"] for one in embed.chain or ()] == [2, 2]
    assert embed.chord is not None


def test_of_a_chain_the_last_step_takes_the_place(app: Any) -> None:
    add = app.tasks["add"]
    steps = chain(add.s(1), add.s(2), add.s(3))
    steps.link(add.s(8))
    steps.link_error(add.s(9))
    ((message, args, _, embed),) = replaced(app, lambda: steps, chain=[dict(add.s(4))], group="g")
    assert (message.id == "i", args, message.group) == (False, [1], None)
    after, last, second = embed.chain or ()
    assert [one["args"] for one in (second, last, after)] == [[2], [3], [4]]
    assert (last["options"]["task_id"], last["options"]["group_id"]) == ("i", "g")
    assert [one["args"] for one in last["options"]["link"]] == [[8]]
    assert [one["args"] for one in embed.errbacks or ()] == [[9]]
    assert "task_id" not in second["options"]
    assert steps.tasks[-1].options.get("task_id") is None, "the caller's signature stays as it was"


@pytest.mark.parametrize("how", ["group", "chain with a group", "chord", "empty"])
def test_what_cannot_take_the_place_is_refused(app: Any, how: str) -> None:
    add = app.tasks["add"]
    signatures = {
        "group": lambda: group(add.s(1)),
        "chain with a group": lambda: chain(add.s(1), group(add.s(2))),
        "chord": lambda: add.s(1).set(chord=dict(add.s(2))),
        "empty": lambda: chain(),
    }
    with pytest.raises((ChordNeeded, ImproperlyConfigured)):
        replaced(app, signatures[how])
    assert app.client.transport.depth("celery").ready == 0


def test_a_task_called_as_a_function_runs_the_other_in_place(app: Any) -> None:
    @app.task(name="host", bind=True)
    def host(self: Any) -> int:
        return int(self.replace(app.tasks["add"].s(1, 2)))

    assert host() == 3
    assert host.apply().get() == 3


def test_a_class_may_say_what_happens(app: Any) -> None:
    seen: list[Any] = []

    class Watching(app.Task):  # type: ignore[name-defined, misc]
        def on_replace(self, sig: Any) -> Any:
            seen.append(sig.task)
            return super().on_replace(sig)

    @app.task(name="host", bind=True, base=Watching)
    def host(self: Any) -> Any:
        return self.replace(app.tasks["add"].s(1))

    assert host.apply().get() == 1
    assert seen == ["add"]


def test_a_signature_of_a_request_goes_where_its_message_came_from(app: Any) -> None:
    host = app.task(name="host")(lambda: None)
    fields: dict[str, Any] = {"id": "i", "args": [1], "kwargs": {"y": 2}, "ignore_result": True}
    plain = host.signature_from_request(Context(fields))
    assert (plain.args, plain.kwargs, plain.options["ignore_result"]) == ((1,), {"y": 2}, True)
    info = {"exchange": "", "routing_key": "slow", "priority": 3}
    queued = host.signature_from_request(Context(fields | {"delivery_info": info}), retries=2)
    assert (queued.options["queue"], queued.options["priority"], queued.options["retries"]) == ("slow", 3, 2)
    routed = host.signature_from_request(Context(fields | {"delivery_info": info | {"exchange": "e"}}))
    assert (routed.options["exchange"], routed.options["routing_key"]) == ("e", "slow")
    assert host.subtask_from_request(Context(fields), queue="other").options["queue"] == "other"

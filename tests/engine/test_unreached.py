"""What is stored for the rest of a chain whose task did not succeed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from prefork.engine.app import App
from prefork.engine.einfo import ExceptionInfo
from prefork.engine.exceptions import Reject
from prefork.engine.message import TaskDraft, encode_task
from prefork.engine.message_chain import chain_of
from prefork.engine.result_document import decode
from prefork.engine.result_writer import ResultWriter
from prefork.engine.unreached import Unreached, steps_of
from support.apps import memory_app
from support.corpus import Bad, bad_messages, document_of, good_parts


def sig(name: str, task_id: Any = None, **more: Any) -> dict[str, Any]:
    """A signature as it travels."""
    kwargs = more.pop("kwargs", {})
    kind = more.pop("subtask_type", None)
    options = {"task_id": task_id, **more} if task_id is not None else more
    return {"task": name, "args": [], "kwargs": kwargs, "options": options, "subtask_type": kind}


def ids(*chain: Any) -> list[str]:
    return [step.id for step in steps_of(chain)]


def test_the_steps_of_a_chain_are_named_in_the_order_they_would_run_in() -> None:
    assert ids(sig("c", "3"), sig("b", "2")) == ["2", "3"]


def test_parts_that_are_shared_or_part_of_themselves_are_looked_at_once() -> None:
    whole = sig("leaf", "leaf")
    for number in range(200):
        whole = sig("g", f"{number}", subtask_type="group", kwargs={"tasks": [whole, whole]})
    assert ids(whole) == ["leaf"]
    ring = sig("c", subtask_type="chain", kwargs={"tasks": []})
    ring["kwargs"]["tasks"] += [ring, sig("a", "a")]
    assert ids(ring) == ["a"]


def test_callbacks_are_no_steps_and_what_has_no_id_is_left_out() -> None:
    assert ids(sig("b", "2", link=[sig("x", "x")], link_error=[sig("y", "y")]), sig("a")) == ["2"]


def test_of_what_is_made_of_others_its_parts_are_named() -> None:
    inner = sig(
        "celery.chain", "i3", subtask_type="chain", kwargs={"tasks": [sig("a", "i1"), sig("b", "i3")]}
    )
    members = sig("celery.group", "g", subtask_type="group", kwargs={"tasks": [inner, sig("m", "m2")]})
    chord = sig(
        "celery.chord", "body", subtask_type="chord", kwargs={"header": members, "body": sig("z", "body")}
    )
    listed = sig(
        "celery.chord", subtask_type="chord", kwargs={"header": [sig("h", "h1")], "body": sig("y", "y1")}
    )
    assert sorted(ids(sig("last", "9"), listed, chord)) == sorted(
        ["9", "h1", "y1", "i1", "i3", "m2", "body"]
    ), "a group's own id has no result"
    assert ids(sig("b", "2", chain=[sig("d", "4"), sig("c", "3")])) == ["2", "3", "4"]


@pytest.mark.parametrize(
    "odd",
    [
        None,
        7,
        "text",
        [],
        {},
        {"options": 3},
        sig("a", 5),
        sig("a", ""),
        sig("a", "\ud800"),
        sig("a", "x" * 2000),
    ],
)
def test_what_is_no_signature_is_left_out(odd: Any) -> None:
    assert ids(sig("b", "2"), odd) == ["2"]


def test_the_arguments_of_a_plain_task_are_not_looked_into() -> None:
    assert ids(sig("b", "2", kwargs={"tasks": [sig("x", "x")], "body": sig("y", "y")})) == ["2"]


@pytest.fixture
def app() -> Iterator[App]:
    with memory_app() as made:
        made.task(name="told")(lambda: None)
        made.task(name="quiet", ignore_result=True)(lambda: None)
        made.task(name="errors", ignore_result=True, store_errors_even_if_ignored=True)(lambda: None)
        yield made


def unreached(app: App, *, enabled: bool = True) -> Unreached:
    config = app.conf.resolve()
    return Unreached(app, config, ResultWriter(config, app.client.table, enabled=enabled, node="n"))


@pytest.mark.parametrize(
    ("step", "ignored", "state", "is_stored"),
    [
        (sig("told", "2"), True, "FAILURE", True),
        (sig("quiet", "2"), False, "FAILURE", False),
        (sig("quiet", "2", ignore_result=False), True, "FAILURE", True),
        (sig("told", "2", ignore_result=True), False, "FAILURE", False),
        (sig("told", "2", ignore_result=False, headers={"ignore_result": True}), False, "FAILURE", False),
        (sig("errors", "2"), False, "FAILURE", True),
        (sig("errors", "2"), False, "REVOKED", False),
        (sig("elsewhere", "2"), False, "FAILURE", True),
        (sig("elsewhere", "2"), True, "FAILURE", False),
        (sig("elsewhere", "2", ignore_result=False), True, "FAILURE", True),
    ],
)
def test_a_step_that_ignores_its_result_gets_none(
    app: App, step: dict[str, Any], ignored: bool, state: str, is_stored: bool
) -> None:
    made = unreached(app).after([step], ValueError("no"), state, ignored=ignored)
    assert bool(made) is is_stored


def test_the_result_says_what_became_of_the_task_that_failed(app: App) -> None:
    try:
        raise ValueError("no")
    except ValueError as raised:
        error, einfo = raised, ExceptionInfo(raised)
    chain = [sig("told", "3", reply_to="mine"), sig("told", "2", group_id="g")]
    found = unreached(app).after(chain, error, einfo=einfo, reply_to="theirs")
    assert [(one.key, one.final, one.reply_to) for one in found] == [
        ("2", True, "theirs"),
        ("3", True, "mine"),
    ]
    documents = [decode(one.document, app.client.table.by_name("json")) for one in found]
    assert [(one.status, one.task_id, one.group_id) for one in documents] == [
        ("FAILURE", "2", "g"),
        ("FAILURE", "3", None),
    ]
    assert documents[0].result == {"exc_type": "ValueError", "exc_message": ["no"], "exc_module": "builtins"}
    assert "ValueError: no" in str(documents[1].traceback)


def test_without_results_nothing_is_made(app: App) -> None:
    assert unreached(app, enabled=False).after([sig("told", "2")], ValueError()) == ()


# -- reading it of a message ----------------------------------------------------------------------


@pytest.mark.parametrize("serializer", ["json", "msgpack"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_the_chain_of_a_message_can_be_read_whatever_its_form(
    app: App, serializer: str, compression: str | None
) -> None:
    app.conf.accept_content = ["json", "msgpack"]
    draft = TaskDraft(task="t", id="1", chain=[sig("b", "2")], serializer=serializer, compression=compression)
    table = app.client.table_for(serializer)
    (step,) = chain_of(encode_task(draft, table), table)
    assert step["options"] == {"task_id": "2"}


CHAIN = '{"callbacks": null, "errbacks": null, "chain": [%s], "chord": null}'
STEP = '{"task": "b", "options": {"task_id": "2"}}'


def read_from(app: App, body: str, **headers: Any) -> list[Any]:
    parts = good_parts()
    parts["headers"].update(headers)
    return chain_of(document_of(parts, body.encode()), app.client.table)


@pytest.mark.parametrize("headers", [{"eta": "never"}, {"timelimit": "x"}, {"id": None}, {"retries": -1}])
def test_the_chain_of_a_message_with_a_wrong_header_can_be_read(app: App, headers: dict[str, Any]) -> None:
    (step,) = read_from(app, f"[[], {{}}, {CHAIN % STEP}]", **headers)
    assert step["options"]["task_id"] == "2"


@pytest.mark.parametrize("body", [f"[7, 7, {CHAIN % STEP}]", f"[[], {{}}, {CHAIN % (STEP + ', 3')}]"])
def test_the_chain_of_a_message_with_wrong_arguments_can_be_read(app: App, body: str) -> None:
    (step,) = read_from(app, body)
    assert step["task"] == "b"


@pytest.mark.parametrize(
    "body", ["[]", "7", "{}", "[[], {}, 7]", "[[], {}, null]", '[[], {}, {"chain": 3}]', "[["]
)
def test_what_has_no_chain_has_none(app: App, body: str) -> None:
    assert read_from(app, body) == []


@pytest.mark.parametrize("bad", bad_messages(), ids=lambda bad: bad.name)
def test_no_bytes_keep_it_from_being_looked_for(app: App, bad: Bad) -> None:
    assert all(isinstance(step, dict) for step in chain_of(bad.document, app.client.table))


# -- eagerly --------------------------------------------------------------------------------------


@pytest.fixture
def eager(app: App) -> App:
    app.conf.task_always_eager = True

    @app.task(name="bad")
    def bad(value: Any = None) -> None:
        raise LookupError("bad")

    @app.task(name="refused", bind=True)
    def refused(self: Any, value: Any = None) -> None:
        raise Reject("not for me")

    @app.task(name="passes")
    def passes(value: Any = None) -> Any:
        return value

    return app


@pytest.mark.parametrize(("name", "kind"), [("bad", LookupError), ("refused", Reject)])
def test_eagerly_the_rest_of_a_chain_ends_as_the_step_that_failed(
    eager: App, name: str, kind: type[Exception]
) -> None:
    passes = eager.tasks["passes"]
    result = (passes.s(1) | eager.tasks[name].s() | passes.s() | passes.s()).delay()
    with pytest.raises(kind):
        result.get(timeout=1)
    assert [one.state for one in (result, result.parent, result.parent.parent)] == ["FAILURE"] * 3
    assert result.parent.parent.parent.get() == 1


def test_eagerly_the_rest_of_a_chain_is_stored_where_eager_results_are(eager: App) -> None:
    eager.conf.update(task_store_eager_result=True, result_backend=eager.conf.broker_url)
    result = (eager.tasks["bad"].s() | eager.tasks["passes"].s() | eager.tasks["quiet"].si()).delay()
    found = [eager.AsyncResult(one.id).state for one in (result.parent.parent, result.parent, result)]
    assert found == ["FAILURE", "FAILURE", "PENDING"], "the last one ignores its result"


def test_eagerly_a_message_that_no_worker_would_read_ends_its_chain(eager: App) -> None:
    passes = eager.tasks["passes"]
    result = (passes.s(1).set(serializer="msgpack") | passes.s()).delay()
    assert [result.state, result.parent.state] == ["FAILURE", "FAILURE"]
    assert type(result.result) is type(result.parent.result)

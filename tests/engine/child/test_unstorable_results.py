"""A result that cannot be stored is a failure for all who are told of the task, not for its store alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from prefork.engine import Task, signals
from prefork.engine.app import App
from prefork.engine.execution import Interrupted
from prefork.engine.result_document import ResultDocument, decode
from prefork.engine.scoreboard import C_BODY, Slot
from support.apps import sent
from support.one_async_child import Side
from support.one_child import OneChild

SENT = ("task_success", "task_failure", "task_retry", "task_postrun", "task_internal_error")
HOOKS = ("on_success", "on_failure", "on_retry", "after_return")
WAYS = ("plain", "coroutine", "beside", "eager")

Run = Callable[[str, Callable[[], Any]], Any]


class Opaque:
    """What no serializer has a form for."""


class Counted:
    """Has a form, and counts how often somebody asks for it."""

    def __init__(self, made: Any = "made", raises: BaseException | None = None) -> None:
        self.asked = 0
        self._made = made
        self._raises = raises

    def __json__(self) -> Any:
        self.asked += 1
        if self._raises is not None:
            raise self._raises
        return self._made


@pytest.fixture
def events() -> list[Any]:
    """What hooks and receivers were told, in order."""
    return []


@pytest.fixture
def listening(events: list[Any]) -> Iterator[Callable[..., None]]:
    """Connects receivers that write down what they are told."""
    with ExitStack() as stack:

        def connect(*names: str) -> None:
            for name in names:
                one: signals.Signal = getattr(signals, name)

                def receiver(name: str = name, **about: Any) -> None:
                    told = about.get("exception", about.get("retval", about.get("result")))
                    events.append((name, about.get("state"), type(told).__name__))

                one.connect(receiver, weak=False)
                stack.callback(one.disconnect, receiver)

        yield connect


@pytest.fixture
def base(events: list[Any]) -> type[Task[Any, Any]]:
    """Tasks whose hooks write down that they were called."""

    class Hooked(Task[Any, Any]):
        abstract = True
        __module__ = "hooked"

    for hook in HOOKS:

        def called(self: Any, *values: Any, hook: str = hook) -> None:
            state, told = (values[0], values[1]) if hook == "after_return" else (None, values[0])
            events.append((hook, state, type(told).__name__))

        setattr(Hooked, hook, called)
    return Hooked


@pytest.fixture
def slots() -> list[Slot]:
    """Those of the children that were made."""
    return []


@pytest.fixture
def run(app: App, slots: list[Slot], child_of: Callable[..., OneChild], side_of: Callable[..., Side]) -> Run:
    """Defines a task and has it run in one of `WAYS`; returns its result."""

    def run(way: str, body: Callable[[], Any], **options: Any) -> Any:
        async def awaited() -> Any:
            return body()

        task = app.task(name="t", **options)(body if way in ("plain", "eager") else awaited)
        app.conf.task_always_eager = way == "eager"
        result = task.delay()
        app.conf.task_always_eager = False
        if way == "beside":
            side = side_of()
            slots.append(side.child.slot)
            side.run()
        elif way != "eager":
            child = child_of(app)
            slots.append(child.slot)
            child.run()
            child.parts.driver.close()
        return result

    return run


def stored(app: App, task_id: str) -> ResultDocument:
    document = app.client.results.get([task_id])[0]
    assert document is not None
    return decode(document, app.client.table.by_name("json"))


FAILURE = ["on_failure", "task_failure", "after_return", "task_postrun"]


@pytest.mark.parametrize(
    ("value", "error"),
    [(Opaque(), "EncodeError"), ("x" * 60_000, "BackendStoreError")],
    ids=["opaque", "large"],
)
@pytest.mark.parametrize("way", WAYS)
def test_what_cannot_be_stored_is_announced_as_the_failure_that_is_stored(
    app: App, run: Run, base: Any, events: list[Any], listening: Any, way: str, value: Any, error: str
) -> None:
    app.conf.result_max_bytes = 50_000
    listening(*SENT)
    result = run(way, lambda: value, base=base)
    assert events == [(name, "FAILURE" if name in FAILURE[2:] else None, error) for name in FAILURE]
    assert result.state == "FAILURE"
    if way != "eager":
        assert stored(app, result.id).result["exc_type"] == error


@pytest.mark.parametrize("way", WAYS)
def test_receivers_hear_of_it_where_the_task_has_no_hooks(
    run: Run, events: list[Any], listening: Any, way: str
) -> None:
    listening("task_failure")
    run(way, Opaque)
    assert events == [("task_failure", None, "EncodeError")]


@pytest.mark.parametrize("way", WAYS)
def test_it_is_not_retried_by_itself(run: Run, events: list[Any], listening: Any, way: str) -> None:
    listening(*SENT)
    run(way, Opaque, autoretry_for=(Exception,), max_retries=3)
    assert [name for name, *_ in events] == ["task_failure", "task_postrun"]


@pytest.mark.parametrize("way", WAYS)
def test_a_result_that_is_ignored_need_not_be_storable(
    run: Run, events: list[Any], listening: Any, way: str
) -> None:
    listening(*SENT)
    value = Counted(raises=ValueError("no form"))
    run(way, lambda: value, ignore_result=True)
    assert [name for name, *_ in events] == ["task_success", "task_postrun"]
    assert value.asked == 0


@pytest.mark.parametrize("told", [(), ("task_failure",), ("task_success",), ("task_postrun",), SENT])
@pytest.mark.parametrize("way", WAYS)
def test_a_value_is_encoded_once_whoever_is_told_of_it(
    app: App, run: Run, listening: Any, way: str, told: tuple[str, ...]
) -> None:
    listening(*told)
    value = Counted()
    result = run(way, lambda: value)
    assert value.asked == 1
    assert result.get(timeout=5) == "made"


@pytest.mark.parametrize("way", WAYS)
def test_a_value_is_encoded_once_for_a_task_with_hooks(run: Run, base: Any, way: str) -> None:
    value = Counted()
    assert run(way, lambda: value, base=base).get(timeout=5) == "made"
    assert value.asked == 1


@pytest.mark.parametrize(
    ("way", "raised", "kind"),
    [
        *((way, ValueError("no form"), "EncodeError") for way in WAYS),
        # To who calls eagerly this would be passed on.
        *((way, SystemExit(3), "SystemExit") for way in WAYS if way != "eager"),
    ],
)
def test_whatever_encoding_raises_is_announced_as_the_failure_that_is_stored(
    app: App, run: Run, events: list[Any], listening: Any, way: str, raised: BaseException, kind: str
) -> None:
    listening(*SENT)
    run(way, lambda: Counted(raises=raised))
    assert events == [("task_failure", None, kind), ("task_postrun", "FAILURE", kind)]


@pytest.mark.parametrize("way", ["plain", "coroutine", "beside"])
def test_no_soft_limit_is_raised_in_what_encodes_a_value(
    run: Run, listening: Any, slots: list[Slot], way: str
) -> None:
    listening("task_success")
    seen: list[tuple[int, int]] = []

    class Looking:
        def __json__(self) -> Any:
            (slot,) = slots
            seen.append((before, slot.words[C_BODY]))

    def body() -> Any:
        nonlocal before
        before = slots[0].words[C_BODY]
        return Looking()

    before = 0
    run(way, body)
    assert seen == [(1, 0)]


def test_a_worker_that_leaves_while_it_is_encoded_gives_it_back_and_tells_nobody(
    app: App, run: Run, events: list[Any], listening: Any
) -> None:
    listening(*SENT)
    left: list[BaseException] = [Interrupted("the worker leaves")]
    run("plain", lambda: Counted(raises=left.pop()) if left else Counted())
    # It came again, to the same child.
    assert [name for name, *_ in events] == ["task_success", "task_postrun"]


def test_what_a_hook_sends_is_among_the_children_of_a_result(app: App, run: Run, base: Any) -> None:
    @app.task(name="child")
    def child() -> None:
        """Is sent."""

    def on_success(self: Any, *_: Any) -> None:
        child.apply_async(queue="elsewhere")

    base.on_success = on_success
    result = run("plain", lambda: 1, base=base)
    assert len(sent(app, "elsewhere")) == 1
    assert len(stored(app, result.id).children) == 1


def test_a_task_that_keeps_no_results_has_nothing_to_encode(
    app: App, run: Run, events: list[Any], listening: Any
) -> None:
    app.conf.result_backend = None
    listening(*SENT)
    run("plain", Opaque)
    assert [name for name, *_ in events] == ["task_success", "task_postrun"]


@pytest.mark.parametrize("told", [(), SENT])
def test_the_rest_of_its_chain_fails_with_it(
    app: App, child_of: Callable[..., OneChild], listening: Any, told: tuple[str, ...]
) -> None:
    @app.task(name="opaque")
    def opaque() -> Any:
        return Opaque()

    @app.task(name="after")
    def after(value: Any) -> Any:
        return value

    listening(*told)
    result = (opaque.s() | after.s()).delay()
    child_of(app).run()
    assert (stored(app, result.parent.id).status, stored(app, result.id).status) == ("FAILURE", "FAILURE")

"""Eager calls and the real pipeline agree: the same runs, hooks, signals, links and values, in one order.

What they cannot agree in is listed in docs/how-to/test-your-tasks.md, and left out of what is compared.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefork.engine import App, Task, signals
from prefork.engine.exceptions import Ignore, Reject, RemoteTaskError, Retry, Snooze
from prefork.engine.testing import ThreadWorker, start_worker, temporary_app
from prefork.serializers.base import EncodeError

ERRORS = {error.__name__: error for error in (ValueError, KeyError, LookupError, ArithmeticError)}
SENT = ("task_prerun", "task_postrun", "task_success", "task_failure", "task_retry", "task_internal_error")

ID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")

REPLACEMENTS: dict[str, Callable[[Any, Any], Any]] = {
    "replace": lambda tasks, what: tasks["grow"].s(what, 0),
    "replace by a chain": lambda tasks, what: tasks["grow"].s(what, 0) | tasks["grow"].s(1),
    "replace by what fails": lambda tasks, what: tasks["hooked"].s([[("raise", what)]]),
}

Attempt = list[Any]
"""What one attempt does: states it stores on the way, and how it ends."""


class Journal:
    """What happens in one run of a program, in order."""

    def __init__(self) -> None:
        self.lines: list[Any] = []

    def add(self, *line: Any) -> None:
        self.lines.append(ID.sub("ID", repr(line)))

    def on_signal(self, name: str) -> Any:
        def receive(sender: Any = None, **fields: Any) -> None:
            shown = [fields.get(key) for key in ("state", "retval", "result")]
            for key in ("exception", "reason"):
                if key in fields:
                    shown.append(type(fields[key]).__name__)
            self.add(
                name, sender.name, *(type(v).__name__ if isinstance(v, BaseException) else v for v in shown)
            )

        return receive


class Hooked(Task[..., Any]):
    """A task whose hooks write down that they were called."""

    abstract = True
    journal: Journal

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        self.journal.add("before_start", self.name, self.request.retries, args, kwargs)

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        self.journal.add("on_success", self.name, retval)

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        self.journal.add("on_failure", self.name, repr(exc), einfo is not None)

    def on_retry(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        self.journal.add("on_retry", self.name, repr(exc), einfo is not None)

    def after_return(
        self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any
    ) -> None:
        self.journal.add("after_return", self.name, status, repr(retval), einfo is not None)


def _awaited(name: str) -> Any:
    async def hook(self: Any, *values: Any) -> None:
        await asyncio.sleep(0)
        getattr(Hooked, name)(self, *values)

    return hook


class AsyncHooked(Hooked):
    """The same with hooks that are coroutines."""

    abstract = True
    before_start = _awaited("before_start")
    on_success = _awaited("on_success")
    on_failure = _awaited("on_failure")
    on_retry = _awaited("on_retry")
    after_return = _awaited("after_return")


class Scene:
    """An app whose tasks are programs, called through a worker or eagerly."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.journal = Journal()
        Hooked.journal = self.journal

        def play(self_: Any, attempts: list[Attempt], *passed: Any, **named: Any) -> Any:
            request = self_.request
            self.journal.add(
                "body", self_.name, request.retries, passed, named, bool(request.called_directly)
            )
            *states, (how, what) = attempts[min(request.retries, len(attempts) - 1)]
            for state in states:
                self_.update_state(state=state, meta={"at": state})
            return _end(self_, how, what)

        async def play_later(self_: Any, *args: Any, **kwargs: Any) -> Any:
            await asyncio.sleep(0)
            return play(self_, *args, **kwargs)

        hooked = {"bind": True, "base": Hooked}
        self.tasks = {
            "plain": app.task(name="plain", bind=True, max_retries=2, default_retry_delay=0)(play),
            "hooked": app.task(name="hooked", max_retries=1, default_retry_delay=0, **hooked)(play),
            "async": app.task(
                name="async", max_retries=1, default_retry_delay=0, bind=True, base=AsyncHooked
            )(play_later),
            "auto": app.task(
                name="auto",
                autoretry_for=(LookupError,),
                dont_autoretry_for=(KeyError,),
                retry_backoff=0.001,
                retry_jitter=False,
                max_retries=2,
                **hooked,
            )(play),
            "tolerant": app.task(name="tolerant", throws=(ValueError,), max_retries=0, **hooked)(play),
        }

        @app.task(name="note", ignore_result=True)
        def note(*args: Any) -> None:
            self.journal.add("note", args)

        @app.task(name="explain", ignore_result=True)
        def explain(request: Any, exc: BaseException, trace: str | None, mark: str) -> None:
            self.journal.add("explain", mark, request.task, repr(exc), bool(trace))

        @app.task(name="grow")
        def grow(value: Any, by: Any) -> Any:
            self.journal.add("grow", value, by)
            return [value, by]

        self.note, self.explain, self.grow = note, explain, grow

    def outcome(self, result: Any, eager: bool) -> Any:
        if result.state in ("SUCCESS", "FAILURE"):
            value = result.result
            shown = ID.sub("ID", _shown(value))
            return result.state, shown, bool(result.traceback)
        # Ignored, rejected, or a state that the task stored itself: nobody waits for those.
        return None


def _shown(value: Any) -> str:
    """A value, or an exception: one that only its worker can make is told by its name."""
    if isinstance(value, (RemoteTaskError, EncodeError)):
        return getattr(value, "type_name", type(value).__name__).rpartition(".")[2]
    return repr(value)


class Opaque:
    """What no serializer has a form for."""

    def __repr__(self) -> str:
        return "<opaque>"


def _end(task: Any, how: str, what: Any) -> Any:
    if how == "return":
        return what
    if how == "raise":
        raise ERRORS[what]("because")
    if how == "retry":
        raise task.retry(countdown=0, exc=None if what is None else ERRORS[what]("again"))
    if how == "retry with":
        raise task.retry(countdown=0, args=(task.request.args[0], "changed"), kwargs={"by": what})
    if how == "retry and return":
        task.retry(countdown=0, throw=False)
        return what
    if how == "return opaque":
        return Opaque()
    if how == "retry with opaque":
        raise task.retry(countdown=0, args=(Opaque(),))
    if how in REPLACEMENTS:
        task.replace(REPLACEMENTS[how](task.app.tasks, what))
    if how == "snooze":
        if task.request.snoozes < 2:
            raise Snooze(0)
        return what
    if how == "raise Retry":
        raise Retry("by hand")
    raise {"ignore": Ignore, "reject": Reject}[how]("no")


values = st.one_of(
    st.none(), st.integers(-9, 9), st.text("ab", max_size=3), st.just((1, (2, 3))), st.just({"a": (1,)})
)
errors = st.sampled_from(sorted(ERRORS))
ends = st.one_of(
    st.tuples(st.just("return"), values),
    st.tuples(st.just("raise"), errors),
    st.tuples(st.just("retry"), st.one_of(st.none(), errors)),
    st.tuples(st.just("retry with"), st.integers(0, 3)),
    st.tuples(st.sampled_from(["snooze", "retry and return", "replace", "replace by a chain"]), values),
    st.tuples(st.just("replace by what fails"), errors),
    st.tuples(st.sampled_from(["raise Retry", "return opaque", "retry with opaque"]), st.none()),
    st.tuples(st.sampled_from(["ignore", "reject"]), st.none()),
)
attempts = st.tuples(st.lists(st.sampled_from(["SEARCHING", "HALFWAY"]), max_size=2), ends).map(
    lambda a: [*a[0], a[1]]
)
programs = st.fixed_dictionaries(
    {
        "task": st.sampled_from(["plain", "hooked", "async", "auto", "tolerant"]),
        "attempts": st.lists(attempts, min_size=1, max_size=3),
        "links": st.lists(st.sampled_from(["note", "note immutable"]), max_size=2),
        "errbacks": st.lists(st.sampled_from(["note", "explain"]), max_size=2),
        "chain": st.booleans(),
        "ignored": st.sampled_from([None, False, True]),
    }
)


@pytest.fixture(scope="module")
def app() -> Iterator[App]:
    with temporary_app(config={"task_eager_propagates": False, "worker_prefetch_multiplier": 1}) as made:
        yield made


@pytest.fixture(scope="module")
def scene(app: App) -> Scene:
    return Scene(app)


@pytest.fixture(scope="module")
def worker(app: App, scene: Scene) -> Iterator[ThreadWorker]:
    with start_worker(app) as running:
        yield running


def call(scene: Scene, program: dict[str, Any]) -> Any:
    links = {
        "note": scene.note.s(),
        "note immutable": scene.note.si("fixed"),
        "explain": scene.explain.s("seen"),
    }
    options: dict[str, Any] = {
        "link": [links[name] for name in program["links"]] or None,
        "link_error": [links[name] for name in program["errbacks"]] or None,
        "headers": {"trace": "abc"},
    }
    if program["ignored"] is not None:
        options["ignore_result"] = program["ignored"]
    task = scene.tasks[program["task"]]
    if program["chain"]:
        return (task.s(program["attempts"]).set(**options) | scene.grow.s(1)).apply_async()
    return task.apply_async((program["attempts"], "passed"), {"by": 0}, **options)


def journal_of(scene: Scene, program: dict[str, Any], worker: ThreadWorker | None) -> tuple[list[Any], Any]:
    scene.journal.lines.clear()
    receivers = [(getattr(signals, name), scene.journal.on_signal(name)) for name in SENT]
    for signal, receiver in receivers:
        signal.connect(receiver, weak=False)
    try:
        result = call(scene, program)
        if worker is not None:
            worker.drain(20)
    finally:
        for signal, receiver in receivers:
            signal.disconnect(receiver)
    if program["ignored"]:
        return list(scene.journal.lines), None
    return list(scene.journal.lines), scene.outcome(result, worker is None)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(program=programs)
def test_a_program_runs_alike_in_both(scene: Scene, worker: ThreadWorker, program: dict[str, Any]) -> None:
    real = journal_of(scene, program, worker)
    scene.app.conf.task_always_eager = True
    try:
        eager = journal_of(scene, program, None)
    finally:
        scene.app.conf.task_always_eager = False
    assert "\n".join(eager[0]) == "\n".join(real[0])
    assert eager[1] == real[1]

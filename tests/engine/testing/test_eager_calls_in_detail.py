"""One project, called eagerly and through the pipeline: what each case tells of itself is the same."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any

import pytest

from prefork.engine import App, Task, signals
from prefork.engine.exceptions import RemoteTaskError
from prefork.engine.message import MalformedMessage
from prefork.engine.testing import ThreadWorker, start_worker, temporary_app
from prefork.serializers.base import EncodeError

LATER = datetime(2100, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
LONG_AGO = datetime(2001, 1, 1, tzinfo=timezone.utc)
OUTSIDE_S = 20.0
IDS = ("call", "outer", "first", "second", "last", "step-0", "inner-0", "inner-1", "callback", "errback")
SENT = ("task_prerun", "task_postrun", "task_success", "task_failure", "task_retry")
FIELDS = (
    "args kwargs retries called_directly root_id parent_id group group_index chain callbacks errbacks "
    "timelimit time_limit soft_time_limit expires eta headers ignore_result shadow replaced_task_nesting "
    "correlation_id utc reply_to stamps stamped_headers priority redelivered snoozes"
).split()


class Telling(Task[..., Any]):
    """A task whose hooks write down that they were called, and with what."""

    abstract = True
    told: list[Any]

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        self.told.append(("before_start", self.name, task_id, args, kwargs))

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        self.told.append(("on_success", self.name, task_id, retval, args, kwargs))

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        self.told.append(("on_failure", self.name, task_id, repr(exc), args, kwargs))

    def after_return(
        self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any
    ) -> None:
        self.told.append(("after_return", self.name, task_id, status, repr(retval), args, kwargs))


class Project:
    """Tasks that tell of themselves what somebody may rely on."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.tasks = app.tasks
        self.told: list[Any] = []
        Telling.told = self.told
        self.plain_tasks()
        self.replaced_tasks()
        self.asking_tasks()

    def plain_tasks(self) -> None:
        @self.app.task(name="pair", base=Telling)
        def pair(x: Any) -> Any:
            return x, x

        @self.app.task(name="kind", base=Telling)
        def kind(x: Any) -> str:
            return type(x).__name__

        @self.app.task(name="broken", base=Telling)
        def broken(*args: Any) -> None:
            raise ValueError("broken")

        @self.app.task(name="leaves", base=Telling)
        def leaves() -> None:
            sys.exit(3)

        @self.app.task(name="leaves-later", base=Telling)
        async def leaves_later() -> None:
            await asyncio.sleep(0)
            sys.exit(3)

        @self.app.task(name="note", ignore_result=True)
        def note(*args: Any) -> None:
            self.told.append(("note", args))

    def replaced_tasks(self) -> None:
        @self.app.task(name="replaced", bind=True, base=Telling)
        def replaced(self_: Any, by: Any) -> Any:
            self_.replace(self.app.signature(by))
            self.told.append("nothing after the call runs")

        @self.app.task(name="replaced-later", bind=True, base=Telling)
        async def replaced_later(self_: Any, by: Any) -> Any:
            await asyncio.sleep(0)
            self_.replace(self.app.signature(by))

        @self.app.task(name="opaque", bind=True, base=Telling)
        def opaque(self_: Any) -> Any:
            self_.replace(self.tasks["pair"].s(object()))

    def asking_tasks(self) -> None:
        @self.app.task(name="request", bind=True, max_retries=1)
        def request(self_: Any, *args: Any, again: bool = False) -> Any:
            self.tell_request(self_.request)
            if again and not self_.request.retries:
                self_.retry(eta=LONG_AGO, expires=LATER, headers={"more": 1})

        @self.app.task(
            name="careful", bind=True, expires=LATER, ignore_result=True, time_limit=9, soft_time_limit=7
        )
        def careful(self_: Any) -> None:
            self.tell_request(self_.request)

        @self.app.task(name="parent", bind=True, priority=3)
        def parent(self_: Any) -> Any:
            request.apply_async((1,), task_id="first")
            (pair(self).set(task_id="step-0") | self.tasks["kind"].s()).apply_async(task_id="last")
            request.apply_async((2,), task_id="second", add_to_parent=False)
            self.told.append([child.id for child in self_.request.children])

    def tell_request(self, request: Any) -> None:
        self.told.append({name: _plain(getattr(request, name)) for name in FIELDS})
        self.told.append({**request.delivery_info, "is_eager": None})


def _plain(value: Any) -> Any:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [{key: one[key] for key in ("task", "args")} for one in value]
    return value


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    settings = {
        "task_eager_propagates": False,
        "task_payload_max_bytes": 20_000,
        "task_inherit_parent_priority": True,
    }
    with temporary_app(config=settings) as app:
        yield Project(app)


@pytest.fixture(scope="module")
def worker(project: Project) -> Iterator[ThreadWorker]:
    with start_worker(project.app) as running:
        yield running


Call = Callable[[Project], Any]


def seen(project: Project, call: Call, worker: ThreadWorker | None) -> Any:
    """What happens, in an order that does not depend on when a worker comes to it, and its result."""
    project.told.clear()
    project.app.client.stored.forget(IDS)
    receivers = [(getattr(signals, name), _receiver(project, name)) for name in SENT]
    for signal, receiver in receivers:
        signal.connect(receiver, weak=False)
    project.app.conf.task_always_eager = worker is None
    try:
        result = call(project)
        if worker is not None:
            worker.drain(OUTSIDE_S)
    finally:
        project.app.conf.task_always_eager = False
        for signal, receiver in receivers:
            signal.disconnect(receiver)
    if result.name == "careful":  # an ignored result can be read where it was made
        return list(project.told), result.id
    return list(project.told), result.id, result.state, _shown(result.result)


def _receiver(project: Project, name: str) -> Callable[..., None]:
    def receive(sender: Any = None, **fields: Any) -> None:
        project.told.append((name, sender.name, fields.get("task_id"), fields.get("state")))

    return receive


def _shown(value: Any) -> str:
    """A value, or an exception: one that only its worker can make is told by its name."""
    if isinstance(value, (RemoteTaskError, EncodeError)):
        return getattr(value, "type_name", type(value).__name__).rpartition(".")[2]
    return str(value) if isinstance(value, MalformedMessage) else repr(value)


def call(name: str, *args: Any, **options: Any) -> Call:
    return lambda project: project.tasks[name].apply_async(args, task_id="call", **options)


def replaced(make: Call, name: str = "replaced", **options: Any) -> Call:
    return lambda project: project.tasks[name].apply_async(
        (dict(make(project)),), task_id="outer", **{key: value(project) for key, value in options.items()}
    )


def middle_of_a_chain(project: Project) -> Any:
    by = (project.tasks["pair"].s(1) | project.tasks["pair"].s()).clone()
    for number, step in enumerate(by.tasks):
        step.set(task_id=f"inner-{number}")
    steps = project.tasks["replaced"].si(dict(by)).set(task_id="outer") | project.tasks["kind"].s()
    return steps.apply_async(task_id="last")


def pair(project: Project) -> Any:
    return project.tasks["pair"].s(1)


def chain_of(*names: str) -> Call:
    """A chain whose steps before the last one bear their numbers as ids."""

    def make(project: Project) -> Any:
        first, *others = names
        steps = [project.tasks[first].s(1), *(project.tasks[name].s() for name in others)]
        for number, step in enumerate(steps[:-1]):
            step.set(task_id=f"step-{number}")
        signature = steps[0]
        for step in steps[1:]:
            signature = signature | step
        return signature

    return make


CASES: dict[str, Call] = {
    "replaced by a task": replaced(pair),
    "replaced by a chain, its values": replaced(chain_of("pair", "kind")),
    "replaced by what fails": replaced(lambda p: p.tasks["broken"].s(1)),
    "replaced by a chain that fails at its end": replaced(chain_of("pair", "broken")),
    "replaced by a chain that fails before its end": replaced(chain_of("broken", "pair")),
    "replaced, with callbacks": replaced(pair, link=lambda p: [p.tasks["note"].s().set(task_id="callback")]),
    "replaced by what fails, with error callbacks": replaced(
        lambda p: p.tasks["broken"].s(1), link_error=lambda p: [p.tasks["note"].s().set(task_id="errback")]
    ),
    "replaced by what is replaced": replaced(lambda p: p.tasks["replaced"].s(dict(pair(p)))),
    "replaced in the middle of a chain": middle_of_a_chain,
    "a coroutine that is replaced": replaced(pair, name="replaced-later"),
    "replaced by what cannot be sent": call("opaque"),
    "a countdown that is over": call("kind", 1, countdown=-1),
    "a countdown of nothing": call("kind", 1, countdown=0),
    "content that no worker of this configuration reads": call("kind", 1, serializer="msgpack"),
    "leaves its process": call("leaves"),
    "a coroutine that leaves its process": call("leaves-later"),
    "leaves its process, with error callbacks": lambda p: p.tasks["leaves"].apply_async(
        task_id="call", link_error=p.tasks["note"].s().set(task_id="errback")
    ),
    "leaves its process, in a chain": lambda p: (
        p.tasks["leaves"].s().set(task_id="step-0") | p.tasks["kind"].s()
    ).apply_async(task_id="last"),
    "a plain request": call("request", 1),
    "a request with options": call(
        "request",
        (1, 2),
        expires=LATER,
        ignore_result=False,
        headers={"trace": "abc"},
        shadow="shown",
        priority=4,
        time_limit=30,
        soft_time_limit=20,
        compression="zlib",
    ),
    "a request that expires by its task": call("careful"),
    "a request that is tried again": lambda p: p.tasks["request"].apply_async(
        (1,), {"again": True}, task_id="call", headers={"trace": "abc"}, time_limit=30
    ),
    "what a task has sent": call("parent"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_case_is_the_same_eagerly_and_through_the_pipeline(
    project: Project, worker: ThreadWorker, case: str
) -> None:
    eager, real = seen(project, CASES[case], None), seen(project, CASES[case], worker)
    if case == "what a task has sent":  # a worker comes to it later
        for told, *_ in (eager, real):
            told.sort(key=repr)
    assert eager == real


REFUSED: dict[str, dict[str, Any]] = {
    "expires": {"expires": "nonsense"},
    "compression": {"compression": "nope"},
    "size": {"args": ("x" * 30_000,)},
    "countdown": {"countdown": "soon"},
    "eta": {"eta": 5},
    "priority": {"priority": "high"},
    "headers": {"headers": "none"},
    "link": {"link": [1]},
    "delivery mode": {"delivery_mode": "by hand"},
    "serializer": {"serializer": "nope"},
    "time limits": {"time_limit": 1, "soft_time_limit": 2},
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_sent_is_refused_in_an_eager_call_as_well(project: Project, what: str) -> None:
    options = {"args": (1,), **REFUSED[what]}
    errors: list[Any] = []
    for eager in (False, True):
        project.told.clear()
        project.app.conf.task_always_eager = eager
        try:
            with pytest.raises(Exception) as refused:
                project.tasks["kind"].apply_async(**options)
        finally:
            project.app.conf.task_always_eager = False
        assert project.told == [], "nothing has run"
        errors.append((refused.type, str(refused.value)))
    assert errors[0] == errors[1]

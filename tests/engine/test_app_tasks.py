"""Tasks of an app: their names, their registry, annotations, and when an app is finalised."""

from __future__ import annotations

import pickle
import sys
import types
from typing import Any

import pytest

from prefork.engine.app import App
from prefork.engine.exceptions import DuplicateTaskNameWarning, ImproperlyConfigured, NotRegistered
from prefork.engine.schedules import crontab
from prefork.engine.task import Task
from support.apps import memory_app

pytestmark = pytest.mark.usefixtures("current_app_is_put_back")


# --- tasks and their names --------------------------------------------------------------------------


def add(x: int, y: int) -> int:
    """Add two numbers."""
    return x + y


def test_a_function_becomes_a_task_named_after_its_module() -> None:
    with memory_app() as app:
        task = app.task(add)
        assert task.name == f"{__name__}.add"
        assert app.tasks[task.name] is task
        assert isinstance(task, Task)
        assert task.__doc__ == "Add two numbers."
        assert task(2, 3) == 5
        assert repr(task) == f"<@task: {__name__}.add of proj>"


def test_the_decorator_takes_options() -> None:
    with memory_app() as app:

        @app.task(name="named", max_retries=7, anything="mine")
        def f() -> None: ...

        assert f.name == "named"
        assert f.max_retries == 7
        assert f.anything == "mine"  # type: ignore[attr-defined]


def test_a_bound_task_receives_itself() -> None:
    with memory_app() as app:

        @app.task(bind=True)
        def f(self: Any, x: int) -> Any:
            return self, x

        assert f(4) == (f, 4)


def test_a_task_of_a_script_is_named_after_the_app() -> None:
    with memory_app("shop") as app:
        assert app.gen_task_name("f", "__main__") == "shop.f"
        assert app.gen_task_name("f", "__mp_main__") == "shop.f"
        assert app.gen_task_name("f", "pkg.mod") == "pkg.mod.f"


def test_a_task_of_a_script_without_an_app_name_is_named_as_others_would_import_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    main = types.ModuleType("__main__")
    main.__file__ = "/somewhere/jobs.py"
    monkeypatch.setitem(sys.modules, "__main__", main)
    with memory_app(None) as app:
        assert app.gen_task_name("f", "__main__") == "jobs.f"
        main.__spec__ = types.SimpleNamespace(name="pkg.mod")  # type: ignore[assignment]
        assert app.gen_task_name("f", "__main__") == "pkg.mod.f"
        main.__spec__ = types.SimpleNamespace(name="pkg.__main__")  # type: ignore[assignment]
        assert app.gen_task_name("f", None) == "pkg.f"
        monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
        assert app.gen_task_name("f", "__main__") == "__main__.f"


def test_a_class_based_task_is_registered_by_instance_or_class() -> None:
    class Double(Task[[int], int]):
        def run(self, x: int) -> int:
            return 2 * x

    class Named(Task[[int], int]):
        name = "named.task"

        def run(self, x: int) -> int:
            return 3 * x

    with memory_app() as app:
        double = app.register_task(Double(), rate_limit="1/s")
        app.register_task(Named)
        assert double.name == f"{__name__}.Double"
        assert double(4) == 8
        assert double.rate_limit == "1/s"
        assert app.tasks["named.task"](4) == 12
        with pytest.raises(TypeError, match="missing"):
            double.delay()  # type: ignore[call-arg]


def test_base_and_task_cls_are_what_tasks_derive_from() -> None:
    class Base(Task[..., Any]):
        mine = 1

    class Other(Task[..., Any]):
        mine = 2

    with memory_app(task_cls=Base) as app:
        assert isinstance(app.task(name="a")(add), Base)
        assert isinstance(app.task(name="b", base=Other)(add), Other)
        assert app.Task.mine == 1  # type: ignore[attr-defined]
        app.Task = Other
        assert isinstance(app.task(name="c")(add), Other)


def test_a_task_base_may_be_a_dotted_name() -> None:
    with memory_app(task_cls="prefork.engine.task:Task") as app:
        assert isinstance(app.task(name="a")(add), Task)


def test_a_name_that_is_taken_keeps_its_first_owner() -> None:
    with memory_app() as app:
        first = app.task(name="same")(add)
        with pytest.warns(DuplicateTaskNameWarning, match="same"):
            second = app.task(name="same")(lambda: None)
        assert second is first


def test_the_same_function_imported_again_replaces_itself() -> None:
    with memory_app() as app:
        app.task(name="same")(add)
        again = app.task(name="same")(add)
        assert app.tasks["same"] is again


def test_what_is_no_function_is_refused() -> None:
    with memory_app() as app, pytest.raises(ImproperlyConfigured, match="decorates functions"):
        app.task(3)  # type: ignore[call-overload]


def test_an_unknown_task_is_not_registered() -> None:
    with memory_app() as app, pytest.raises(NotRegistered, match="no task is registered as 'x'"):
        app.tasks["x"]


def test_the_registry_registers_and_forgets() -> None:
    with memory_app() as app:
        task = app.task(name="t")(add)
        app.tasks.unregister(task)
        with pytest.raises(NotRegistered):
            app.tasks.unregister("t")
        app.tasks.register(task)
        assert "t" in app.tasks.regular()
        assert "celery.map" not in app.tasks.regular()
        with pytest.raises(ImproperlyConfigured, match="has no name"):
            app.tasks.register(Task)


def test_a_task_without_a_body_says_so() -> None:
    class Empty(Task[..., Any]):
        name = "empty"

    with memory_app() as app:
        task = app.register_task(Empty())
        with pytest.raises(ImproperlyConfigured, match=r"no run\(\)"):
            task()


# --- configuration ----------------------------------------------------------------------------------


def test_nothing_is_configured_before_it_is_needed() -> None:
    with memory_app() as app:
        told: list[str] = []
        app.on_configure.connect(lambda sender, **_: told.append("configure"), weak=False)
        app.on_after_configure.connect(lambda sender, **_: told.append("after"), weak=False)
        app.on_after_finalize.connect(lambda sender, **_: told.append("finalize"), weak=False)
        app.task(name="t")(add)
        assert told == []
        assert app.config.task_default_queue == "celery"
        assert told == ["configure", "after"]
        app.finalize()
        app.finalize()
        assert told == ["configure", "after", "finalize"]


# --- annotations ------------------------------------------------------------------------------------


def test_annotations_override_attributes_of_tasks() -> None:
    def on_failure(self: Any, *_: Any) -> str:
        return f"annotated {self.name}"

    annotations = {"*": {"rate_limit": "1/s"}, "t": {"max_retries": 9, "on_failure": on_failure}}
    with memory_app(task_annotations=annotations) as app:
        task = app.task(name="t")(add)
        other = app.task(name="other")(add)
        app.finalize()
        late = app.task(name="late")(add)
        assert (task.rate_limit, task.max_retries) == ("1/s", 9)
        assert task.on_failure() == "annotated t"  # type: ignore[call-arg]
        assert (other.rate_limit, other.max_retries) == ("1/s", 3)
        assert late.rate_limit == "1/s"


def test_annotations_may_be_objects() -> None:
    class Annotator:
        def annotate_any(self) -> dict[str, Any]:
            return {"rate_limit": "2/s"}

        def annotate(self, task: Any) -> dict[str, Any]:
            return {"max_retries": 1} if task.name == "t" else {}

    with memory_app(task_annotations=[Annotator()]) as app:
        task = app.task(name="t")(add)
        app.finalize()
        assert (task.rate_limit, task.max_retries) == ("2/s", 1)


def test_other_annotations_are_refused() -> None:
    with memory_app(task_annotations=[3]) as app:
        app.task(name="t")(add)
        with pytest.raises(ImproperlyConfigured, match="task_annotations"):
            app.finalize()


def test_an_app_without_autofinalize_waits_for_it() -> None:
    with memory_app(autofinalize=False) as app:
        with pytest.raises(RuntimeError, match="autofinalize"):
            app.tasks  # noqa: B018
        app.finalize()
        assert "celery.map" in app.tasks


# --- forms ------------------------------------------------------------------------------------------


def test_a_task_is_pickled_by_name() -> None:
    with memory_app() as app:
        app.set_current()
        task = app.task(name="t")(add)
        assert pickle.loads(pickle.dumps(task)) is task


# --- periodic tasks ---------------------------------------------------------------------------------


def test_periodic_tasks_are_entries_of_the_schedule() -> None:
    with memory_app() as app:
        task = app.task(name="t")(add)

        @app.on_after_configure.connect(weak=False)
        def add_entries(sender: App, **_: Any) -> None:
            sender.add_periodic_task(30.0, task.s(1), (2,), name="often", queue="q")

        assert app.add_periodic_task(crontab(hour=3), task.s(1, 2)) == "t(1, 2)"
        schedule = app.config.beat_schedule
        assert schedule["often"] == {
            "task": "t",
            "schedule": 30.0,
            "args": (2, 1),
            "kwargs": {},
            "options": {"queue": "q"},
        }
        assert schedule["t(1, 2)"]["schedule"] == crontab(hour=3)

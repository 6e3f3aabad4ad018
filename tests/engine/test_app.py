"""An app: shared tasks, the current app, its configuration, task modules, calls by name, its forms."""

from __future__ import annotations

import pickle
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest

from prefork.engine import current_app, shared_task
from prefork.engine.app import App
from prefork.engine.config import ConfigError
from prefork.engine.exceptions import AlwaysEagerIgnored, ImproperlyConfigured
from prefork.engine.local import apps
from prefork.engine.task import Task
from support.apps import memory_app, sent

pytestmark = pytest.mark.usefixtures("current_app_is_put_back")


# --- shared tasks -----------------------------------------------------------------------------------


def test_a_shared_task_belongs_to_whichever_app_is_current() -> None:
    @shared_task(name="shared.one", bind=True)
    def f(self: Any, x: int) -> Any:
        return self.app.main, x

    with memory_app("one") as one, memory_app("two") as two:
        one.set_current()
        assert f(1) == ("one", 1)
        assert isinstance(f, Task)
        two.set_current()
        assert f(2) == ("two", 2)
        f.delay(3)
        assert [message.task for message in sent(two)] == ["shared.one"]
        assert "shared.one" in one.tasks


def test_a_shared_task_without_options_is_named_after_its_module() -> None:
    @shared_task
    def plainly_shared() -> int:
        return 1

    with memory_app() as app:
        app.set_current()
        assert plainly_shared.name == f"{__name__}.plainly_shared"
        assert plainly_shared() == 1


def test_a_shared_task_defined_late_reaches_an_app_that_is_finalised() -> None:
    with memory_app() as app:
        app.set_current()
        app.finalize()

        @shared_task(name="shared.late")
        def late() -> None: ...

        assert "shared.late" in app.registry


# --- current app ------------------------------------------------------------------------------------


def test_the_app_made_last_is_current_and_closing_ends_that() -> None:
    app = App("last", broker="memory://last")
    assert current_app == app
    assert current_app.main == "last"
    with app:
        pass
    assert apps.current is None


def test_without_an_app_there_is_a_default_one() -> None:
    apps.current = apps.default = None
    assert current_app.main == "default"
    mine = App("mine", set_as_current=False, broker="memory://mine")
    mine.set_default()
    assert current_app.main == "mine"


def test_other_threads_see_the_same_current_app() -> None:
    with memory_app() as app:
        app.set_current()
        seen: list[Any] = []
        thread = threading.Thread(target=lambda: seen.append(current_app._get_current_object()))
        thread.start()
        thread.join()
        assert seen == [app]


# --- configuration ----------------------------------------------------------------------------------


def test_constructor_arguments_are_settings() -> None:
    with memory_app(
        backend="memory://other", include="a.b", task_default_queue="q", changes={"timezone": "UTC"}
    ) as app:
        assert app.config.result_backend == "memory://other"
        assert app.config.include == ("a.b",)
        assert app.config.task_default_queue == "q"
        assert app.config.timezone == "UTC"


def test_constructor_arguments_for_machinery_are_accepted() -> None:
    with memory_app(loader="default", fixups=None, amqp=None) as app:
        assert app.config.task_default_queue == "celery"


def test_an_unknown_setting_is_refused_when_it_is_needed() -> None:
    with memory_app(task_default_que="x") as app:
        with pytest.raises(ConfigError, match="task_default_queue"):
            app.config  # noqa: B018
        with pytest.raises(ConfigError):
            app.config  # noqa: B018


def test_settings_come_from_objects_and_environment_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    class Settings:
        CELERY_TASK_DEFAULT_QUEUE = "from-object"

    with memory_app() as app:
        app.config_from_object(Settings, namespace="CELERY", force=True)
        assert app.conf.task_default_queue == "from-object"
    module = types.ModuleType("made_up_settings")
    module.task_default_queue = "from-module"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "made_up_settings", module)
    monkeypatch.setenv("MADE_UP", "made_up_settings")
    with memory_app() as app:
        app.config_from_envvar("MADE_UP", force=True)
        assert app.conf.task_default_queue == "from-module"
    with memory_app(config_source={"task_default_queue": "from-map"}) as app:
        assert app.conf.task_default_queue == "from-map"


def test_defaults_are_below_everything_else() -> None:
    with memory_app(task_default_queue="given") as app:
        app.add_defaults(lambda: {"task_default_queue": "low", "timezone": "UTC"})
        assert app.config.task_default_queue == "given"
        assert app.config.timezone == "UTC"


def test_changing_the_configuration_takes_effect() -> None:
    with memory_app() as app:
        task = app.task(name="t")(lambda: 1)
        task.delay()
        app.conf.task_default_queue = "other"
        task.delay()
        assert [message.routing_key for message in sent(app, "other")] == ["other"]


def test_the_time_zone_is_the_configured_one() -> None:
    with memory_app(timezone="Europe/Rome") as app:
        assert str(app.timezone) == "Europe/Rome"
        assert app.now().tzinfo is app.timezone
    with memory_app() as app:
        assert str(app.timezone) == "UTC"
    with memory_app(enable_utc=False) as app:
        assert app.now().utcoffset() is not None


# --- discovery --------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    root = tmp_path / "made_up_package"
    root.mkdir()
    (root / "__init__.py").write_text("")
    (root / "tasks.py").write_text("LOADED = True\n")
    (root / "broken.py").write_text("import no_such_module_anywhere\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "made_up_package"
    for name in [name for name in sys.modules if name.startswith("made_up_package")]:
        del sys.modules[name]


def test_task_modules_are_found_when_a_worker_starts(package: str) -> None:
    with memory_app(imports=["string"]) as app:
        app.autodiscover_tasks([package])
        assert f"{package}.tasks" not in sys.modules
        app.import_task_modules()
        assert f"{package}.tasks" in sys.modules


def test_task_modules_are_found_at_once_when_forced(package: str) -> None:
    with memory_app() as app:
        app.autodiscover_tasks(lambda: [package], force=True)
        assert f"{package}.tasks" in sys.modules
        app.autodiscover_tasks(package, related_name="missing", force=True)
        app.autodiscover_tasks(["string"], force=True)
        app.autodiscover_tasks(["string"], related_name=None, force=True)


def test_an_error_inside_a_task_module_is_not_hidden(package: str) -> None:
    with memory_app() as app, pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere"):
        app.autodiscover_tasks([package], related_name="broken", force=True)


def test_discovery_without_packages_needs_django(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)
    with memory_app() as app, pytest.raises(ImproperlyConfigured, match="DJANGO_SETTINGS_MODULE"):
        app.autodiscover_tasks(force=True)


# --- sending by name --------------------------------------------------------------------------------


def test_a_task_is_sent_by_name_without_being_known() -> None:
    with memory_app() as app:
        result = app.send_task("far.away", (1,), {"b": 2}, queue="q", task_id="the-id")
        (message,) = sent(app, "q")
        assert (result.id, result.name) == ("the-id", "far.away")
        assert (message.task, message.id, message.ignore_result) == ("far.away", "the-id", None)


def test_sending_by_name_ignores_eager_mode_and_says_so() -> None:
    with memory_app(task_always_eager=True) as app:
        with pytest.warns(AlwaysEagerIgnored):
            app.send_task("far.away")
        assert len(sent(app)) == 1


def test_signatures_of_an_app_send_through_it() -> None:
    with memory_app() as app:
        app.signature("far.away", (1,), queue="q").delay(2)
        app.signature({"task": "near", "args": [], "kwargs": {}, "options": {}}).delay()
        (far,), (near,) = sent(app, "q"), sent(app)
        assert (far.task, near.task) == ("far.away", "near")


# --- forms ------------------------------------------------------------------------------------------


def test_an_app_that_cannot_be_imported_refuses_to_be_pickled() -> None:
    with memory_app() as app, pytest.raises(ImproperlyConfigured, match="top level of a module"):
        pickle.dumps(app)


def test_an_app_at_the_top_level_of_a_module_is_pickled_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with memory_app() as app:
        module = types.ModuleType("made_up_project")
        module.app = app  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "made_up_project", module)
        assert pickle.loads(pickle.dumps(app)) is app


def test_repr_shows_the_name_and_no_address_of_the_broker() -> None:
    app = App("shop", broker="memory://user:secret@x", set_as_current=False)
    assert "shop" in repr(app)
    assert "secret" not in repr(app)


# --- the command line -------------------------------------------------------------------------------


def test_the_command_line_of_an_app_knows_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    with memory_app() as app:
        module = types.ModuleType("made_up_project")
        module.app = app  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "made_up_project", module)
        monkeypatch.setattr("prefork.engine.cli.main.main", lambda argv: given.append(argv) or 0)
        assert app.start(["report"]) == 0
        assert app.worker_main(["-c", "2"]) == 0
        assert app.worker_main(["worker", "-c", "2"]) == 0
        assert app.worker_main() == 0
        assert callable(app.Worker)
    start = ["-A", "made_up_project:app"]
    worker = [*start, "worker"]
    assert given == [[*start, "report"], [*worker, "-c", "2"], [*worker, "-c", "2"], worker]

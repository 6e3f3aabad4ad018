"""`App`: the tasks of a project, its configuration, and the way to its broker and results."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone, tzinfo
from importlib import import_module
from typing import Any, ParamSpec, TypeVar, cast
from zoneinfo import ZoneInfo

from . import app_settings, discovery
from .app_configuration import Configurable
from .async_result import AsyncResult
from .awaiting import AwaitsApp
from .backend import Backend
from .builtin_tasks import add_builtin_tasks
from .bulk import SendsInBulk
from .canvas import Signature, signature
from .client import NAMED_PLANS_MAX, Client
from .control.client import Control
from .decorating import DecoratesTasks
from .exceptions import AlwaysEagerIgnored
from .local import apps, get_current_task, get_current_worker_task
from .naming import gen_task_name
from .options import TaskPlan, plan_for
from .registry import TaskRegistry, task_from_function
from .result_sets import GroupResult, ResultSet
from .retry_options import check_retries
from .shared import shared_tasks
from .signals import Signal, import_modules
from .task import Task
from .unique import declared

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T", bound="Task[Any, Any]")

AnyTask = Task
"""Inside `App`, the name `Task` is its property."""


class App(Configurable, DecoratesTasks, SendsInBulk, AwaitsApp):
    """The tasks of a project, its configuration, and the way to its broker and results.

    Nothing is read, opened or connected before it is needed. One thread configures the app; any
    may send and wait.

    :param main: name of the app; names tasks that are defined in a script.
    :param broker: sets `broker_url`.
    :param backend: sets `result_backend`.
    :param include: modules that a worker imports.
    :param tasks: a registry, or a class of one.
    :param changes: settings, by name.
    :param config_source: see `config_from_object`.
    :param namespace: prefix of the names in configuration objects.
    :param task_cls: base class of tasks, or its dotted name.
    :param set_as_current: become what `current_app` means.
    :param autofinalize: False refuses to use the app before `finalize` was called.
    :param strict_typing: check arguments before sending, unless a task says otherwise.
    :param settings: more settings, by name (Celery's sub-object classes are accepted, with no effect).
    """

    is_prefork_app = True

    def __init__(
        self,
        main: str | None = None,
        *,
        broker: str | None = None,
        backend: str | None = None,
        include: Iterable[str] | None = None,
        tasks: Any = None,
        changes: Mapping[str, Any] | None = None,
        config_source: Any = None,
        config_source_silent: bool = False,
        namespace: str | None = None,
        task_cls: Any = None,
        set_as_current: bool = True,
        autofinalize: bool = True,
        strict_typing: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__(namespace)
        self.main = main
        self.strict_typing = strict_typing
        self.autofinalize = autofinalize
        self.registry: TaskRegistry = tasks() if isinstance(tasks, type) else (tasks or TaskRegistry())
        self.user_options: dict[str, set[Any]] = {"preload": set(), "worker": set(), "beat": set()}
        self.on_after_finalize = Signal("app.on_after_finalize")
        self.on_after_fork = Signal("app.on_after_fork")
        self.finalized = False
        self._task_cls = task_cls
        self._task_base: type[Task[Any, Any]] | None = None
        self._pending: list[Task[Any, Any]] = []
        self._client: Client | None = None
        self._control: Control | None = None
        self._discover: list[tuple[Any, str | None]] = []
        app_settings.apply(self.conf, settings, changes, broker=broker, backend=backend, include=include)
        if config_source is not None:
            self.conf.config_from_object(config_source, silent=config_source_silent)
        if set_as_current:
            self.set_current()

    # -- tasks --------------------------------------------------------------------------------

    def task_of(self, function: Callable[..., Any], **options: Any) -> AnyTask[Any, Any]:
        """The same, as a plain call."""
        return task_from_function(self, function, **options)

    def register_task(self, task: T | type[T], **options: Any) -> T:
        """Register a class-based task: an instance, or a class, which is instantiated.

        :param options: attributes to set on it.
        :raises ImproperlyConfigured: one of its options cannot be honoured.
        """
        instance: Any = task() if isinstance(task, type) else task
        if not instance.name:
            cls = type(instance)
            instance.name = self.gen_task_name(cls.__name__, cls.__module__)
        for key, value in options.items():
            setattr(instance, key, value)
        check_retries(instance)
        instance.app = self
        self.registry[instance.name] = instance
        self.adopt(instance)
        return cast(T, instance)

    def adopt(self, task: AnyTask[Any, Any]) -> None:
        """Bind a new task: now, or when the app is finalised."""
        if self.finalized:
            self._bind(task)
        else:
            self._pending.append(task)

    def _bind(self, task: AnyTask[Any, Any]) -> None:
        app_settings.annotate(task, self.config.task_annotations)
        task.on_bound(self)

    @property
    def Task(self) -> type[AnyTask[Any, Any]]:
        """Base class of this app's tasks; assign to it to change it."""
        if self._task_base is None:
            base = self._task_cls or AnyTask
            if isinstance(base, str):
                module, _, name = base.replace(":", ".").rpartition(".")
                base = getattr(import_module(module), name)
            self._task_base = cast(
                "type[AnyTask[Any, Any]]", type("Task", (base,), {"_app": self, "abstract": True})
            )
        return self._task_base

    @Task.setter
    def Task(self, base: type[Any]) -> None:
        self._task_base = base

    @property
    def tasks(self) -> TaskRegistry:
        """The tasks, by name; reading it finalises the app.

        :raises RuntimeError: `autofinalize` is off and `finalize` was not called.
        """
        self.finalize(auto=True)
        return self.registry

    def finalize(self, auto: bool = False) -> None:
        """Make the shared tasks, apply `task_annotations`, and bind every task; happens once."""
        if auto and not self.autofinalize and not self.finalized:
            raise RuntimeError("the app is used before finalize() was called, and autofinalize is off")
        with self._lock:
            if self.finalized:
                return
            self.finalized = True
            shared_tasks.make_all(self)
            add_builtin_tasks(self)
            pending, self._pending = self._pending, []
            for task in pending:
                self._bind(task)
        self.on_after_finalize.send(self)

    def gen_task_name(self, name: str, module: str | None) -> str:
        """The name of a task that was not given one. Override it to name tasks in another way."""
        return gen_task_name(self.main, name, module)

    def autodiscover_tasks(
        self, packages: Any = None, related_name: str | None = "tasks", force: bool = False
    ) -> None:
        """Import ``<package>.tasks`` of packages, when a worker starts (`import_modules`).

        :param packages: names, or a function that returns them; None takes Django's installed apps.
        :param related_name: name of the module in each; None imports the packages themselves.
        :param force: import them now.
        """
        if force:
            discovery.autodiscover(app_settings.packages_of(packages), related_name)
        else:
            self._discover.append((packages, related_name))

    def import_task_modules(self) -> None:
        """Import everything that may define tasks: include, imports, autodiscovery. Workers call it."""
        config = self.config
        for name in (*config.imports, *config.include):
            import_module(name)
        waiting, self._discover = self._discover, []
        for packages, related_name in waiting:
            discovery.autodiscover(app_settings.packages_of(packages), related_name)
        import_modules.send(self)
        self.finalize()

    # -- sending ------------------------------------------------------------------------------

    def send_task(
        self,
        name: str,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        producer: Any = None,
        **options: Any,
    ) -> AsyncResult[Any]:
        """Send a task by name, without importing it; options as in `Task.apply_async`.

        Whether its result is kept is then the worker's decision, and its arguments are not checked.
        """
        config = self.config
        if config.task_always_eager:
            warnings.warn(
                "task_always_eager has no effect on send_task: the name is all that is known here",
                AlwaysEagerIgnored,
                stacklevel=2,
            )
        plan = self.client.named_plans.get(name)
        if plan is None:
            plan = self._plan_of_name(name)
        options.setdefault("ignore_result", None)
        return self.client.send(plan, tuple(args or ()), dict(kwargs or {}), task_id, options, producer)

    def _plan_of_name(self, name: str) -> TaskPlan:
        nameless = AnyTask[Any, Any]()
        nameless.name, nameless.app, nameless.typing = name, self, False
        # Of a task that is known here: whether it is queued once is no matter of who sends it.
        nameless.unique = declared(self.tasks.get(name))
        plan = plan_for(nameless, self, self.config)
        # Names may come from outside, without end.
        if len(self.client.named_plans) < NAMED_PLANS_MAX:
            self.client.named_plans[name] = plan
        return plan

    def signature(self, varies: Any, *args: Any, **kwargs: Any) -> Signature:
        """A call that has not been made."""
        made = signature(varies, *args, **kwargs) if not isinstance(varies, Mapping) else signature(varies)
        made._app = made._app or self
        return cast(Signature, made)

    subtask = signature

    @property
    def client(self) -> Client:
        """The publishing side; made anew when the configuration changed."""
        config = self.config
        client = self._client
        if client is None or client.config is not config:
            with self._lock:
                if self._client is None or self._client.config is not config:
                    previous, self._client = self._client, Client(self, config)
                    if previous is not None:
                        previous.close()
                client = self._client
        return client

    @property
    def backend(self) -> Backend:
        """Stored results, by the ids of tasks."""
        return self.client.backend

    # -- bound classes ------------------------------------------------------------------------

    def AsyncResult(self, id: str, **kwargs: Any) -> AsyncResult[Any]:
        """The result of an id, from any process."""
        return AsyncResult(id, app=self, **kwargs)

    def GroupResult(self, id: str | None = None, results: Iterable[Any] = (), **kwargs: Any) -> GroupResult:
        """Results of a group."""
        return GroupResult(id or "", results, app=self, **kwargs)

    def ResultSet(self, results: Iterable[Any], **kwargs: Any) -> ResultSet:
        """A set of results."""
        return ResultSet(results, app=self, **kwargs)

    @property
    def Worker(self) -> Callable[..., Any]:
        """Makes an embedded worker of this app: ``with app.Worker(concurrency=4): …``."""
        worker = import_module(".embed", __package__).Worker
        return lambda *args, **kwargs: worker(self, *args, **kwargs)

    @property
    def control(self) -> Control:
        """Remote control of the workers: ``app.control.revoke(id)``, ``app.control.inspect()``."""
        if self._control is None:
            self._control = Control(self)
        return self._control

    def worker_main(self, argv: list[str] | None = None) -> int:
        """Run the ``worker`` command for this app."""
        return self.start(["worker", *(argv or ())] if not argv or argv[0] != "worker" else argv)

    def start(self, argv: list[str] | None = None) -> int:
        """Run the command line for this app."""
        main = import_module(".cli.main", __package__).main
        return cast(int, main(["-A", discovery.location_of(self), *(argv or ())]))

    # -- context ------------------------------------------------------------------------------

    @property
    def current_task(self) -> AnyTask[Any, Any] | None:
        """The task that runs here, or None."""
        return get_current_task()

    @property
    def current_worker_task(self) -> AnyTask[Any, Any] | None:
        """The task that a worker started here, or None."""
        return get_current_worker_task()

    @property
    def timezone(self) -> tzinfo:
        """The time zone of schedules: `timezone`, else UTC, else the local one."""
        name = self.config.timezone
        if name:
            return ZoneInfo(name)
        if self.config.enable_utc:
            return timezone.utc
        return cast(tzinfo, datetime.now().astimezone().tzinfo)

    def now(self) -> datetime:
        """The time, in `timezone`."""
        return datetime.now(self.timezone)

    def set_current(self) -> None:
        """Become what `current_app` means in this process."""
        apps.current = self

    def set_default(self) -> None:
        """Become what `current_app` means when no app is current."""
        apps.default = self

    def close(self) -> None:
        """Close broker and result store, and stop being current. The app can be used again."""
        client, self._client = self._client, None
        if client is not None:
            client.close()
        if apps.current is self:
            apps.current = None

    def __enter__(self) -> App:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _app_by_location, (discovery.location_of(self),)

    def __repr__(self) -> str:
        return f"<App: {self.main or '__main__'} at {id(self):#x}>"


def _app_by_location(where: str) -> App:
    return discovery.find_app(where)


def default_app() -> App:
    """The app there is when none was made: configured by file and environment alone."""
    return App("default", set_as_current=False)


apps.make_default = default_app

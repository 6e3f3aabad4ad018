"""`Task`: what ``@app.task`` makes of a function, and the base of class-based tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from types import CoroutineType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, ParamSpec, TypeVar, cast

from . import progress_report
from .async_result import AsyncResult
from .awaiting import AwaitsSending
from .binder import ArgumentCheck
from .bulk import CHUNK_TASKS, BulkResult, Call, send_all
from .eager import apply_eagerly, send_eagerly
from .eager_result import EagerResult
from .exceptions import ImproperlyConfigured, MaxRetriesExceededError, Retry
from .local import get_current_app, run_as, running
from .options import TaskPlan, plan_for
from .request import Context
from .retry_decision import decide_retry
from .task_canvas import TaskCanvas
from .task_defaults import TaskDefaults

if TYPE_CHECKING:
    from .app import App
    from .options import TaskOptions

P = ParamSpec("P")
R = TypeVar("R")

_HOOKS = ("shadow_name", "before_start", "on_success", "on_failure", "on_retry", "after_return", "__call__")


def _task_by_name(name: str) -> Task[Any, Any]:
    """Unpickle a task: it is looked up in the current app, never rebuilt."""
    return get_current_app().tasks[name]


class Task(TaskCanvas, TaskDefaults, AwaitsSending[P, R], Generic[P, R]):
    """A unit of work that can be called here, or sent to a worker.

    Options are class attributes, see `TaskDefaults`. They are resolved once, call > task >
    configuration, into `options`.
    """

    MaxRetriesExceededError: ClassVar[type[Exception]] = MaxRetriesExceededError

    _app: App | None = None
    _plan: TaskPlan | None = None
    _check: ArgumentCheck | None = None
    _hooks: frozenset[str] | None = None
    _default_request: Context | None = None
    _bound: bool = False

    if TYPE_CHECKING:

        def run(self, *args: P.args, **kwargs: P.kwargs) -> R:
            """The body of the task."""

    else:

        def run(self, *args, **kwargs):
            """The body of the task."""
            raise ImproperlyConfigured(f"{type(self).__name__} defines no run() method")

    # -- the app ------------------------------------------------------------------------------

    @property
    def app(self) -> App:
        """The app that the task belongs to."""
        return self._app or get_current_app()

    @app.setter
    def app(self, app: App) -> None:
        self._app = app

    @property
    def backend(self) -> Any:
        """Stored results, by the ids of tasks; that of the app."""
        return self.app.backend

    # -- calling ------------------------------------------------------------------------------

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the task here, as a plain function call."""
        outer = running.get()
        if outer is not None and outer[0] is self and not outer[1].called_directly:
            # An overridden __call__ that hands over to this one: the request stays as it is.
            return self.run(*args, **kwargs)
        request = Context(args=args, kwargs=kwargs)
        token = running.set((self, request, outer))
        try:
            value = self.run(*args, **kwargs)
        finally:
            running.reset(token)
        if type(value) is CoroutineType:  # its code has not run yet
            return run_as(self, request, value)  # type: ignore[return-value]
        return value

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Send the task to a worker, with the arguments of the function itself."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        producer: Any = None,
        link: Any = None,
        link_error: Any = None,
        shadow: str | None = None,
        **options: Any,
    ) -> AsyncResult[R]:
        """Send the task to a worker, with options of this call (parity §5).

        :param options: countdown (s), eta, expires (s or datetime), queue, exchange, routing_key,
            priority (0-9; RabbitMQ up to 255), serializer, compression, time_limit (s), soft_time_limit (s),
            ignore_result, unique, headers, retry, retry_policy, add_to_parent, and properties of the message.
        :raises TypeError: the arguments do not fit the signature (`typing=False` skips that).
        :raises EncodeError: an argument cannot be serialized; the message names its place.
        :raises OperationalError: the broker did not take the message in time.
        """
        plan = self.sending_plan()
        positional = args if type(args) is tuple else tuple(args or ())
        keywords = dict(kwargs) if kwargs else {}
        if plan.check is not None:
            plan.check(positional, keywords)
        if self.models is not None:
            positional, keywords = self.models.sendable(positional, keywords)
        if link is not None:
            options["link"] = link
        if link_error is not None:
            options["link_error"] = link_error
        if shadow is None and "shadow_name" in self.overridden_hooks:
            shadow = self.shadow_name(positional, keywords, options)
        if shadow is not None:
            options["shadow"] = shadow
        if plan.always_eager:
            if task_id is not None:
                options["task_id"] = task_id
            return cast("AsyncResult[R]", send_eagerly(self, positional, keywords, options))
        return cast(
            "AsyncResult[R]", plan.client.send(plan, positional, keywords, task_id, options, producer)
        )

    def map_async(
        self, items: Iterable[Any], *, chunk_size: int = CHUNK_TASKS, **options: Any
    ) -> BulkResult[R]:
        """Send the task once for every item, which is its only argument, with few round trips.

        :param items: read no further than what was sent, so it may be long.
        :param chunk_size: tasks per round trip.
        :param options: of every call, as in `apply_async`.
        :returns: a result per item. One that could not be sent, for example because it cannot be
            serialized, has a failed one, and an entry in `errors`; the others go.
        :raises BulkSendError: the broker is away; it says what was sent.
        """
        calls = (Call(self.name, partial(self.apply_async, (item,), **options)) for item in items)
        return send_all(self.app, calls, chunk_size)

    def starmap_async(
        self, items: Iterable[Iterable[Any]], *, chunk_size: int = CHUNK_TASKS, **options: Any
    ) -> BulkResult[R]:
        """Like `map_async`, with items that hold all positional arguments of a call."""
        calls = (Call(self.name, partial(self.apply_async, item, **options)) for item in items)
        return send_all(self.app, calls, chunk_size)

    def apply(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        link: Any = None,
        link_error: Any = None,
        task_id: str | None = None,
        retries: int = 0,
        throw: bool | None = None,
        **options: Any,
    ) -> EagerResult[R]:
        """Run the task here and now, with request, hooks and retries as in a worker.

        :param throw: re-raise what the task raised; None follows `task_eager_propagates`.
        """
        options.update(link=link, link_error=link_error, task_id=task_id, retries=retries, throw=throw)
        return apply_eagerly(self, tuple(args or ()), dict(kwargs or {}), options)

    # -- retrying -----------------------------------------------------------------------------

    def retry(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        exc: BaseException | None = None,
        throw: bool = True,
        eta: datetime | None = None,
        countdown: float | Sequence[float] | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Retry:
        """Have this execution end as RETRY and the task run again under its own id.

        Whoever runs the task sends the next attempt, together with the acknowledgement of this one.

        :param args: new positional arguments; None keeps the old ones. Likewise `kwargs`.
        :param exc: what to raise when there are no retries left.
        :param eta: when to run again; else `countdown`, else `retry_delays`, else `default_retry_delay`.
        :param countdown: seconds until the next attempt; of a list the n-th retry waits the n-th, the last
            again and again.
        :param throw: False returns the `Retry` instead of raising it, and the task goes on.
        :raises Retry: always, unless `throw` is False or no retry is left.
        :raises MaxRetriesExceededError: no retry is left (`max_retries`, `retry_for_s`) and no `exc` was
            given; its cause is the exception being handled.
        """
        decision = decide_retry(
            self,
            args,
            kwargs,
            exc=exc,
            eta=eta,
            countdown=countdown,
            max_retries=max_retries,
            options=options,
        )
        if not throw:
            self.request.retry_plan = decision.plan
            return decision
        raise decision from exc

    # -- state --------------------------------------------------------------------------------

    def update_state(
        self,
        task_id: str | None = None,
        state: str | None = None,
        meta: Any = None,
        **_fields: Any,
    ) -> None:
        """Store a state of one's own, such as progress.

        :param meta: becomes `AsyncResult.info`; None stores null.
        """
        request = self.request
        self.app.client.stored.store_state(
            task_id or request.id, state or "PENDING", meta, request=request, options=self.options
        )

    def progress(self, current: float, total: float | None = None, note: str = "") -> None:
        """Say how far this execution has come, as the state PROGRESS; see `progress_report.progress`.

        :param current: what is done, in units of the task's own.
        :param total: of how much; None when nobody knows.
        :param note: what it is doing, for people.
        :raises ValueError: `current` or `total` is no finite number.
        """
        progress_report.report(self, self.request, current, total, note)

    def send_event(self, type_: str, retry: bool = True, retry_policy: Any = None, **fields: Any) -> None:
        """Accepted as in Celery, so that tasks run unchanged; without effect, as there are no events yet."""

    @property
    def request(self) -> Context:
        """The request of the execution that runs here; a blank one outside of any."""
        entry = running.get()
        while entry is not None:
            if entry[0] is self:
                return entry[1]
            entry = entry[2]
        if self._default_request is None:
            object.__setattr__(self, "_default_request", Context())
        return cast(Context, self._default_request)

    def push_request(self, *args: Any, **kwargs: Any) -> None:
        """Make a request current for this task; pair it with `pop_request`."""
        request = args[0] if args and isinstance(args[0], Context) else Context(*args, **kwargs)
        running.set((self, request, running.get()))

    def pop_request(self) -> None:
        """Undo the last `push_request`."""
        entry = running.get()
        if entry is not None:
            running.set(entry[2])

    def add_trail(self, result: Any) -> Any:
        """Note a task that this one sent."""
        if self.trail:
            self.request.children.append(result)
        return result

    def AsyncResult(self, task_id: str, **kwargs: Any) -> AsyncResult[R]:
        """The result of an id, from any process."""
        return AsyncResult(task_id, app=self.app, task_name=self.name, **kwargs)

    # -- machinery ----------------------------------------------------------------------------

    @property
    def options(self) -> TaskOptions:
        """The options as they are in force: task over configuration."""
        return self.sending_plan().options

    def sending_plan(self) -> TaskPlan:
        """Everything about sending this task that does not depend on the call; made once."""
        app = self._app or self.app
        config = app.config
        plan = self._plan
        if plan is None or plan.config is not config or plan.app is not app:
            plan = plan_for(self, app, config)
            object.__setattr__(self, "_plan", plan)
        return plan

    @property
    def names_max_retries(self) -> bool:
        """Whether `max_retries` was given to this task, and is not the default."""
        said = [vars(self), *(vars(cls) for cls in type(self).__mro__ if cls is not TaskDefaults)]
        return any("max_retries" in names for names in said)

    @property
    def overridden_hooks(self) -> frozenset[str]:
        """Names of the hooks that this task, or its class, overrides."""
        hooks = self._hooks
        if hooks is None:
            cls, own = type(self), vars(self)
            hooks = frozenset(n for n in _HOOKS if n in own or getattr(cls, n) is not getattr(Task, n))
            object.__setattr__(self, "_hooks", hooks)
        return hooks

    def argument_check(self) -> ArgumentCheck:
        """What the body accepts."""
        return ArgumentCheck(self.name, self.run)

    def __setattr__(self, key: str, value: Any) -> None:
        # An option changed after its first use takes effect: whatever was derived is made anew.
        object.__setattr__(self, "_plan", None)
        if key in _HOOKS:
            object.__setattr__(self, "_hooks", None)
        object.__setattr__(self, key, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_task_by_name, (self.name,))

    @property
    def __signal_key__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        main = (self._app.main if self._app else None) or "app"
        return f"<@task: {self.name} of {main}>"

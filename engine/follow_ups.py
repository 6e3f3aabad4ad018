"""The messages that follow an execution: callbacks, the next step of a chain, error callbacks.

They are made, not sent: whoever settles the execution sends them together with the verdict.
Facts: interop §2.2, §9.4.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from types import CoroutineType
from typing import TYPE_CHECKING, Any, NamedTuple

from ..serializers.registry import SerializerTable
from ..transports.base import Outgoing
from .builtin_tasks import ERRBACK
from .canvas import maybe_signature
from .clock import wall_s
from .duplicates import Unsent
from .execution import Executed, drive_here
from .message import TaskMessage, retry_of
from .options import naive_zone
from .publishing import retry_changes
from .request import Context
from .result_document import exception_value
from .retrying import RetryPlan
from .urgency import said_as_priority

if TYPE_CHECKING:
    from .app import App

_log = logging.getLogger("prefork.child")

# Of a request: the message itself, what its other callbacks will never be called with, and what only means
# something to the process that ran it.
_NOT_SENT = frozenset(
    {
        *("message", "callbacks", "errbacks", "chain", "chord"),
        *("_children", "retry_plan", "reporter", "shields", "on_shield", "abort_seen"),
    }
)


def on_retry(
    app: App, message: TaskMessage, table: SerializerTable, queue: str, plan: RetryPlan
) -> tuple[Outgoing, ...]:
    """The next attempt of a task: the same message, one more retry.

    :param queue: where the message came from, and goes to unless the retry says otherwise.
    :raises Exception: new arguments or options that cannot be sent; the caller makes it the
        failure of the task.
    """
    options = said_as_priority(plan.options, app.client, message.task)
    changes = retry_changes(options, wall_s(), naive_zone(app.config))
    found = None
    if any(plan.options.get(key) is not None for key in ("queue", "exchange", "routing_key")):
        found = app.client.router.route(message.task, plan.args or (), plan.kwargs or {}, plan.options)
        changes.update(queue=found.queues[0], exchange=found.exchange, routing_key=found.routing_key)
    document = retry_of(
        message,
        table,
        retries=plan.retries,
        eta_wall_s=plan.due_wall_s,
        args=plan.args,
        kwargs=plan.kwargs,
        **changes,
    )
    if plan.args is not None or plan.kwargs is not None:
        app.client.check_size(message.task, document)
    priority = changes.get("priority", message.priority)
    if found is not None:
        return tuple(app.client.placed(found, document, priority, plan.due_wall_s))
    return (Outgoing(queue, document, priority, plan.due_wall_s),)


class Following(NamedTuple):
    """What follows an execution.

    :ivar unsent: what should, and does not, because it is not as unique as it is to be.
    """

    messages: tuple[Outgoing, ...] = ()
    unsent: tuple[Unsent, ...] = ()


def on_success(app: App, request: Context, value: Any) -> Following:
    """What a task that returned `value` sets off, the error callbacks of what cannot be sent among it.

    :raises Exception: a callback that cannot be sent, such as one whose argument has no form in
        its serializer; the caller makes it the failure of the task.
    """
    lineage = {"parent_id": request.id, "root_id": request.root_id}
    with app.client.following() as found:
        for callback in request.callbacks or ():
            maybe_signature(callback, app).apply_async((value,), add_to_parent=False, **lineage)
        if request.chain:
            *rest, following = request.chain
            options = {**lineage, "chain": rest or None}
            maybe_signature(following, app).apply_async((value,), add_to_parent=False, **options)
    unsent = tuple(found.unsent or ())
    errbacks = [message for one in unsent for message in on_failure(app, *one.ended(), call=False)]
    return Following((*found.messages, *errbacks), unsent)


def on_failure(app: App, request: Context, executed: Executed, *, call: bool = True) -> tuple[Outgoing, ...]:
    """What a task that failed sets off.

    An error callback that takes more than one argument is called here, with request, exception and
    traceback; one that takes the id alone is sent, and so is a coroutine function: nothing can be awaited
    here. What goes wrong with one is logged: it must not hide the failure that it should have reported.

    :param call: False where no task may run, as in the agent: such a callback is sent, too, as the
        arguments of a task that calls it (`builtin_tasks.ERRBACK`), to the callback's own queue.
    """
    lineage = {"parent_id": request.id, "root_id": request.root_id}

    def send(errback: Any) -> None:
        errback.apply_async((request.id,), add_to_parent=False, **lineage)

    with app.client.collecting() as messages:
        call_errbacks(app, request, executed, send, _send_details, call=call)
    return tuple(messages)


def call_errbacks(
    app: App,
    request: Context,
    executed: Executed,
    send: Callable[[Any], object],
    send_details: Callable[[App, Any, Context, BaseException, str | None], object] | None = None,
    *,
    call: bool = True,
) -> None:
    """Call the error callbacks of a request that take request, exception and traceback; send the others.

    :param send: what is done with one that takes the id alone.
    :param send_details: what is done with the others instead of calling them: with coroutine functions, and
        with all of them if not `call`. None runs coroutines here, to their end.
    """
    trace = executed.einfo.traceback if executed.einfo is not None else None
    for errback in request.errbacks or ():
        try:
            signature = maybe_signature(errback, app)
            local = app.tasks.get(signature.task)
            if local is None or not _takes_details(local):
                send(signature)
            elif send_details is not None and (not call or inspect.iscoroutinefunction(local.run)):
                send_details(app, signature, request, executed.value, trace)
            else:
                called = signature(request, executed.value, trace)
                if type(called) is CoroutineType:
                    drive_here(called)
        except BaseException:  # noqa: BLE001 - sys.exit() too must not undo the failure it reports
            _log.exception("error callback %s of %s[%s]", name_of(errback), request.task, request.id)


def name_of(signature: Any) -> str:
    """The task of a signature, for a log line: its arguments may be secrets."""
    name = signature.get("task") if isinstance(signature, Mapping) else None
    return name if isinstance(name, str) else f"<{type(signature).__name__}>"


def _send_details(
    app: App, signature: Any, request: Context, error: BaseException, trace: str | None
) -> None:
    table = app.client.table
    fields = {name: value for name, value in vars(request).items() if name not in _NOT_SENT}
    serializer = app.config.task_serializer
    if request.message is not None:
        # What it came in can say what its arguments are.
        serializer = table.decoder(request.message.content_type, request.message.content_encoding).name
    found = app.client.router.route(signature.task, signature.args, signature.kwargs, signature.options)
    app.tasks[ERRBACK].apply_async(
        (dict(signature), fields, exception_value(error, table.by_name(serializer)), trace),
        queue=found.queues[0],
        serializer=serializer,
        ignore_result=True,
        add_to_parent=False,
        parent_id=request.id,
        root_id=request.root_id,
    )


def _takes_details(task: Any) -> bool:
    """Whether an error callback takes request, exception and traceback, not just an id."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [p for p in inspect.signature(task.run).parameters.values() if p.kind in kinds]
    return len(parameters) > 1

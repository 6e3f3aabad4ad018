"""Tasks that run in the process that calls them: `apply`, and `task_always_eager`."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Any

from . import states
from .clock import wall_s
from .eager_result import EagerResult
from .execution import Executed, execute
from .join_guard import allow_join_result
from .message import fresh_id
from .options import eta_wall_s, limits, naive_zone
from .publishing import signatures
from .request import Context
from .retrying import FIRST_STARTED_HEADER, SNOOZES_HEADER, RetryPlan


def apply_eagerly(
    task: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    options: dict[str, Any],
    *,
    through_serializer: bool = False,
) -> EagerResult[Any]:
    """Run a task here, with its further attempts (without their delays), and return what came of it.

    :param options: those of `apply_async` and `apply`.
    :param through_serializer: encode and decode the arguments, as sending them would.
    :raises EncodeError: an argument could not have been sent.
    """
    plan = task.sending_plan()
    if through_serializer:
        args, kwargs = _there_and_back(plan, args, kwargs, options)
        limits(options.get("time_limit"), options.get("soft_time_limit"))
        eta_wall_s(options.get("eta"), options.get("countdown"), 0.0, naive_zone(plan.config))
    throw = options.get("throw")
    if throw is None:
        throw = plan.config.task_eager_propagates
    request = _request(task, args, kwargs, options)
    with allow_join_result():
        done = execute(task, request)
        while done.retry is not None and done.state in (states.RETRY, states.SNOOZED):
            options = {**options, **done.retry.options}
            request = _next_request(task, done.retry, request, options)
            done = execute(task, request)
    _run_links(task, done, request)
    text = done.einfo.traceback if done.einfo is not None else None
    if plan.options.store_eager_result and done.state in states.READY_STATES:
        plan.client.stored.store_state(
            request.id, done.state, done.value, request=request, options=plan.options
        )
    if throw and done.state == states.FAILURE:
        raise done.value
    value = done.value
    return EagerResult(str(request.id), value, done.state, text, task.name)


def _there_and_back(
    plan: Any, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]
) -> tuple[Sequence[Any], Mapping[str, Any]]:
    name = options.get("serializer") or plan.options.serializer
    table = plan.client.table_for(name)
    table.allow_unpickling()  # what is read is what was written a line before
    serializer = table.by_name(name)
    back_args, back_kwargs = serializer.loads(serializer.dumps((list(args), dict(kwargs))))
    return tuple(back_args), back_kwargs


def _request(task: Any, args: Any, kwargs: Any, options: Mapping[str, Any]) -> Context:
    task_id = options.get("task_id") or fresh_id()
    hard, soft = options.get("time_limit"), options.get("soft_time_limit")
    return Context(
        id=task_id,
        task=task.name,
        args=tuple(args),
        kwargs=dict(kwargs),
        retries=options.get("retries") or 0,
        is_eager=True,
        called_directly=False,
        hostname=socket.gethostname(),
        root_id=options.get("root_id") or task_id,
        parent_id=options.get("parent_id"),
        group=options.get("group_id"),
        group_index=options.get("group_index"),
        callbacks=signatures(options.get("link")),
        errbacks=signatures(options.get("link_error")),
        chain=options.get("chain"),
        timelimit=[hard, soft],
        ignore_result=options.get("ignore_result"),
        started_wall_s=wall_s(),
        headers=options.get("headers"),
        correlation_id=task_id,
        shadow=options.get("shadow"),
        delivery_info={
            "is_eager": True,
            "exchange": options.get("exchange") or "",
            "routing_key": options.get("routing_key") or options.get("queue"),
            "priority": options.get("priority"),
        },
    )


def _next_request(task: Any, retry: RetryPlan, request: Context, options: Mapping[str, Any]) -> Context:
    """The request of the next attempt, which begins when it would have in a worker.

    :param options: those of the call, with what was given to `retry`.
    """
    args = request.args if retry.args is None else retry.args
    kwargs = request.kwargs if retry.kwargs is None else retry.kwargs
    again = {**options, "task_id": request.id, "retries": retry.retries}
    headers = {**(request.headers or {}), **(retry.options.get("headers") or {})}
    following = _request(task, args, kwargs, again)
    # Where there is no message, the request itself carries what workers tell one another in headers.
    following.started_wall_s = retry.due_wall_s
    following.first_started_wall_s = headers.pop(FIRST_STARTED_HEADER, None)
    following.snoozes = headers.pop(SNOOZES_HEADER, request.snoozes)
    following.headers = headers or None
    return following


def _run_links(task: Any, done: Executed, request: Context) -> None:
    """Run what was linked, and the rest of a chain, in this process too."""
    app = task.app
    if done.state == states.SUCCESS:
        for callback in request.callbacks or ():
            app.signature(callback).apply((done.value,))
        if request.chain:
            rest = list(request.chain)
            following = app.signature(rest.pop())
            following.apply((done.value,), chain=rest or None)
    elif done.state == states.FAILURE:
        for errback in request.errbacks or ():
            app.signature(errback).apply((request.id,))

"""Tasks that run in the process that calls them: `apply`, and `task_always_eager`."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from ..serializers.base import EncodeError
from . import result_document, states
from .clock import wall_s
from .eager_result import EagerResult
from .einfo import ExceptionInfo
from .execution import Executed, execute
from .follow_ups import call_errbacks, name_of
from .join_guard import allow_join_result
from .message import TaskDraft, fresh_id
from .message_draft import encode_body
from .options import eta_wall_s, limits, naive_zone
from .publishing import signatures
from .request import Context
from .retrying import FIRST_STARTED_HEADER, SNOOZES_HEADER, RetryPlan

_log = logging.getLogger("prefork.eager")


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
    done = last = _attempt(plan, request, through_serializer, throw)
    while last.retry is not None:
        options = {**options, **last.retry.options}
        try:
            request = _next_request(plan, last.retry, request, options, through_serializer)
        except Exception as error:  # noqa: BLE001 - a worker could not send it either
            failed = Executed(states.FAILURE, error, ExceptionInfo(error))
            last = _run_links(task, failed, request, through_serializer, throw)
        else:
            last = _attempt(plan, request, through_serializer, throw)
        if done.state != states.SUCCESS:  # which stays, even if a task returned and asked for a retry
            done = last
    text = done.einfo.traceback if done.einfo is not None else None
    if plan.options.store_eager_result and done.state in states.READY_STATES:
        plan.client.stored.store_state(
            request.id, done.state, done.value, request=request, options=plan.options
        )
    if throw and done.state == states.FAILURE:
        raise done.value
    # A message that is refused for good is a dead letter, and its task has failed.
    state = states.FAILURE if done.state == states.REJECTED and not done.requeue else done.state
    return EagerResult(str(request.id), done.value, state, text, task.name)


def _attempt(plan: Any, request: Context, through_serializer: bool, throw: bool) -> Executed:
    """Run the task once, and what it sets off."""
    with allow_join_result():
        done = execute(plan.task, request)
    if through_serializer and done.state == states.SUCCESS:
        done = _stored(plan, request, done)
    if done.retry is not None:
        return done  # what is linked waits for the attempt that asks for no other
    return _run_links(plan.task, done, request, through_serializer, throw)


def _there_and_back(
    plan: Any, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]
) -> tuple[Sequence[Any], Mapping[str, Any]]:
    name = options.get("serializer") or plan.options.serializer
    table = plan.client.table_for(name)
    table.allow_unpickling()  # what is read is what was written a line before
    draft = TaskDraft(task=plan.options.name, id="", args=args, kwargs=kwargs, serializer=name)
    body = encode_body(draft, table).body
    back_args, back_kwargs, _ = table.by_name(name).loads(body)
    return back_args, back_kwargs


def _stored(plan: Any, request: Context, done: Executed) -> Executed:
    """What a success looks like to whoever reads its result from the store, if it would be stored."""
    ignored = plan.options.ignore_result if request.ignore_result is None else request.ignore_result
    if ignored or plan.config.result_backend is None:
        return done
    serializer = plan.client.result_table.by_name(plan.config.result_serializer)
    try:
        document = result_document.encode(
            done.state, done.value, task_id=str(request.id), serializer=serializer
        )
    except EncodeError as error:
        return Executed(states.FAILURE, error, ExceptionInfo(error))
    return Executed(done.state, result_document.decode(document, serializer).result, retry=done.retry)


def _request(task: Any, args: Any, kwargs: Any, options: Mapping[str, Any]) -> Context:
    task_id = options.get("task_id") or fresh_id()
    hard, soft = options.get("time_limit"), options.get("soft_time_limit")
    return Context(
        id=task_id,
        task=task.name,
        args=args if isinstance(args, list) else tuple(args),
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


def _next_request(
    plan: Any, retry: RetryPlan, request: Context, options: Mapping[str, Any], through_serializer: bool
) -> Context:
    """The request of the next attempt, which begins when it would have in a worker.

    :param options: those of the call, with what was given to `retry`.
    """
    args = request.args if retry.args is None else retry.args
    kwargs = request.kwargs if retry.kwargs is None else retry.kwargs
    if through_serializer and (retry.args is not None or retry.kwargs is not None):
        args, kwargs = _there_and_back(plan, args, kwargs, options)
    again = {**options, "task_id": request.id, "retries": retry.retries}
    headers = {**(request.headers or {}), **(retry.options.get("headers") or {})}
    following = _request(plan.task, args, kwargs, again)
    # Where there is no message, the request itself carries what workers tell one another in headers.
    following.started_wall_s = retry.due_wall_s
    following.first_started_wall_s = headers.pop(FIRST_STARTED_HEADER, None)
    following.snoozes = headers.pop(SNOOZES_HEADER, request.snoozes)
    following.headers = headers or None
    return following


def _refuse_unsendable(signature: Any, value: Any) -> None:
    """Refuse what could not be sent, before any of it runs: a worker sends all that follows, or nothing.

    :raises Exception: why it could not.
    """
    local = signature.app.registry.get(signature.task)
    if local is not None:
        plan, call = local.sending_plan(), signature.clone((value,))
        if plan.check is not None:
            plan.check(call.args, call.kwargs)
        _there_and_back(plan, call.args, call.kwargs, call.options)


def _run_links(
    task: Any, done: Executed, request: Context, through_serializer: bool, throw: bool
) -> Executed:
    """Run what was linked, and the rest of a chain, in this process too.

    :returns: what happened after all: with a callback that could not have been sent the task fails.
    """
    app = task.app
    lineage = {"parent_id": request.id, "root_id": request.root_id}

    def run(signature: Any, value: Any, **options: Any) -> None:
        call = signature.apply_async if through_serializer else signature.apply
        call((value,), **lineage, **options)

    if done.state == states.SUCCESS:
        following: list[tuple[Any, dict[str, Any]]]
        following = [(app.signature(callback), {}) for callback in request.callbacks or ()]
        if request.chain:
            *rest, step = request.chain
            following.append((app.signature(step), {"chain": rest or None}))
        try:
            if through_serializer:
                for signature, _ in following:
                    _refuse_unsendable(signature, done.value)
            for signature, options in following:
                run(signature, done.value, **options)
        except Exception as error:
            if throw:
                raise
            done = Executed(states.FAILURE, error, ExceptionInfo(error))
    if done.state == states.FAILURE:
        # Those that are called, and those that are sent: these run when it is over, as in a worker.
        sent: list[Any] = []
        call_errbacks(app, request, done, sent.append)
        for errback in sent:
            try:
                run(errback, request.id)
            except Exception:  # noqa: BLE001 - whatever a task raises
                # With `task_eager_propagates`, it must not hide the failure that it should have reported.
                _log.exception("error callback %s of %s[%s]", name_of(errback), task.name, request.id)
    return done

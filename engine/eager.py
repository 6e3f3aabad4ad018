"""Tasks that run in the process that calls them: `apply`, and `task_always_eager`."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ..transports.base import StoredResult
from . import result_document, states
from .clock import wall_s
from .eager_message import document_of, next_request, refuse_unsendable, request_of
from .eager_result import EagerResult, gathering
from .einfo import ExceptionInfo
from .execution import Executed, execute
from .follow_ups import call_errbacks, name_of
from .join_guard import allow_join_result
from .local import running
from .message import MalformedMessage, fresh_id, time_text
from .options import expires_wall_s, naive_zone
from .publishing import signatures
from .replacing import Replaced
from .request import Context
from .result_writer import Encoded, too_large
from .retrying import FIRST_STARTED_HEADER, SNOOZES_HEADER, RetryPlan
from .unreached import ENDS_CHAIN, steps_of

_log = logging.getLogger("prefork.eager")


def send_eagerly(
    task: Any, args: Sequence[Any], kwargs: Mapping[str, Any], options: dict[str, Any]
) -> EagerResult[Any]:
    """Run a task here in place of sending it: what it is called with goes through a message, as it would.

    :param options: those of `apply_async`.
    :raises Exception: what sending it would raise: an argument or an option that no message can say.
    """
    plan = task.sending_plan()
    options["task_id"] = options.get("task_id") or fresh_id()
    entry = running.get()
    parent = None if entry is None or entry[1].called_directly else entry[1]
    document = document_of(plan, args, kwargs, options, parent)
    token = running.set(None)  # a worker runs it inside of no other task
    try:
        result = _outcome(plan, document, options)
    finally:
        running.reset(token)
    if parent is not None and entry is not None and options.get("add_to_parent", True):
        entry[0].add_trail(result)
    return result


def _outcome(plan: Any, document: bytes, options: dict[str, Any]) -> EagerResult[Any]:
    try:
        request = request_of(plan, document)
    except MalformedMessage as error:
        # It can be sent, but no worker of this configuration would read it.
        if _throws(plan, options):
            raise
        _end_chain(plan, options.get("chain") or (), Executed(states.FAILURE, error))
        return EagerResult(options["task_id"], error, states.FAILURE, None, plan.task.name)
    return _run(plan, request, options, through_serializer=True)


def apply_eagerly(
    task: Any, args: Sequence[Any], kwargs: Mapping[str, Any], options: dict[str, Any]
) -> EagerResult[Any]:
    """Run a task here, its arguments being what they are, and return what came of it.

    :param options: those of `apply`.
    """
    plan = task.sending_plan()
    return _run(plan, _request(plan, args, kwargs, options), options, through_serializer=False)


def _throws(plan: Any, options: Mapping[str, Any]) -> bool:
    throw = options.get("throw")
    return bool(plan.config.task_eager_propagates if throw is None else throw)


def _run(
    plan: Any, request: Context, options: dict[str, Any], *, through_serializer: bool
) -> EagerResult[Any]:
    """Run a task, with its further attempts (without their delays), and what is linked to it."""
    throw = _throws(plan, options)
    done = last = _attempt(plan, request, through_serializer, throw)
    while last.retry is not None:
        options = {**options, **last.retry.options}
        try:
            following = _following(plan, last.retry, request, options, through_serializer)
        except Exception as error:  # noqa: BLE001 - a worker could not send it either
            failed = Executed(states.FAILURE, error, ExceptionInfo(error))
            last = _run_links(plan.task, failed, request, through_serializer, throw)
        else:
            request = following
            last = _attempt(plan, request, through_serializer, throw)
        if done.state != states.SUCCESS:  # which stays, even if a task returned and asked for a retry
            done = last
    if isinstance(last.value, Replaced):
        result = _replacement(plan.task, request, last.value.by, through_serializer, throw)
        if done is last:
            return result
    if request.chain and _final_state(last) in ENDS_CHAIN:
        _end_chain(plan, request.chain, last)
    return _result(plan, request, done, throw)


def _result(plan: Any, request: Context, done: Executed, throw: bool) -> EagerResult[Any]:
    text = done.einfo.traceback if done.einfo is not None else None
    if plan.options.store_eager_result and done.state in states.READY_STATES:
        plan.client.stored.store_state(
            request.id, done.state, done.value, request=request, options=plan.options
        )
    if throw and done.state == states.FAILURE:
        raise done.value
    return EagerResult(str(request.id), _readable(plan, done, text), _final_state(done), text, plan.task.name)


def _readable(plan: Any, done: Executed, text: str | None) -> Any:
    """The value of a result: `SystemExit` must not end the process that asks for it."""
    if not isinstance(done.value, SystemExit):
        return done.value
    json = plan.client.result_table.json
    return result_document.rebuild_exception(result_document.exception_value(done.value, json), text)


def _replacement(
    task: Any, request: Context, by: Any, through_serializer: bool, throw: bool
) -> EagerResult[Any]:
    """Run what takes the place of a task, and return what came of that under the task's id."""
    token = running.set((task, request, None))  # it is this task that sends it
    try:
        with gathering() as ran:
            (by.apply_async if through_serializer else by.apply)(throw=throw, add_to_parent=False)
    finally:
        running.reset(token)
    task_id = str(request.id)
    return ran.get(task_id) or EagerResult(task_id, None, states.PENDING, None, task.name)


def _final_state(done: Executed) -> str:
    """The state of the result: a message that is refused for good is a dead letter, its task has failed."""
    return states.FAILURE if done.state == states.REJECTED and not done.requeue else done.state


def _end_chain(plan: Any, chain: Sequence[Any], done: Executed) -> None:
    """End what was to follow as the task has ended, which is not a success."""
    state, text = _final_state(done), done.einfo.traceback if done.einfo is not None else None
    value = _readable(plan, done, text)
    for step in steps_of(chain):
        EagerResult(step.id, value, state, text, step.task)  # whoever gathers results has it now
        local = plan.app.registry.get(step.task)
        options = plan.options if local is None else local.sending_plan().options
        if options.store_eager_result and done.state in states.READY_STATES:
            unreached = Context(id=step.id, group=step.group_id, ignore_result=step.ignore_result)
            plan.client.stored.store_state(step.id, state, done.value, request=unreached, options=options)


def _attempt(plan: Any, request: Context, through_serializer: bool, throw: bool) -> Executed:
    """Run the task once, and what it sets off.

    :raises BaseException: what is neither an `Exception` nor `SystemExit`: here it is not the task's, but
        the caller's Ctrl-C, the end of a test, or the like.
    """
    storable = partial(_storable, plan) if through_serializer or plan.options.store_eager_result else None
    with allow_join_result():
        done = execute(plan.task, request, storable=storable)
    if done.state == states.FAILURE and not isinstance(done.value, (Exception, SystemExit)):
        raise done.value
    if storable is not None and done.state == states.SUCCESS:
        done = storable(request, done)  # nobody has asked if nobody was told of it
    if through_serializer and isinstance(done, Encoded):
        done = _read_back(plan, done)
    if done.retry is not None:
        return done  # what is linked waits for the attempt that asks for no other
    return _run_links(plan.task, done, request, through_serializer, throw)


def _storable(plan: Any, request: Context, done: Executed) -> Executed:
    """See `execution.Storable`; a success with the document that would be stored, if one would be."""
    ignored = plan.options.ignore_result if request.ignore_result is None else request.ignore_result
    if ignored or plan.config.result_backend is None or isinstance(done, Encoded):
        return done
    serializer = plan.client.result_table.by_name(plan.config.result_serializer)
    try:
        document = result_document.encode(
            done.state, done.value, task_id=str(request.id), serializer=serializer
        )
    except Exception as error:  # noqa: BLE001 - encoding may run the user's code
        return Executed(states.FAILURE, error, ExceptionInfo(error))
    if len(document) > plan.config.result_max_bytes:
        refused = too_large(len(document), plan.config.result_max_bytes)
        return Executed(states.FAILURE, refused, ExceptionInfo(refused))
    return Encoded(done, (StoredResult(str(request.id), document, None),), 0)


def _read_back(plan: Any, done: Encoded) -> Executed:
    """What a success looks like to whoever reads its result from the store."""
    serializer = plan.client.result_table.by_name(plan.config.result_serializer)
    document = result_document.decode(done.results[0].document, serializer)
    return Executed(done.state, document.result, retry=done.retry)


def _request(plan: Any, args: Any, kwargs: Any, options: Mapping[str, Any]) -> Context:
    task_id = options.get("task_id") or fresh_id()
    ignored, expires = options.get("ignore_result"), options.get("expires")
    expires = plan.options.expires if expires is None else expires
    hard, soft = options.get("time_limit"), options.get("soft_time_limit")
    return Context(
        id=task_id,
        task=plan.task.name,
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
        ignore_result=plan.options.ignore_result if ignored is None else ignored,
        expires=time_text(expires_wall_s(expires, wall_s(), naive_zone(plan.config))),
        replaced_task_nesting=options.get("replaced_task_nesting") or 0,
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


def _following(
    plan: Any, retry: RetryPlan, request: Context, options: Mapping[str, Any], through_serializer: bool
) -> Context:
    """The request of the next attempt, which begins when it would have in a worker.

    :param options: those of the call, with what was given to `retry`.
    """
    if through_serializer:
        following = next_request(plan, retry, request)
        following.started_wall_s = retry.due_wall_s
        return following
    args = request.args if retry.args is None else retry.args
    kwargs = request.kwargs if retry.kwargs is None else retry.kwargs
    again = {**options, "task_id": request.id, "retries": retry.retries}
    headers = {**(request.headers or {}), **(retry.options.get("headers") or {})}
    following = _request(plan, args, kwargs, again)
    # Where there is no message, the request itself carries what workers tell one another in headers.
    following.started_wall_s = retry.due_wall_s
    following.first_started_wall_s = headers.pop(FIRST_STARTED_HEADER, None)
    following.snoozes = headers.pop(SNOOZES_HEADER, request.snoozes)
    following.headers = headers or None
    return following


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
        call((value,), add_to_parent=False, **lineage, **options)

    if done.state == states.SUCCESS:
        following: list[tuple[Any, dict[str, Any]]]
        following = [(app.signature(callback), {}) for callback in request.callbacks or ()]
        if request.chain:
            *rest, step = request.chain
            following.append((app.signature(step), {"chain": rest or None}))
        try:
            if through_serializer:
                for signature, options in following:  # a worker sends all that follows, or nothing
                    refuse_unsendable(signature.clone((done.value,), **lineage, **options))
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

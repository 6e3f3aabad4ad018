"""From a call and its options to the message that says it (parity §5, interop §2). Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta, timezone, tzinfo
from typing import Any

from .exceptions import InvalidTaskError
from .message import TaskDraft
from .options import TaskPlan, delivery_mode, eta_wall_s, expires_wall_s, limits, naive_zone, priority
from .request import Context
from .routes import Destination, Router
from .urgency import priority_of, said_as_priority

_PASSED_ON = (
    "group_index",
    "retries",
    "replaced_task_nesting",
    "argsrepr",
    "kwargsrepr",
    "origin",
    "stamped_headers",
    "stamps",
    "reply_to",
    "correlation_id",
)

_SPENT = frozenset(_PASSED_ON) | frozenset(
    "task_id countdown eta expires queue exchange routing_key priority urgency serializer compression "
    "time_limit soft_time_limit ignore_result shadow headers link link_error chain chord "
    "group_id root_id parent_id retry retry_policy add_to_parent connection producer router delivery_mode "
    "exchange_type immediate declare publisher app typing result_cls parent unique".split()
)
"""Options that are said in some other way than as a property of the message."""


def plain_draft(
    plan: TaskPlan,
    destination: Destination,
    task_id: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    parent: Context | None,
) -> TaskDraft:
    """The draft of a call that says nothing but its arguments."""
    options = plan.options
    return TaskDraft(
        task=options.name,
        id=task_id,
        args=args,
        kwargs=kwargs,
        queue=destination.queues[0],
        exchange=destination.exchange,
        routing_key=destination.routing_key,
        serializer=options.serializer,
        compression=options.compression,
        time_limit_s=plan.limits_sent[0],
        soft_time_limit_s=plan.limits_sent[1],
        root_id=task_id if parent is None else (parent.root_id or parent.id),
        parent_id=None if parent is None else parent.id,
        ignore_result=options.ignore_result,
        origin=plan.client.origin,
        priority=_priority_of(plan, parent) if plan.priority is None else plan.priority,
        delivery_mode=plan.delivery_mode,
        protocol=plan.config.task_protocol,
    )


def _priority_of(plan: TaskPlan, parent: Context | None) -> int:
    """The priority of a call that names none, as neither does its task: what its urgency is on this broker,
    else that of the task which makes the call."""
    if plan.options.urgency is not None:
        return priority_of(plan.options.urgency, plan.client)
    return 0 if parent is None else parent.priority or 0


def full_draft(
    plan: TaskPlan,
    router: Router,
    task_id: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    options: dict[str, Any],
    parent: Context | None,
    now_wall_s: float,
) -> tuple[TaskDraft, Destination]:
    """The draft of a call with options, and where it goes.

    :raises InvalidTaskError: an option that cannot be honoured; the message names it.
    :raises QueueNotFound: see `Router.route`.
    """
    destination = router.route(plan.options.name, args, kwargs, options, plan.task)
    if destination.extra:
        said = options.get("priority") is not None or options.get("urgency") is not None
        extra = {k: v for k, v in destination.extra.items() if not (said and k in ("priority", "urgency"))}
        options = {**extra, **options}
    if options.get("urgency") is not None:
        options = said_as_priority(options, plan.client, plan.options.name)
    draft = plain_draft(plan, destination, task_id, args, kwargs, parent)
    _set_times(draft, plan, options, now_wall_s)
    _set_encoding(draft, options)
    _set_workflow(draft, options)
    if options.get("priority") is not None:
        draft.priority = priority(options["priority"]) or 0
    if "ignore_result" in options:
        # None on the wire leaves it to the worker's own task (interop §2.1).
        ignored = options["ignore_result"]
        draft.ignore_result = None if ignored is None else bool(ignored)
    for key in _PASSED_ON:
        if options.get(key) is not None:
            setattr(draft, key, options[key])
    headers = options.get("headers")
    if headers:
        if not isinstance(headers, Mapping):
            raise InvalidTaskError(f"headers={headers!r}: give a map")
        draft.headers = dict(headers)
    if options.get("delivery_mode") is not None:
        draft.delivery_mode = delivery_mode(options["delivery_mode"])
    properties = {key: value for key, value in options.items() if key not in _SPENT and value is not None}
    for name in draft.stamped_headers or ():
        properties.pop(name, None)
    draft.properties = properties or None
    return draft, destination


def _set_times(draft: TaskDraft, plan: TaskPlan, options: Mapping[str, Any], now_wall_s: float) -> None:
    zone = naive_zone(plan.config)
    draft.eta_wall_s = eta_wall_s(options.get("eta"), options.get("countdown"), now_wall_s, zone)
    expires = options.get("expires")
    if expires is None:
        expires = plan.options.expires
    draft.expires_wall_s = expires_wall_s(expires, now_wall_s, zone)
    if options.get("time_limit") is not None or options.get("soft_time_limit") is not None:
        hard, soft = plan.limits_sent
        given_hard, given_soft = options.get("time_limit"), options.get("soft_time_limit")
        draft.time_limit_s, draft.soft_time_limit_s = limits(
            hard if given_hard is None else given_hard, soft if given_soft is None else given_soft
        )


def _set_encoding(draft: TaskDraft, options: Mapping[str, Any]) -> None:
    if options.get("serializer") is not None:
        draft.serializer = str(options["serializer"])
    if "compression" in options:
        draft.compression = options["compression"]
    shadow = options.get("shadow")
    if shadow is not None:
        draft.shadow = str(shadow)


def _set_workflow(draft: TaskDraft, options: Mapping[str, Any]) -> None:
    draft.callbacks = signatures(options.get("link"))
    draft.errbacks = signatures(options.get("link_error"))
    chain = options.get("chain")
    draft.chain = None if chain is None else [dict(step) for step in chain]
    draft.chord = options.get("chord")
    draft.group = options.get("group_id")
    if options.get("root_id") is not None:
        draft.root_id = options["root_id"]
    if options.get("parent_id") is not None:
        draft.parent_id = options["parent_id"]


def signatures(value: Any) -> list[Any] | None:
    """Links as the message carries them: a list of maps, or None.

    :raises InvalidTaskError: something that is no signature.
    """
    if value is None:
        return None
    items = [value] if isinstance(value, Mapping) else list(value)
    if not all(isinstance(item, Mapping) for item in items):
        raise InvalidTaskError(f"link={value!r}: give signatures, such as task.s()")
    return [dict(item) for item in items] or None


def retry_changes(
    options: Mapping[str, Any], now_wall_s: float, zone: tzinfo | None = timezone.utc
) -> dict[str, Any]:
    """What options given to `Task.retry` change in the message that is sent again.

    :param zone: what a naive datetime means.
    :returns: fields of `TaskDraft`; empty when the message stays as it is. Where it goes (queue,
        exchange, routing_key) is not among them.
    :raises InvalidTaskError: an option that cannot be honoured; the message names it.
    """
    changes: dict[str, Any] = {}
    if options.get("expires") is not None:
        changes["expires_wall_s"] = expires_wall_s(options["expires"], now_wall_s, zone)
    if options.get("time_limit") is not None or options.get("soft_time_limit") is not None:
        hard, soft = limits(options.get("time_limit"), options.get("soft_time_limit"))
        changes.update(
            {name: value for name, value in (("time_limit_s", hard), ("soft_time_limit_s", soft)) if value}
        )
    if options.get("priority") is not None:
        changes["priority"] = priority(options["priority"])
    for key, name in (("link", "callbacks"), ("link_error", "errbacks")):
        if options.get(key) is not None:
            changes[name] = signatures(options[key])
    if options.get("headers"):
        changes["headers"] = dict(options["headers"])
    for key in ("serializer", "compression", "shadow", "ignore_result"):
        if options.get(key) is not None:
            changes[key] = options[key]
    return changes


def retry_pause_s(policy: Mapping[str, Any], attempt: int) -> float | None:
    """Seconds to wait before publishing again, or None to give up.

    :param policy: max_retries (None is no bound), interval_start, interval_step, interval_max.
    :param attempt: how many have failed, from 1.
    """
    bound = policy.get("max_retries", 3)
    if bound is not None and attempt > bound:
        return None
    pause = float(policy.get("interval_start") or 0) + (attempt - 1) * float(policy.get("interval_step") or 0)
    ceiling = policy.get("interval_max")
    return pause if ceiling is None else min(pause, float(ceiling))


def seconds(value: Any) -> float | None:
    """A lifetime in seconds, from a number or a timedelta; None is no end."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    return None if value is None else float(value)

"""What an eager call would have sent, read back: it is refused for what sending refuses, and its request
says what it would say in a worker."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Any

from .client import refuse_unreadable
from .clock import wall_s
from .follow_ups import on_retry
from .message import encode_task, fresh_id, parse
from .options import TaskPlan
from .publishing import full_draft
from .request import Context, context_of
from .retrying import RetryPlan

_OWN = frozenset({"throw"})
"""Options of eager calls alone, which no message says."""


def document_of(
    plan: TaskPlan,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    options: Mapping[str, Any],
    parent: Context | None,
) -> bytes:
    """The message of a call.

    :param parent: the request of the task that makes the call.
    :raises Exception: what sending it would raise.
    """
    client, now_wall_s = plan.client, wall_s()
    said = {name: value for name, value in options.items() if name not in _OWN}
    draft, _ = full_draft(
        plan, client.router, said.get("task_id") or fresh_id(), args, kwargs, said, parent, now_wall_s
    )
    document = encode_task(draft, client.table_for(draft.serializer), now_wall_s=now_wall_s)
    client.check_size(draft.task, document)
    refuse_unreadable(document)
    return document


def request_of(plan: TaskPlan, document: bytes) -> Context:
    """The request of the execution that a message asks for, here.

    :raises MalformedMessage: a worker would not read it.
    """
    table = plan.client.table
    table.allow_unpickling()  # what is read is what was written here
    message = parse(document, table)
    request = context_of(
        message,
        message.payload(table),
        queue=message.routing_key,
        redelivered=False,
        crashes=0,
        node=socket.gethostname(),
    )
    request.is_eager = True
    request.delivery_info = {**(request.delivery_info or {}), "is_eager": True}
    return request


def next_request(plan: TaskPlan, retry: RetryPlan, request: Context) -> Context:
    """The request of the next attempt.

    :raises Exception: what a worker could not send either.
    """
    message = request.message
    assert message is not None  # it came from `request_of`
    (again,) = on_retry(plan.app, message, plan.client.table, message.routing_key, retry)
    return request_of(plan, again.document)


def refuse_unsendable(call: Any, parent: Context | None = None) -> None:
    """Refuse a call that could not be sent, before any of it runs.

    :param call: a signature that has all its arguments and options.
    :raises Exception: why it could not.
    """
    local = call.app.registry.get(call.task)
    if local is not None:
        plan, args, kwargs = local.sending_plan(), call.args, call.kwargs
        if plan.check is not None:
            plan.check(args, kwargs)
        if local.models is not None:
            args, kwargs = local.models.sendable(args, kwargs)
        document_of(plan, args, kwargs, call.options, parent)

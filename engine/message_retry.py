"""Sending a message again: the same id, and everything else that it said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ..serializers.registry import SerializerTable
from .message_draft import PERSISTENT, TRANSIENT, RawBody, TaskDraft
from .message_headers import PROTOCOL_KEYS
from .message_read import TaskMessage
from .message_write import encode_task

OWN_RETRY_HEADER = "prefork_retry"
"""The number of the attempt that a message was made for, where prefork made it."""

_X_DEATH = ("x-death", "x-first-death-", "x-last-death-")
_IN_BODY = frozenset({"callbacks", "errbacks", "chain", "chord", "serializer", "compression", "protocol"})


def retry_of(
    message: TaskMessage,
    table: SerializerTable,
    *,
    retries: int | None = None,
    eta_wall_s: float | None = None,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    now_wall_s: float | None = None,
    **changes: Any,
) -> bytes:
    """The document of a message that runs a task again: same id, one more retry (interop §4.3).

    All that the message said is kept, unknown headers and properties too; only headers that record
    dead-lettering by a broker and redelivery are dropped, as they are about the old message.

    :param retries: None counts one more.
    :param args: None keeps the arguments; with neither `args` nor `kwargs` given and none of
        `callbacks`, `errbacks`, `chain`, `chord`, `serializer`, `compression` changed, the body is
        sent on as it is.
    :param changes: other fields of `TaskDraft`; `headers` are added to those of the message.
    :raises MalformedMessage: the payload had to be decoded, and cannot be.
    :raises EncodeError: as `encode_task`.
    """
    opened = args is not None or kwargs is not None or not _IN_BODY.isdisjoint(changes)
    draft = draft_of(message, table, keep_body=not opened)
    draft.retries = message.retries + 1 if retries is None else retries
    draft.eta_wall_s = eta_wall_s
    if args is not None:
        draft.args = args
    if kwargs is not None:
        draft.kwargs = kwargs
    changes["headers"] = {
        **(draft.headers or {}),
        **(changes.get("headers") or {}),
        OWN_RETRY_HEADER: draft.retries,
    }
    draft = msgspec.structs.replace(draft, **changes)
    return encode_task(draft, table, now_wall_s=now_wall_s)


def draft_of(message: TaskMessage, table: SerializerTable, *, keep_body: bool = False) -> TaskDraft:
    """A draft that says what a message said, in protocol 2.

    :param keep_body: send the serialized body on unread, if it is one of protocol 2.
    :raises MalformedMessage: the payload had to be decoded, and cannot be.
    """
    draft = TaskDraft(
        task=message.task,
        id=message.id,
        queue=message.routing_key,
        exchange=message.exchange,
        eta_wall_s=message.eta_wall_s,
        expires_wall_s=message.expires_wall_s,
        retries=message.retries,
        time_limit_s=message.time_limit_s,
        soft_time_limit_s=message.soft_time_limit_s,
        root_id=message.root_id,
        parent_id=message.parent_id,
        group=message.group,
        group_index=message.group_index,
        shadow=message.shadow,
        ignore_result=message.ignore_result,
        argsrepr=message.argsrepr,
        kwargsrepr=message.kwargsrepr,
        origin=message.origin,
        replaced_task_nesting=message.replaced_task_nesting,
        stamped_headers=message.stamped_headers,
        stamps=message.stamps,
        reply_to=message.reply_to or "",
        correlation_id=message.correlation_id,
        priority=message.priority,
        delivery_mode=TRANSIENT if message.envelope.properties.delivery_mode == TRANSIENT else PERSISTENT,
        headers=_custom_headers(message),
        properties=message.envelope.more_properties,
    )
    if keep_body and message.protocol == 2:
        envelope = message.envelope
        draft.raw = RawBody(
            envelope.body, envelope.content_type, envelope.content_encoding, message.compression
        )
        return draft
    args, kwargs, embed = message.payload(table)
    draft.args, draft.kwargs = args, kwargs
    draft.callbacks, draft.errbacks = embed.callbacks, embed.errbacks
    draft.chain, draft.chord = embed.chain, embed.chord
    draft.serializer, draft.compression = message.content_type, message.compression
    return draft


def _custom_headers(message: TaskMessage) -> dict[str, Any] | None:
    """Headers that the protocol does not write itself, without the traces of the old message."""
    dropped = PROTOCOL_KEYS | {"redelivered"}
    kept = {
        key: value
        for key, value in (message.more_headers or {}).items()
        if key not in dropped and not key.startswith(_X_DEATH)
    }
    return kept or None

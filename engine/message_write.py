"""Writing a task message: protocol 2 unless protocol 1 is asked for.

A message whose headers are those of the protocol alone is written by msgspec in one pass; one with
custom headers, stamps or odd properties goes through kombu's JSON. Facts: interop §2, §3, §4.3.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from ..serializers.base import EncodeError
from ..serializers.registry import SerializerTable
from ..transports import envelope as envelopes
from ..transports.base import Message
from ..transports.identifiers import fresh_id
from .message_draft import RawBody, TaskDraft, encode_body, time_text
from .message_repr import bounded_repr


class _Headers(msgspec.Struct, gc=False):
    """Protocol 2, in the order in which peers write it."""

    lang: str
    task: str
    id: str
    shadow: str | None
    eta: str | None
    expires: str | None
    group: str | None
    group_index: int | None
    retries: int
    timelimit: tuple[float | None, float | None]
    root_id: str
    parent_id: str | None
    argsrepr: str
    kwargsrepr: str
    origin: str | None
    ignore_result: bool | None
    replaced_task_nesting: int
    stamped_headers: list[str] | None
    stamps: dict[str, Any]
    compression: str | msgspec.UnsetType


class _To(msgspec.Struct, gc=False):
    exchange: str
    routing_key: str


class _Properties(msgspec.Struct, gc=False):
    correlation_id: str
    reply_to: str
    delivery_mode: int
    delivery_info: _To
    priority: int
    expiration: str | msgspec.UnsetType
    body_encoding: str
    delivery_tag: str


def encode_task(
    draft: TaskDraft, table: SerializerTable, *, now_wall_s: float | None = None, reprs: bool = False
) -> bytes:
    """The document of a task message.

    :param now_wall_s: Unix time; with it, a message that expires says so to the broker as well.
    :param reprs: show the arguments in the headers, where every reader of the broker, of events and
        of logs sees them. Off, because arguments hold secrets.
    :raises EncodeError: an argument or header has no form; the error names it (``args[1]['user']``).
    :raises UnknownSerializer: the table does not have the draft's serializer.
    :raises UnknownCompression: the method is not known, or not installed.
    :raises ValueError: a time or limit that cannot be written.
    """
    body = encode_body(draft, table)
    headers = _headers(draft, body, reprs)
    properties = _properties(draft, now_wall_s)
    if draft.protocol == 2 and draft.headers is None and draft.properties is None and not draft.stamps:
        try:
            return envelopes.encode_exact(
                body.body, body.content_type, body.content_encoding, headers, properties
            )
        except UnicodeEncodeError:
            # A lone surrogate in a name: the general way below can write it.
            pass
    return _encode_loosely(_message(draft, body, headers, properties), table)


def build(
    draft: TaskDraft, table: SerializerTable, *, now_wall_s: float | None = None, reprs: bool = False
) -> Message:
    """The same as a message, for transports that do not store documents.

    :raises EncodeError: and the others, as `encode_task`.
    """
    body = encode_body(draft, table)
    return _message(draft, body, _headers(draft, body, reprs), _properties(draft, now_wall_s))


def _headers(draft: TaskDraft, body: RawBody, reprs: bool) -> _Headers:
    return _Headers(
        "py",
        draft.task,
        draft.id,
        draft.shadow,
        time_text(draft.eta_wall_s),
        time_text(draft.expires_wall_s),
        draft.group,
        draft.group_index,
        draft.retries,
        (_checked_s(draft.time_limit_s), _checked_s(draft.soft_time_limit_s)),
        draft.root_id or draft.id,
        draft.parent_id,
        (draft.argsrepr or bounded_repr(tuple(draft.args))) if reprs else draft.argsrepr,
        (draft.kwargsrepr or bounded_repr(dict(draft.kwargs))) if reprs else draft.kwargsrepr,
        draft.origin,
        draft.ignore_result,
        draft.replaced_task_nesting,
        draft.stamped_headers,
        draft.stamps or {},
        msgspec.UNSET if body.compression is None else body.compression,
    )


def _checked_s(limit_s: float | None) -> float | None:
    if limit_s is not None and not math.isfinite(limit_s):
        raise ValueError(f"not a time limit: {limit_s!r}")
    return limit_s


def _properties(draft: TaskDraft, now_wall_s: float | None) -> _Properties:
    expires_wall_s = draft.expires_wall_s
    expiration: str | msgspec.UnsetType = msgspec.UNSET
    if expires_wall_s is not None and now_wall_s is not None:
        expiration = str(max(0, int((expires_wall_s - now_wall_s) * 1000)))
    return _Properties(
        draft.correlation_id or draft.id,
        draft.reply_to,
        draft.delivery_mode,
        _To(draft.exchange, draft.queue if draft.routing_key is None else draft.routing_key),
        draft.priority,
        expiration,
        "base64",
        fresh_id(),
    )


def _message(draft: TaskDraft, body: RawBody, headers: _Headers, properties: _Properties) -> Message:
    # Protocol 1 keeps everything but the custom headers in the body.
    own: dict[str, Any] = {} if draft.protocol == 1 else _as_dict(headers)
    if draft.protocol == 1 and body.compression is not None:
        own["compression"] = body.compression
    return Message(
        body=body.body,
        content_type=body.content_type,
        content_encoding=body.content_encoding,
        headers={**own, **(draft.headers or {})},
        properties={
            **(draft.properties or {}),
            **_as_dict(properties),
            "delivery_info": _as_dict(properties.delivery_info),
        },
    )


def _as_dict(struct: msgspec.Struct) -> dict[str, Any]:
    """The fields that are set, their values as they are."""
    found = msgspec.structs.asdict(struct)
    return {name: value for name, value in found.items() if value is not msgspec.UNSET}


def _encode_loosely(message: Message, table: SerializerTable) -> bytes:
    try:
        return envelopes.encode(
            message, delivery_tag=message.properties["delivery_tag"], dumps=table.json.dumps
        )
    except EncodeError as exc:
        root, steps = str(exc.steps[0]) if exc.steps else "", exc.steps[1:]
        raise EncodeError(steps, exc.value_type, exc.remedy, serializer=exc.serializer, root=root) from exc

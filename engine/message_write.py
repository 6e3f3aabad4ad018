"""Writing a task message: protocol 2 unless protocol 1 is asked for.

A message whose headers are those of the protocol alone is written by msgspec in one pass; one with
custom headers, stamps or odd properties goes through kombu's JSON. Facts: interop §2, §3, §4.3.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ..serializers import iso8601
from ..serializers.base import EncodeError
from ..serializers.compression import compress
from ..serializers.registry import SerializerTable
from ..transports import envelope as envelopes
from ..transports.base import Message
from ..transports.identifiers import fresh_id
from .message_headers import PROTOCOL_KEYS
from .message_read import Signature, TaskMessage

REPR_CHARS_MAX = 1024
_X_DEATH = ("x-death", "x-first-death-", "x-last-death-")
_PERSISTENT = 2


class RawBody(msgspec.Struct, frozen=True, gc=False):
    """A body that is already serialized, kept as it is when a message is sent again."""

    body: bytes
    content_type: str
    content_encoding: str
    compression: str | None


class TaskDraft(msgspec.Struct, kw_only=True):
    """Everything there is to say about a task message that is to be written.

    :param queue: its name is the routing key, unless `routing_key` is given.
    :param compression: a method's name or alias; None does not compress.
    :param ignore_result: None means that the task decides (interop §2.1).
    :param reply_to: where an RPC client waits; "" for others.
    :param chain: in reverse order, the last runs next.
    :param headers: custom headers; they override the protocol's, as peers do.
    :param properties: more properties, flat.
    :param protocol: 2, or 1 for very old workers.
    :param raw: the body, in place of `args`, `kwargs`, what follows, `serializer` and `compression`.
    """

    task: str
    id: str
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = {}
    queue: str = "celery"
    exchange: str = ""
    routing_key: str | None = None
    serializer: str = "json"
    compression: str | None = None
    eta_wall_s: float | None = None
    expires_wall_s: float | None = None
    retries: int = 0
    time_limit_s: float | None = None
    soft_time_limit_s: float | None = None
    root_id: str | None = None
    parent_id: str | None = None
    group: str | None = None
    group_index: int | None = None
    shadow: str | None = None
    ignore_result: bool | None = None
    argsrepr: str = ""
    kwargsrepr: str = ""
    origin: str | None = None
    replaced_task_nesting: int = 0
    stamped_headers: list[str] | None = None
    stamps: dict[str, Any] | None = None
    callbacks: list[Signature] | None = None
    errbacks: list[Signature] | None = None
    chain: list[Signature] | None = None
    chord: Signature | None = None
    reply_to: str = ""
    correlation_id: str | None = None
    priority: int = 0
    delivery_mode: int = _PERSISTENT
    headers: Mapping[str, Any] | None = None
    properties: Mapping[str, Any] | None = None
    protocol: int = 2
    raw: RawBody | None = None


class _Headers(msgspec.Struct, gc=False, omit_defaults=False):
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
    :raises ValueError: a time that cannot be written.
    """
    body = draft.raw or _encode_body(draft, table)
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
    body = draft.raw or _encode_body(draft, table)
    return _message(draft, body, _headers(draft, body, reprs), _properties(draft, now_wall_s))


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
    :param changes: other fields of `TaskDraft`.
    :raises MalformedMessage: the payload had to be decoded, and cannot be.
    :raises EncodeError: as `encode_task`.
    """
    in_body = {"callbacks", "errbacks", "chain", "chord", "serializer", "compression", "protocol"}
    opened = args is not None or kwargs is not None or not in_body.isdisjoint(changes)
    draft = draft_of(message, table, keep_body=not opened)
    draft.retries = message.retries + 1 if retries is None else retries
    draft.eta_wall_s = eta_wall_s
    if args is not None:
        draft.args = args
    if kwargs is not None:
        draft.kwargs = kwargs
    if changes:
        draft = msgspec.structs.replace(draft, **changes)
    return encode_task(draft, table, now_wall_s=now_wall_s)


def draft_of(message: TaskMessage, table: SerializerTable, *, keep_body: bool = False) -> TaskDraft:
    """A draft that says what a message said, in protocol 2.

    :param keep_body: send the serialized body on unread, if it is one of protocol 2.
    :raises MalformedMessage: the payload or a header cannot be decoded.
    """
    headers, properties = _extras(message, table)
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
        headers=headers or None,
        properties=properties or None,
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


def _extras(message: TaskMessage, table: SerializerTable) -> tuple[dict[str, Any], dict[str, Any]]:
    """Headers and properties that the protocol does not write itself."""
    whole = message.envelope.message(table.json.loads)
    dropped = PROTOCOL_KEYS | {"redelivered"}
    headers = {
        key: value
        for key, value in whole.headers.items()
        if key not in dropped and not key.startswith(_X_DEATH)
    }
    written = frozenset(_Properties.__struct_fields__) - {"delivery_mode"}
    properties = {key: value for key, value in whole.properties.items() if key not in written}
    if properties.get("delivery_mode") == _PERSISTENT:
        del properties["delivery_mode"]
    return headers, properties


def _encode_body(draft: TaskDraft, table: SerializerTable) -> RawBody:
    serializer = table.by_name(draft.serializer)
    try:
        body = serializer.dumps(_payload_1(draft) if draft.protocol == 1 else _payload_2(draft))
    except EncodeError as exc:
        raise _rooted(exc) from exc
    compression = None
    if draft.compression is not None:
        body, compression = compress(body, draft.compression)
    return RawBody(body, serializer.content_type, serializer.content_encoding, compression)


def _payload_2(draft: TaskDraft) -> tuple[Any, ...]:
    embed = {
        "callbacks": draft.callbacks,
        "errbacks": draft.errbacks,
        "chain": draft.chain,
        "chord": draft.chord,
    }
    return draft.args, draft.kwargs, embed


def _payload_1(draft: TaskDraft) -> dict[str, Any]:
    if draft.chain:
        raise ValueError("protocol 1 cannot carry a chain; link its steps as callbacks (interop §3)")
    return {
        "task": draft.task,
        "id": draft.id,
        "args": draft.args,
        "kwargs": draft.kwargs,
        "group": draft.group,
        "group_index": draft.group_index,
        "retries": draft.retries,
        "eta": _time_text(draft.eta_wall_s),
        "expires": _time_text(draft.expires_wall_s),
        "utc": True,
        "callbacks": draft.callbacks,
        "errbacks": draft.errbacks,
        "timelimit": (draft.time_limit_s, draft.soft_time_limit_s),
        "taskset": draft.group,
        "chord": draft.chord,
    }


_ROOTS: tuple[str, str] = ("args", "kwargs")
_OPTION_OF = (("callbacks", "link"), ("errbacks", "link_error"))


def _rooted(error: EncodeError) -> EncodeError:
    """The error, with the path as the caller of the task would write it."""
    steps = error.steps
    if not steps:
        return error
    first, rest = steps[0], steps[1:]
    if isinstance(first, int):
        if first < len(_ROOTS):
            root = _ROOTS[first]
        else:
            root, rest = str(rest[0]) if rest else "", rest[1:]
    else:
        root = str(first)
    root = dict(_OPTION_OF).get(root, root)
    return EncodeError(rest, error.value_type, error.remedy, serializer=error.serializer, root=root)


def _headers(draft: TaskDraft, body: RawBody, reprs: bool) -> _Headers:
    return _Headers(
        "py",
        draft.task,
        draft.id,
        draft.shadow,
        _time_text(draft.eta_wall_s),
        _time_text(draft.expires_wall_s),
        draft.group,
        draft.group_index,
        draft.retries,
        (draft.time_limit_s, draft.soft_time_limit_s),
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
        raise EncodeError(
            steps, exc.value_type, exc.remedy, serializer=exc.serializer, root=root
        ) from exc


def _time_text(wall_s: float | None) -> str | None:
    return None if wall_s is None else iso8601.utc_text(wall_s)


def bounded_repr(value: Any) -> str:
    """A repr of at most `REPR_CHARS_MAX` characters; a ``__repr__`` that raises is survived."""
    shortener = reprlib.Repr()
    shortener.maxlevel = 3
    shortener.maxtuple = shortener.maxlist = shortener.maxdict = shortener.maxset = 64
    shortener.maxstring = shortener.maxother = 256
    try:
        text = shortener.repr(value)
    # Some `__repr__` raised.
    except Exception as exc:
        text = f"<{type(value).__name__}: its repr raises {type(exc).__name__}>"
    return text if len(text) <= REPR_CHARS_MAX else text[: REPR_CHARS_MAX - 1] + "…"

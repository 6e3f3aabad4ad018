"""Reading a task message, in two steps.

`parse` reads envelope and headers: enough to decide whether a message may run now. Only then
`TaskMessage.payload` decompresses and decodes the body. Protocol 1 keeps everything in the body,
so for it, and for hybrids of the two protocols, `parse` decodes the body already.
Facts: interop §2, §3, §4.4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import msgspec

from ..serializers import iso8601
from ..serializers.base import ContentDisallowed, DecodeError
from ..serializers.depth import LEVELS_MAX, overflows
from ..serializers.registry import SerializerTable
from ..transports import envelope as envelopes
from ..transports.envelope import DeliveryInfo, Envelope, MalformedEnvelope, borne_priority
from .message_errors import Malformed, MalformedMessage, encodable, malformed
from .message_headers import (
    CONTEXT_KEYS,
    ID_CHARS_MAX,
    RETRIES_MAX,
    Limit,
    WireHeaders,
    decode_dict,
    headers_of,
    read_headers,
)
from .unset import UNSET

TIME_LIMIT_S_MAX = 1e9
"""About thirty years; more is a mistake or an attack."""

Signature = dict[str, Any]


class Embed(msgspec.Struct, gc=False):
    """What follows a task: signatures in their dict form (interop §2.2, §9.1).

    :param chain: in reverse order, the last runs next.
    """

    callbacks: list[Signature] | None = None
    errbacks: list[Signature] | None = None
    chain: list[Signature] | None = None
    chord: Signature | None = None


class TaskMessage(msgspec.Struct, gc=False):
    """A task message, all but its arguments.

    :param eta_wall_s: Unix time before which it must not run; None is at once.
    :param expires_wall_s: Unix time after which it must not run any more.
    :param time_limit_s: hard limit of this call; None leaves it to the task. (0 on the wire is None:
        that is what it means to peers.)
    :param ignore_result: None leaves it to the task.
    :param protocol: 2, or 1; a hybrid (headers of 2, body of 1) is 1 with `hybrid` set.
    :param more_headers: all headers, where there are others than the protocol's; else None.
    :param redelivered: some broker or peer says that it was delivered before.
    """

    id: str
    task: str
    retries: int
    eta_wall_s: float | None
    expires_wall_s: float | None
    time_limit_s: float | None
    soft_time_limit_s: float | None
    root_id: str | None
    parent_id: str | None
    group: str | None
    group_index: int | None
    shadow: str | None
    ignore_result: bool | None
    argsrepr: str
    kwargsrepr: str
    origin: str | None
    replaced_task_nesting: int
    stamped_headers: list[str] | None
    stamps: dict[str, Any] | None
    compression: str | None
    content_type: str
    content_encoding: str
    reply_to: str | None
    correlation_id: str | None
    priority: int
    exchange: str
    routing_key: str
    redelivered: bool
    envelope: Envelope
    more_headers: dict[str, Any] | None = None
    protocol: int = 2
    hybrid: bool = False
    decoded: Any = UNSET

    def payload(self, table: SerializerTable) -> tuple[list[Any], dict[str, Any], Embed]:
        """Arguments, keyword arguments, and what follows the task.

        :raises MalformedMessage: content that is refused, cannot be decoded, or has no such shape.
        """
        decoded = self.decoded
        if decoded is UNSET:
            decoded = _decode_body(self.envelope, self.compression, table, self.id, self.task)
        if isinstance(decoded, (list, tuple)) and len(decoded) == 3:
            args, kwargs, embed = decoded
        elif isinstance(decoded, dict) and ("args" in decoded or self.protocol == 1):
            args, kwargs, embed = decoded.get("args", []), decoded.get("kwargs", {}), decoded
        else:
            self._refuse(Malformed.BAD_PAYLOAD, "the body is not [args, kwargs, embed]")
        if type(args) is not list:
            if not isinstance(args, (list, tuple)):
                self._refuse(Malformed.BAD_ARGS, f"args are a {type(args).__name__}, not a list")
            args = list(args)
        if not isinstance(kwargs, dict):
            self._refuse(Malformed.BAD_KWARGS, f"kwargs are a {type(kwargs).__name__}, not an object")
        for key in kwargs:
            if not isinstance(key, str):
                self._refuse(Malformed.BAD_KWARGS, f"a keyword is a {type(key).__name__}, not a string")
        return args, kwargs, self._embed(embed, decoded is embed)

    def all_headers(self, table: SerializerTable) -> dict[str, Any]:
        """Every header of the message, as sent."""
        return self.more_headers or decode_dict(self.envelope.headers, table)

    @property
    def headers(self) -> dict[str, Any] | None:
        """What the sender added to the protocol's headers; None if nothing (interop §2.1)."""
        found = self.more_headers
        if found is None:
            return None
        explicit = found.get("headers")
        if isinstance(explicit, dict):
            return explicit
        return {key: value for key, value in found.items() if key not in CONTEXT_KEYS} or None

    def _embed(self, found: Any, is_body_of_protocol_1: bool) -> Embed:
        if found is None or found == _NOTHING_FOLLOWS:
            return Embed()
        if not isinstance(found, dict):
            self._refuse(Malformed.BAD_EMBED, f"embed is a {type(found).__name__}, not an object")
        chord = found.get("chord")
        if chord is not None and not _is_signature(chord):
            self._refuse(Malformed.BAD_EMBED, "chord is not a signature")
        return Embed(
            self._signatures(found, "callbacks"),
            self._signatures(found, "errbacks"),
            # A chain cannot be told in protocol 1: there the key would be somebody else's.
            None if is_body_of_protocol_1 else self._signatures(found, "chain"),
            chord,
        )

    def _signatures(self, embed: Mapping[str, Any], name: str) -> list[Signature] | None:
        found = embed.get(name)
        if found is None:
            return None
        if not isinstance(found, (list, tuple)) or not all(map(_is_signature, found)):
            self._refuse(Malformed.BAD_EMBED, f"{name} is not a list of signatures")
        return list(found)

    def _refuse(self, reason: Malformed, detail: str) -> NoReturn:
        raise MalformedMessage(reason, detail, self.id, self.task)


def parse(document: bytes, table: SerializerTable) -> TaskMessage:
    """Read envelope and headers of a task message; the body too where the protocol needs it.

    The content type is checked here, so that a refused message is refused before it waits.

    :raises MalformedMessage: and nothing else, whatever the bytes are.
    """
    if overflows(document):
        raise MalformedMessage(Malformed.TOO_DEEP, f"nested more than {LEVELS_MAX} levels deep")
    try:
        envelope = envelopes.decode(document)
    except MalformedEnvelope as exc:
        raise malformed(exc) from exc
    headers, more_headers = read_headers(envelope.headers, table)
    try:
        table.decoder(envelope.content_type, envelope.content_encoding)
    except (ContentDisallowed, DecodeError) as exc:
        raise malformed(exc, headers.id, headers.task) from exc
    if headers.task is not None and headers.id is not None and _is_surely_protocol_2(envelope, headers):
        message = _message(headers, envelope)
    else:
        message = _parse_with_body(envelope, headers, table)
    message.more_headers = more_headers
    return message


def _is_surely_protocol_2(envelope: Envelope, headers: WireHeaders) -> bool:
    """Whether the body can be left alone: it begins as a list does.

    Pickles are left alone too: not every process that parses a message may read them.
    """
    first = envelope.body[:1]
    if envelope.content_type == "application/json":
        return first == b"[" and headers.compression is None
    if envelope.content_type == "application/x-msgpack":
        return first == b"\x93" and headers.compression is None
    return envelope.content_type == "application/x-python-serialize"


def _parse_with_body(envelope: Envelope, headers: WireHeaders, table: SerializerTable) -> TaskMessage:
    """Protocol 1, hybrids, and what cannot be told apart without a look (interop §3)."""
    body = _decode_body(envelope, headers.compression, table, headers.id, headers.task)
    has_headers = headers.task is not None
    hybrid = has_headers and isinstance(body, dict) and "args" in body
    if hybrid:
        read = headers_of({**body, **decode_dict(envelope.headers, table)})
    elif has_headers:
        read = headers
    elif isinstance(body, dict):
        read = headers_of({**body, "group": body.get("taskset", body.get("group"))})
        read.compression = headers.compression
    else:
        raise MalformedMessage(Malformed.NO_TASK, "neither headers nor body name a task", headers.id)
    is_protocol_1 = hybrid or not has_headers
    message = _message(read, envelope, naive_is_local=is_protocol_1 and body.get("utc") is False)
    message.decoded = body
    message.protocol = 1 if is_protocol_1 else 2
    message.hybrid = hybrid
    return message


def _message(headers: WireHeaders, envelope: Envelope, *, naive_is_local: bool = False) -> TaskMessage:
    task, task_id = headers.task, headers.id
    if not task:
        raise MalformedMessage(Malformed.NO_TASK, "the task has no name", task_id)
    if not task_id or len(task_id) > ID_CHARS_MAX:
        detail = f"an id of {len(task_id)} characters" if task_id else "the task has no id"
        raise MalformedMessage(Malformed.NO_ID, detail, None, task)
    # Both name things that are stored elsewhere, byte by byte; other headers are only shown.
    if encodable(task) != task:
        raise MalformedMessage(Malformed.NO_TASK, "the task's name has a lone surrogate", task_id, task)
    if encodable(task_id) != task_id:
        raise MalformedMessage(Malformed.NO_ID, f"the id has a lone surrogate: {task_id}", None, task)
    retries = headers.retries or 0
    if not 0 <= retries <= RETRIES_MAX:
        raise MalformedMessage(Malformed.BAD_HEADER, f"header 'retries' is {retries:.3g}", task_id, task)
    eta, expires = headers.eta, headers.expires
    if eta is not None or expires is not None:
        eta_wall_s = _wall_s(eta, naive_is_local, Malformed.BAD_ETA, task_id, task)
        expires_wall_s = _wall_s(expires, naive_is_local, Malformed.BAD_EXPIRES, task_id, task)
    else:
        eta_wall_s = expires_wall_s = None
    limits = headers.timelimit
    if limits is None or limits == _NO_LIMITS:
        limits = _NO_LIMITS
    else:
        limits = _limit_s(limits[0], task_id, task), _limit_s(limits[1], task_id, task)
    properties = envelope.properties
    to = properties.delivery_info or _NOWHERE
    return TaskMessage(
        task_id,
        task,
        retries,
        eta_wall_s,
        expires_wall_s,
        limits[0],
        limits[1],
        headers.root_id,
        headers.parent_id,
        headers.group,
        headers.group_index,
        headers.shadow,
        headers.ignore_result,
        headers.argsrepr or "",
        headers.kwargsrepr or "",
        headers.origin,
        headers.replaced_task_nesting or 0,
        headers.stamped_headers,
        headers.stamps,
        headers.compression,
        envelope.content_type,
        envelope.content_encoding,
        _queue_name(properties.reply_to),
        properties.correlation_id,
        borne_priority(properties.priority),
        to.exchange or "",
        to.routing_key or "",
        bool(headers.redelivered or to.redelivered),
        envelope,
    )


def _queue_name(name: str | None) -> str | None:
    """The name, unless it has a lone surrogate: no queue can have that."""
    return name if name is None or name.isascii() or encodable(name) == name else None


_NOTHING_FOLLOWS = dict.fromkeys(Embed.__struct_fields__)
_NO_LIMITS: tuple[Limit, Limit] = (None, None)
_NOWHERE = DeliveryInfo()


def _wall_s(
    text: str | None, naive_is_local: bool, reason: Malformed, task_id: str, task: str
) -> float | None:
    if text is None:
        return None
    try:
        when = iso8601.parse(text)
        if naive_is_local and when.tzinfo is None:
            return when.timestamp()
        return iso8601.unix(when)
    # OverflowError: a local time before the year 1.
    except (ValueError, OverflowError) as exc:
        raise MalformedMessage(reason, str(exc)[:200], task_id, task) from exc


def _limit_s(limit: Limit, task_id: str, task: str) -> float | None:
    if limit is None or limit == 0:
        return None
    # Written so that NaN is refused too.
    if not 0 < limit <= TIME_LIMIT_S_MAX:
        raise MalformedMessage(Malformed.BAD_TIMELIMIT, f"a time limit of {limit:.3g} s", task_id, task)
    return float(limit)


def _decode_body(
    envelope: Envelope, compression: str | None, table: SerializerTable, task_id: str | None, task: str | None
) -> Any:
    try:
        return table.decode(envelope.body, envelope.content_type, envelope.content_encoding, compression)
    except (ContentDisallowed, DecodeError) as exc:
        raise malformed(exc, task_id, task) from exc


def _is_signature(found: Any) -> bool:
    return isinstance(found, dict) and isinstance(found.get("task"), str)

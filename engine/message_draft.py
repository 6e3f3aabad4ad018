"""What there is to say about a task message, and its body in the form of either protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec

from ..serializers import iso8601
from ..serializers.base import EncodeError
from ..serializers.compression import compress
from ..serializers.registry import SerializerTable
from .message_read import Signature

TRANSIENT, PERSISTENT = 1, 2
"""The values of ``delivery_mode``: whether a message survives a restart of the broker."""


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
    delivery_mode: int = PERSISTENT
    headers: Mapping[str, Any] | None = None
    properties: Mapping[str, Any] | None = None
    protocol: int = 2
    raw: RawBody | None = None


def encode_body(draft: TaskDraft, table: SerializerTable) -> RawBody:
    """Serialize (and compress) what the draft says that belongs into the body.

    :raises EncodeError: an argument has no form; the path begins with ``args``, ``kwargs``, ``link`` ...
    :raises UnknownSerializer: the table does not have the draft's serializer.
    :raises UnknownCompression: the method is not known, or not installed.
    """
    if draft.raw is not None:
        return draft.raw
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
        "eta": time_text(draft.eta_wall_s),
        "expires": time_text(draft.expires_wall_s),
        "utc": True,
        "callbacks": draft.callbacks,
        "errbacks": draft.errbacks,
        "timelimit": (draft.time_limit_s, draft.soft_time_limit_s),
        "taskset": draft.group,
        "chord": draft.chord,
    }


_ROOTS = ("args", "kwargs")
_OPTIONS: Mapping[str, str] = MappingProxyType({"callbacks": "link", "errbacks": "link_error"})


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
    root = _OPTIONS.get(root, root)
    return EncodeError(rest, error.value_type, error.remedy, serializer=error.serializer, root=root)


def time_text(wall_s: float | None) -> str | None:
    """A Unix time as peers write it.

    :raises ValueError: no such time.
    """
    return None if wall_s is None else iso8601.utc_text(wall_s)

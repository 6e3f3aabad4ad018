"""The headers of a task message, typed: what protocol 2 says about a task outside its body.

The fast way reads JSON straight into a struct. What that refuses is read once more into a dict,
with kombu's two-key objects turned into what they stand for, and checked field by field, so that
the reason of a refusal can name the header. Facts: interop §2.1, §3.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

import msgspec

from ..serializers.base import DecodeError, DecodeFault
from ..serializers.registry import SerializerTable
from .message_errors import Malformed, MalformedMessage

RETRIES_MAX = 2**31 - 1
ID_CHARS_MAX = 1024

Limit = int | float | None


class WireHeaders(msgspec.Struct, gc=False):
    """The protocol's headers. Times are still text, and nothing is checked beyond its type."""

    lang: Any = None
    task: str | None = None
    id: str | None = None
    shadow: str | None = None
    eta: str | None = None
    expires: str | None = None
    group: str | None = None
    group_index: int | None = None
    retries: int | None = 0
    timelimit: tuple[Limit, Limit] | None = None
    root_id: str | None = None
    parent_id: str | None = None
    argsrepr: str | None = None
    kwargsrepr: str | None = None
    origin: str | None = None
    ignore_result: bool | None = None
    replaced_task_nesting: int | None = 0
    stamped_headers: list[str] | None = None
    stamps: dict[str, Any] | None = None
    compression: str | None = None
    redelivered: bool | None = None


class _StrictHeaders(WireHeaders, gc=False, forbid_unknown_fields=True):
    """For the typed pass: what it takes has no header that is not in it."""


PROTOCOL_KEYS = frozenset(WireHeaders.__struct_fields__) - {"redelivered"}
"""The headers that the protocol itself writes."""

CONTEXT_KEYS = PROTOCOL_KEYS | frozenset(
    "args callbacks called_directly chain children chord correlation_id delivery_info errbacks headers "
    "hostname is_eager kwargs logfile loglevel properties reply_to soft_time_limit taskset time_limit "
    "utc".split()
)
"""The names that are never custom headers: peers hide them from ``request.headers`` (interop §2.1)."""

_decode_typed = msgspec.json.Decoder(_StrictHeaders).decode


def read_headers(raw: msgspec.Raw, table: SerializerTable) -> tuple[WireHeaders, dict[str, Any] | None]:
    """Read headers; only their types are checked.

    :returns: the protocol's headers, and all headers; None for the latter if there are no others.
    :raises MalformedMessage: a header of the wrong type, named in the detail.
    """
    try:
        headers = _decode_typed(raw)
        if not headers.stamps and headers.redelivered is None:
            return headers, None
    except (msgspec.MsgspecError, ValueError, RecursionError):
        # ValueError: bytes that are not UTF-8. All of it is looked at again, less strictly.
        pass
    found = decode_dict(raw, table)
    return headers_of(found), found


def decode_dict(raw: msgspec.Raw, table: SerializerTable) -> dict[str, Any]:
    """All headers as a dict, two-key objects turned into what they stand for.

    :raises MalformedMessage: not JSON, or an unknown two-key object.
    """
    try:
        found = table.json.loads(bytes(raw))
    except DecodeError as exc:
        reason = Malformed.TOO_DEEP if exc.reason is DecodeFault.TOO_DEEP else Malformed.BAD_HEADERS
        raise MalformedMessage(reason, exc.detail) from exc
    if isinstance(found, dict):
        return found
    raise MalformedMessage(Malformed.BAD_HEADERS, f"headers stand for a {type(found).__name__}")


def headers_of(found: Mapping[str, Any]) -> WireHeaders:
    """The struct of loosely typed headers, or of the body of protocol 1 (interop §3).

    :raises MalformedMessage: a value of the wrong type, named in the detail.
    """
    try:
        return msgspec.convert(found, WireHeaders)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        # ValueError, OverflowError: numbers beyond any sense. The checks below name the header.
        pass
    task_id, task = _shown(found.get("id")), _shown(found.get("task"))
    known: dict[str, Any] = {}
    for name, (check, reason) in _CHECKS.items():
        value = found.get(name)
        if value is None:
            continue
        try:
            known[name] = check(value)
        except ValueError as exc:
            raise MalformedMessage(reason, f"header {name!r} {exc}", task_id, task) from exc
    return WireHeaders(**known)


def _shown(value: Any) -> str | None:
    return str(value)[:ID_CHARS_MAX] if isinstance(value, (str, uuid.UUID)) else None


def _text(value: Any) -> str:
    if isinstance(value, (str, uuid.UUID)):
        return str(value)
    raise ValueError(f"is a {type(value).__name__}, not a string")


def _time(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else _text(value)


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"is a {type(value).__name__}, not an integer")
    if not math.isfinite(value) or value != int(value):
        raise ValueError("is not an integer")
    return int(value)


def _flag(value: Any) -> bool:
    if isinstance(value, (bool, int)) and value in (0, 1):
        return bool(value)
    raise ValueError(f"is a {type(value).__name__}, not true or false")


def _limits(value: Any) -> tuple[Limit, Limit]:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError("is not a list of two: hard limit, soft limit")
    for limit in value:
        if isinstance(limit, bool) or not isinstance(limit, (int, float, type(None))):
            raise ValueError(f"holds a {type(limit).__name__}, not a number of seconds")
    return value[0], value[1]


def _texts(value: Any) -> list[str]:
    if isinstance(value, (list, tuple)) and all(isinstance(part, str) for part in value):
        return list(value)
    raise ValueError("is not a list of strings")


def _mapping(value: Any) -> dict[str, Any]:
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return value
    raise ValueError(f"is a {type(value).__name__}, not an object")


_CHECKS: Mapping[str, tuple[Callable[[Any], Any], Malformed]] = MappingProxyType(
    {
        "task": (_text, Malformed.NO_TASK),
        "id": (_text, Malformed.NO_ID),
        "shadow": (_text, Malformed.BAD_HEADER),
        "eta": (_time, Malformed.BAD_ETA),
        "expires": (_time, Malformed.BAD_EXPIRES),
        "group": (_text, Malformed.BAD_HEADER),
        "group_index": (_integer, Malformed.BAD_HEADER),
        "retries": (_integer, Malformed.BAD_HEADER),
        "timelimit": (_limits, Malformed.BAD_TIMELIMIT),
        "root_id": (_text, Malformed.BAD_HEADER),
        "parent_id": (_text, Malformed.BAD_HEADER),
        "argsrepr": (_text, Malformed.BAD_HEADER),
        "kwargsrepr": (_text, Malformed.BAD_HEADER),
        "origin": (_text, Malformed.BAD_HEADER),
        "ignore_result": (_flag, Malformed.BAD_HEADER),
        "replaced_task_nesting": (_integer, Malformed.BAD_HEADER),
        "stamped_headers": (_texts, Malformed.BAD_HEADER),
        "stamps": (_mapping, Malformed.BAD_HEADER),
        "compression": (_text, Malformed.BAD_HEADER),
        "redelivered": (_flag, Malformed.BAD_HEADER),
    }
)

"""The document in which a result is stored, and how it is read back (interop §8.2-8.4). Pure.

What a store returns is data from outside. A document can name an exception class; that class is
looked up among modules that are already imported, by the plain name of a class, and must be an
`Exception`. Nothing is imported, no attribute of an object is walked, and `SystemExit` and its like
are never made (faults §4.1, 98).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Protocol

from ..serializers.base import EncodeError
from ..serializers.compression import compress, decompress, short_name
from . import exceptions, states
from .einfo import bounded, safe_text
from .exceptions import RemoteTaskError

ARGS_MAX = 64
"""Arguments of an exception that are stored at most."""

ARG_TEXT_MAX = 16 * 1024
"""Characters of a text argument of an exception that are stored at most."""

DOCUMENT_BYTES_MAX = 128 * 1024 * 1024
"""Larger documents are not read: nobody but an attacker, or a mistake, writes one."""

_COMPRESSED = b"\x00celery-compressed\x00"
_OWN_MODULE = exceptions.__name__
_LIMITS_MODULE = "billiard.exceptions"
_FIELD_MODULES = frozenset({"celery.exceptions", _OWN_MODULE})


class Codec(Protocol):
    """What is needed of a serializer."""

    def dumps(self, value: Any) -> bytes:
        """Serialize."""

    def loads(self, data: bytes) -> Any:
        """Read."""


@dataclass(frozen=True)
class ResultDocument:
    """A result as it was stored.

    :ivar result: the return value; for exception states the raw value, see `rebuild_exception`.
    :ivar extended: name, args, kwargs, worker, retries, queue, where they were stored.
    """

    status: str
    result: Any
    traceback: str | None
    children: Any
    date_done: str | None
    task_id: str | None
    group_id: str | None
    parent_id: str | None
    extended: Mapping[str, Any]


class MalformedResult(ValueError):
    """A stored result is not a result document. Raised by readers; the store holds something else.

    :param why: what is wrong with it.
    """

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    def __str__(self) -> str:
        return f"the stored result cannot be read: {self.why}"


def iso_utc(wall_s: float) -> str:
    """Unix time as ISO 8601 in UTC."""
    return datetime.fromtimestamp(wall_s, timezone.utc).isoformat()


def encode(
    status: str,
    result: Any,
    *,
    task_id: str,
    serializer: Codec,
    traceback: str | None = None,
    children: Sequence[Any] | None = (),
    group_id: str | None = None,
    parent_id: str | None = None,
    date_done_wall_s: float | None = None,
    extended: Mapping[str, Any] | None = None,
) -> bytes:
    """Make the document of a result.

    :param result: the value; for exception states the exception, or what `exception_value` made.
    :param children: result tuples of the tasks that this one sent.
    :param date_done_wall_s: Unix time; only written for ready states.
    :param extended: fields of `result_extended`.
    :raises EncodeError: the value has no form in this serializer.
    """
    if isinstance(result, BaseException):
        result = exception_value(result, serializer)
    done = (
        iso_utc(date_done_wall_s) if date_done_wall_s is not None and status in states.READY_STATES else None
    )
    document: dict[str, Any] = {
        "status": status,
        "result": result,
        "traceback": None if traceback is None else bounded(traceback),
        "children": list(children) if children is not None else None,
        "date_done": done,
    }
    if group_id is not None:
        document["group_id"] = group_id
    if parent_id is not None:
        document["parent_id"] = parent_id
    if extended:
        document.update(extended)
    document["task_id"] = task_id
    try:
        return serializer.dumps(document)
    except EncodeError as exc:
        root, *steps = exc.steps or ("",)
        raise EncodeError(
            steps, exc.value_type, exc.remedy, serializer=exc.serializer, root=str(root)
        ) from exc


def exception_value(exc: BaseException, serializer: Codec) -> dict[str, Any]:
    """An exception as data: type, module and arguments; what cannot be encoded becomes its `repr`.

    Exceptions of ours that Celery has too are named as Celery names them.
    """
    cls = type(exc)
    module = cls.__module__
    if module == _OWN_MODULE and cls is not RemoteTaskError:
        module = "celery.exceptions"
    raw = getattr(exc, "args", ())
    args = list(raw[:ARGS_MAX]) if isinstance(raw, tuple) else []
    return {
        "exc_type": cls.__qualname__,
        "exc_message": [_encodable(arg, serializer) for arg in args],
        "exc_module": module,
    }


def _encodable(arg: Any, serializer: Codec) -> Any:
    if arg is None or isinstance(arg, (bool, int, float)):
        return arg
    if isinstance(arg, str):
        return bounded(arg, ARG_TEXT_MAX)
    try:
        data = serializer.dumps(arg)
    except Exception:  # noqa: BLE001 - a user's `__json__` may raise anything
        # Shown as text instead: an exception must always be storable.
        return safe_text(arg)
    return arg if len(data) <= ARG_TEXT_MAX else safe_text(arg)


_FIELDS = frozenset(
    {"status", "result", "traceback", "children", "date_done", "task_id", "group_id", "parent_id"}
)


def decode(document: bytes, serializer: Codec) -> ResultDocument:
    """Read a document; every shape that is not one is refused.

    :raises MalformedResult: it is no result document.
    :raises DecodeError: the bytes are not of this serializer, or compressed in a way that is not known.
    """
    if len(document) > DOCUMENT_BYTES_MAX:
        raise MalformedResult(f"it has {len(document)} bytes, of at most {DOCUMENT_BYTES_MAX}")
    if document.startswith(_COMPRESSED):
        document = _decompressed(document)
    data = serializer.loads(document)
    if not isinstance(data, dict):
        raise MalformedResult(f"it is a {type(data).__name__}, not a map")
    status = data.get("status")
    if not isinstance(status, str):
        raise MalformedResult("it has no status")
    return ResultDocument(
        status=status,
        result=data.get("result"),
        traceback=_text_or_none(data.get("traceback")),
        children=data.get("children"),
        date_done=_text_or_none(data.get("date_done")),
        task_id=_text_or_none(data.get("task_id")),
        group_id=_text_or_none(data.get("group_id")),
        parent_id=_text_or_none(data.get("parent_id")),
        extended={key: value for key, value in data.items() if key not in _FIELDS},
    )


def compressed(document: bytes, method: str) -> bytes:
    """The document of a SUCCESS as Celery 5.7 reads it, compressed, where that makes it shorter.

    The method bears its alias, where Celery writes a content type: that is how a store, which cannot
    look inside, sees that a SUCCESS stands here that must not be overwritten (`transports.result_state`).

    :raises UnknownCompression: there is no such method here.
    """
    data, _value = compress(document, method)
    packed = b"%b%b\0%b" % (_COMPRESSED, short_name(method).encode("ascii"), data)
    return packed if len(packed) < len(document) else document


def _decompressed(document: bytes) -> bytes:
    """What Celery 5.7 wrote with `result_compression` (interop §8.5)."""
    method, mark, data = document[len(_COMPRESSED) :].partition(b"\0")
    if not mark:
        raise MalformedResult("it does not say how it is compressed")
    return decompress(data, method.decode("ascii", "replace"), DOCUMENT_BYTES_MAX)


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def rebuild_exception(value: Any, traceback: str | None = None) -> Exception:
    """Make the exception that a document describes.

    :returns: an instance of the class named, if that class is already imported here, is an
        `Exception` and takes the arguments; else a `RemoteTaskError` that carries the name and text.
    """
    if isinstance(value, Exception):
        return value  # a pickled one
    if not isinstance(value, Mapping) or not isinstance(value.get("exc_type"), str):
        return RemoteTaskError("unknown", safe_text(value), traceback)
    name, module = value["exc_type"], value.get("exc_module")
    message = value.get("exc_message")
    args = tuple(message) if isinstance(message, (list, tuple)) else (() if message is None else (message,))
    shown = f"{module}.{name}" if isinstance(module, str) else name
    cls = _exception_class(module, name)
    if cls is not None:
        try:
            made = cls(*args)
        except Exception:  # noqa: BLE001 - a constructor of the user's may raise anything
            # A constructor that wants something else than `args`: the generic error says it all.
            made = None
        if isinstance(made, Exception):
            return made
    return RemoteTaskError(
        bounded(shown, 512), ", ".join(safe_text(arg) for arg in args[:ARGS_MAX]), traceback
    )


def _exception_class(module: Any, name: str) -> type[Exception] | None:
    """The class of a name, from modules already imported; None for anything else."""
    if not isinstance(module, str):
        return None
    if module in _FIELD_MODULES:
        module = _OWN_MODULE
    if module == _LIMITS_MODULE and name in exceptions.FROM_BILLIARD:
        # The engine's own, though it imports their home only when they are asked for.
        own: type[Exception] = getattr(exceptions, name)
        return own
    loaded = sys.modules.get(module)
    if loaded is None:
        return None
    # `vars` rather than getattr: a lookup must not run a module's or a metaclass's own code.
    found: Any = loaded
    for part in name.split("."):
        if not isinstance(vars(found), Mapping):
            return None
        found = vars(found).get(part)
        if not isinstance(found, type):
            return None
    return found if isinstance(found, type) and issubclass(found, Exception) else None

"""JSON as kombu writes and reads it: plain JSON, and two-key objects for a few Python types.

Output is that of the standard library's C encoder. Input goes through msgspec, which is several
times faster, and through the standard library where msgspec is stricter (NaN, lone surrogates,
numbers out of range) or where a two-key object has to be turned into what it stands for.
Facts: interop §1.2, §1.3.
"""

from __future__ import annotations

import base64
import binascii
import json
import json.encoder
import uuid
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import msgspec

from . import iso8601
from .base import DecodeError, DecodeFault
from .blame import blame
from .depth import LEVELS_MAX, overflows

_TYPE, _VALUE = "__type__", "__value__"
_MARK = b"__type__"
_ESCAPED_UNDERSCORE = b"\\u005"
_LAZY_TEXT = ("django.utils.functional", "Promise")
"""Django's translated texts, which are text only once somebody looks at them (interop §1.3)."""

_KEY_TYPES = (str, int, float, bool, type(None))


class JsonSerializer:
    """The ``json`` serializer. Holds its own table of extended types.

    >>> JsonSerializer().loads(JsonSerializer().dumps([1, b"x"]))
    [1, b'x']
    """

    name = "json"
    content_type = "application/json"
    content_encoding = "utf-8"

    def __init__(self) -> None:
        # Written by register_type, which belongs to the set-up of an app; read-only afterwards.
        self._encoders: dict[type, tuple[str | None, Callable[[Any], Any]]] = {}
        self._decoders: dict[str, Callable[[Any], Any]] = {
            "bytes": lambda text: text.encode("utf-8"),
            "base64": lambda text: base64.b64decode(text.encode("ascii")),
        }
        # A datetime is a date as well, so it comes first.
        self.register_type(datetime, "datetime", datetime.isoformat, iso8601.parse)
        self.register_type(date, "date", date.isoformat, lambda text: iso8601.parse(text).date())
        self.register_type(time, "time", time.isoformat, time.fromisoformat)
        self.register_type(Decimal, "decimal", str, Decimal)
        self.register_type(uuid.UUID, "uuid", lambda value: {"hex": value.hex}, lambda kw: uuid.UUID(**kw))
        self._encode = _make_encoder(self._lower)
        self._std_loads = json.JSONDecoder(object_hook=self._raise_up).decode

    def register_type(
        self,
        cls: type,
        marker: str | None,
        encoder: Callable[[Any], Any],
        decoder: Callable[[Any], Any] = lambda value: value,
    ) -> None:
        """Teach this instance one more type; both ends of a wire need to be taught.

        :param marker: the ``__type__`` on the wire; None writes what `encoder` returns as it is.
        """
        self._encoders[cls] = (marker, encoder)
        if marker is not None:
            self._decoders[marker] = decoder

    def dumps(self, value: Any) -> bytes:
        """Serialize a value; the text is pure ASCII.

        :raises EncodeError: names the part of the value that JSON has no form for.
        """
        try:
            return self._encode(value)
        # Not only what JSON raises: the value may bring a `__json__` that raises anything.
        except Exception as exc:
            raise blame(value, self._encode, serializer=self.name, key_types=_KEY_TYPES, cause=exc) from exc

    def loads(self, data: bytes) -> Any:
        """Read a document.

        :raises DecodeError: not JSON, nested too deeply, or of an unknown extended type.
        """
        if overflows(data):
            raise DecodeError(DecodeFault.TOO_DEEP, f"JSON nested more than {LEVELS_MAX} levels deep")
        if _MARK not in data and _ESCAPED_UNDERSCORE not in data:
            try:
                return msgspec.json.decode(data)
            except RecursionError as exc:
                raise DecodeError(DecodeFault.TOO_DEEP, "JSON nested too deeply") from exc
            except (msgspec.DecodeError, ValueError):
                # Stricter than the standard library: that has the last word.
                pass
        return self._loads_std(data)

    def _loads_std(self, data: bytes) -> Any:
        try:
            return self._std_loads(data.decode("utf-8"))
        except RecursionError as exc:
            raise DecodeError(DecodeFault.TOO_DEEP, "JSON nested too deeply") from exc
        except ValueError as exc:
            detail = f"{type(exc).__name__}: {str(exc)[:200]}"
            raise DecodeError(DecodeFault.MALFORMED, f"not JSON ({detail})") from exc

    def _lower(self, value: Any) -> Any:
        """What stands for a value that JSON cannot hold."""
        own = getattr(value, "__json__", None)
        if own is not None:
            return own()
        for cls, (marker, encoder) in self._encoders.items():
            if isinstance(value, cls):
                lowered = encoder(value)
                return lowered if marker is None else {_TYPE: marker, _VALUE: lowered}
        if isinstance(value, bytes):
            try:
                return {_TYPE: "bytes", _VALUE: value.decode("utf-8")}
            except UnicodeDecodeError:
                return {_TYPE: "base64", _VALUE: binascii.b2a_base64(value, newline=False).decode("ascii")}
        if any((cls.__module__, cls.__name__) == _LAZY_TEXT for cls in type(value).__mro__):
            return str(value)
        raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")

    def _raise_up(self, found: dict[str, Any]) -> Any:
        """What a decoded object stands for; itself, unless it has exactly the two keys."""
        if len(found) != 2 or _TYPE not in found or _VALUE not in found:
            return found
        marker = found[_TYPE]
        decoder = self._decoders.get(marker) if isinstance(marker, str) else None
        if decoder is None:
            raise ValueError(f"unknown extended type {str(marker)[:80]!r}")
        try:
            return decoder(found[_VALUE])
        # Any decoder may raise anything; its text is not passed on, as it may quote an argument.
        except Exception as exc:
            raise ValueError(f"extended type {marker!r}: {type(exc).__name__}") from exc


def _make_encoder(default: Callable[[Any], Any]) -> Callable[[Any], bytes]:
    """A function from value to JSON bytes.

    The C encoder is made once here; `json.JSONEncoder.encode` makes one per call, which doubles
    the price of a small message. A cycle ends in RecursionError instead of a table of markers.
    """
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        plain = json.JSONEncoder(default=default)
        return lambda value: plain.encode(value).encode("ascii")
    escape = json.encoder.encode_basestring_ascii
    chunks = make(None, default, escape, None, ": ", ", ", False, False, True)
    return lambda value: "".join(chunks(value, 0)).encode("ascii")

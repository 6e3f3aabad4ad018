"""Bodies without structure: bytes as they are, and text. Only for those who list them.

kombu trusts these two unconditionally; here they are content types like any other (interop §1.2).
"""

from __future__ import annotations

from typing import Any

from .base import DecodeError, DecodeFault, EncodeError


class BytesSerializer:
    """The ``raw`` serializer: bytes as they are."""

    name = "raw"
    content_type = "application/data"
    content_encoding = "binary"

    def dumps(self, value: Any) -> bytes:
        """The bytes themselves.

        :raises EncodeError: not bytes.
        """
        if isinstance(value, bytes):
            return value
        raise EncodeError((), f"<class {type(value).__qualname__}>", "pass bytes", serializer=self.name)

    def loads(self, data: bytes) -> bytes:
        """The bytes themselves."""
        return data


class TextSerializer:
    """The ``text`` serializer: UTF-8."""

    name = "text"
    content_type = "text/plain"
    content_encoding = "utf-8"

    def dumps(self, value: Any) -> bytes:
        """The text as UTF-8.

        :raises EncodeError: not a string, or one that UTF-8 has no form for.
        """
        if isinstance(value, str):
            try:
                return value.encode("utf-8")
            except UnicodeEncodeError as exc:
                raise EncodeError((), "a lone surrogate", "remove it", serializer=self.name) from exc
        raise EncodeError((), f"<class {type(value).__qualname__}>", "pass a string", serializer=self.name)

    def loads(self, data: bytes) -> str:
        """The text.

        :raises DecodeError: not UTF-8.
        """
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as exc:
            raise DecodeError(DecodeFault.MALFORMED, str(exc)[:200]) from exc

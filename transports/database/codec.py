"""Takes result documents apart into the values of columns, and puts them together again.

A column holds one value in the form of the result serializer (interop §8.7). So that this layer
need not know what values mean, parts are cut out of JSON and MessagePack without being decoded;
only a pickle has to be read whole, which the configuration must have allowed by naming it.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

import msgspec

_PICKLE_PROTOCOL = 4


class NoDocument(ValueError):
    """Bytes that are no result document, or a column that holds no value of the serializer."""


class Codec(Protocol):
    """One serialization, seen as a map of encoded values."""

    def split(self, document: bytes) -> dict[str, bytes]:
        """The encoded values of a document, by name.

        :raises NoDocument: it is not a map with texts as keys.
        """

    def join(self, parts: Mapping[str, bytes]) -> bytes:
        """The document of encoded values; each must have passed `checked`."""

    def encode(self, value: Any) -> bytes:
        """Encode a plain value."""

    def decode(self, data: bytes) -> Any:
        """Read a plain value.

        :raises NoDocument: it is none.
        """

    def checked(self, data: bytes) -> bytes:
        """The same bytes, when they are one encoded value.

        :raises NoDocument: they are not.
        """


class SlicingCodec:
    """JSON or MessagePack, by a decoder that skips what it need not look into.

    :param decode: decodes bytes as a type, strictly.
    :param encode: encodes a value; takes `msgspec.Raw` as it is.
    :param decode_loosely: what the standard says of bytes that `decode` refuses, or None.
    """

    def __init__(
        self,
        decode: Callable[..., Any],
        encode: Callable[[Any], bytes],
        decode_loosely: Callable[[bytes], Any] | None,
    ) -> None:
        self._decode = decode
        self._encode = encode
        self._decode_loosely = decode_loosely

    def split(self, document: bytes) -> dict[str, bytes]:
        """See `Codec.split`."""
        try:
            found = self._decode(document, type=dict[str, msgspec.Raw])
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return self._split_loosely(document)
        return {name: bytes(raw) for name, raw in found.items()}

    def _split_loosely(self, document: bytes) -> dict[str, bytes]:
        """NaN, infinities and lone surrogates, which the standard library writes and reads."""
        found = self._loose(document)
        if not isinstance(found, dict):
            raise NoDocument("not a map")
        return {name: json.dumps(value).encode("ascii") for name, value in found.items()}

    def _loose(self, data: bytes) -> Any:
        if self._decode_loosely is None:
            raise NoDocument("not of this serializer")
        try:
            return self._decode_loosely(data)
        except (ValueError, RecursionError) as error:
            raise NoDocument("not of this serializer") from error

    def join(self, parts: Mapping[str, bytes]) -> bytes:
        """See `Codec.join`."""
        return self._encode({name: msgspec.Raw(data) for name, data in parts.items()})

    def encode(self, value: Any) -> bytes:
        """See `Codec.encode`."""
        return self._encode(value)

    def decode(self, data: bytes) -> Any:
        """See `Codec.decode`."""
        try:
            return self._decode(data)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return self._loose(data)

    def checked(self, data: bytes) -> bytes:
        """See `Codec.checked`."""
        try:
            self._decode(data, type=msgspec.Raw)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            self._loose(data)
        return data


class PickleCodec:
    """Pickle. Reading one runs what its writer chose, so only a configuration that names it gets this."""

    def split(self, document: bytes) -> dict[str, bytes]:
        """See `Codec.split`."""
        found = self.decode(document)
        if not isinstance(found, dict):
            raise NoDocument("not a map")
        return {str(name): self.encode(value) for name, value in found.items()}

    def join(self, parts: Mapping[str, bytes]) -> bytes:
        """See `Codec.join`."""
        return self.encode({name: self.decode(data) for name, data in parts.items()})

    def encode(self, value: Any) -> bytes:
        """See `Codec.encode`."""
        return pickle.dumps(value, protocol=_PICKLE_PROTOCOL)

    def decode(self, data: bytes) -> Any:
        """See `Codec.decode`."""
        try:
            return pickle.loads(data)
        except Exception as error:  # a pickle can raise anything
            raise NoDocument(f"cannot be unpickled ({type(error).__name__})") from error

    def checked(self, data: bytes) -> bytes:
        """See `Codec.checked`; `join` finds out."""
        return data


CODECS: Mapping[str, Codec] = MappingProxyType(
    {
        "json": SlicingCodec(msgspec.json.decode, msgspec.json.encode, json.loads),
        "msgpack": SlicingCodec(msgspec.msgpack.decode, msgspec.msgpack.encode, None),
        "pickle": PickleCodec(),
    }
)

"""The closed table of what a process writes and reads, made once from the configuration."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from .base import ContentDisallowed, DecodeError, DecodeFault, Serializer, UnknownSerializer
from .compression import OUTPUT_BYTES_MAX, decompress
from .json import JsonSerializer

ENTRY_POINT_GROUP = "prefork.serializers"

INPUT_BYTES_MAX = 64 * 1024 * 1024
"""How large a body may be before it is decompressed, when nothing else is configured."""

CHARSETS = frozenset({"utf-8", "binary", "us-ascii", "ascii-8bit"})
"""The content encodings that are read. Any other would name a codec of Python's (faults §4.1)."""

# Name -> (module, class, content type). The module is imported when the name is asked for.
_BUILTIN: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {
        "json": (".json", "JsonSerializer", "application/json"),
        "msgpack": (".msgpack", "MsgpackSerializer", "application/x-msgpack"),
        "pickle": (".pickle", "PickleSerializer", "application/x-python-serialize"),
        "raw": (".plain", "BytesSerializer", "application/data"),
        "text": (".plain", "TextSerializer", "text/plain"),
    }
)


class SerializerTable:
    """What one process may write (by name) and read (by content type).

    :param names: the serializers to write with: those that the configuration names.
    :param accept: names or content types of what may be read (``accept_content``).
    :param input_bytes_max: the largest body that is looked at.
    :param output_bytes_max: what a compressed body may grow to.
    :raises UnknownSerializer: a name or content type that nobody provides.

    `json` is the instance that also reads and writes headers; register extended types with it.

    >>> table = SerializerTable()
    >>> table.decode(*table.encode([1, 2], "json"))
    [1, 2]
    """

    def __init__(
        self,
        names: Iterable[str] = ("json",),
        accept: Iterable[str] = ("json",),
        *,
        input_bytes_max: int = INPUT_BYTES_MAX,
        output_bytes_max: int = OUTPUT_BYTES_MAX,
    ) -> None:
        self._by_name: dict[str, Serializer] = {}
        self._by_content_type: dict[str, Serializer] = {}
        self._input_bytes_max = input_bytes_max
        self._output_bytes_max = output_bytes_max
        self.json = JsonSerializer()
        self._by_name["json"] = self.json
        for name in names:
            self._writer(name)
        for wanted in accept:
            serializer = self._writer(wanted)
            self._by_content_type[serializer.content_type] = serializer
        self._accepted = tuple(sorted(self._by_content_type))

    def _writer(self, wanted: str) -> Serializer:
        name = _name_of(wanted)
        serializer = self._by_name.get(name)
        if serializer is None:
            serializer = self._by_name[name] = load_serializer(name)
        return serializer

    @property
    def names(self) -> tuple[str, ...]:
        """The names that can be written with."""
        return tuple(sorted(self._by_name))

    @property
    def accepted(self) -> tuple[str, ...]:
        """The content types that are read."""
        return self._accepted

    def by_name(self, name: str) -> Serializer:
        """The serializer of a name or content type.

        :raises UnknownSerializer: the configuration does not name it.
        """
        serializer = self._by_name.get(name)
        if serializer is not None:
            return serializer
        for serializer in self._by_name.values():
            if serializer.content_type == name:
                return serializer
        raise UnknownSerializer(name, self.names)

    def encode(self, value: Any, name: str) -> tuple[bytes, str, str]:
        """Serialize a value: body, content type, content encoding.

        :raises EncodeError: some part of the value has no form in this format.
        :raises UnknownSerializer: the configuration does not name it.
        """
        serializer = self.by_name(name)
        return serializer.dumps(value), serializer.content_type, serializer.content_encoding

    def decoder(self, content_type: str, content_encoding: str = "utf-8") -> Serializer:
        """The serializer that may read a body. Looks at no byte of it.

        :raises ContentDisallowed: the content type is not on the list.
        :raises DecodeError: a content encoding that would name some other codec.
        """
        serializer = self._by_content_type.get(content_type)
        if serializer is None:
            raise ContentDisallowed(content_type[:200], self._accepted)
        if content_encoding not in CHARSETS and content_encoding.lower() not in CHARSETS:
            raise DecodeError(DecodeFault.CHARSET, f"content encoding {content_encoding[:80]!r}")
        return serializer

    def decode(
        self, body: bytes, content_type: str, content_encoding: str = "utf-8", compression: str | None = None
    ) -> Any:
        """Read a body: look up its type, check its size, decompress, decode.

        :raises ContentDisallowed: the content type is not on the list.
        :raises DecodeError: everything else that is wrong with it.
        """
        serializer = self.decoder(content_type, content_encoding)
        if len(body) > self._input_bytes_max:
            raise DecodeError(DecodeFault.TOO_LARGE, f"{len(body)} bytes, of at most {self._input_bytes_max}")
        if compression is not None:
            body = decompress(body, compression, self._output_bytes_max)
        return serializer.loads(body)

    def allow_unpickling(self) -> None:
        """Let this process read pickles, if the table has them. For children and clients only."""
        for serializer in self._by_name.values():
            allow = getattr(serializer, "allow_unpickling", None)
            if allow is not None:
                allow()


def load_serializer(name: str) -> Serializer:
    """Make a serializer: one of our own, or one registered by an entry point.

    :raises UnknownSerializer: nobody provides it.
    """
    if name in _BUILTIN:
        module, cls, _ = _BUILTIN[name]
        made: Serializer = getattr(importlib.import_module(module, __package__), cls)()
        return made
    # Imported here because it is slow and nearly never needed.
    metadata = importlib.import_module("importlib.metadata")
    found = metadata.entry_points(group=ENTRY_POINT_GROUP)
    for entry in found:
        if entry.name == name:
            made = entry.load()()
            return made
    raise UnknownSerializer(name, sorted({*_BUILTIN, *(entry.name for entry in found)}))


def _name_of(wanted: str) -> str:
    for name, (_, _, content_type) in _BUILTIN.items():
        if wanted == content_type:
            return name
    return wanted

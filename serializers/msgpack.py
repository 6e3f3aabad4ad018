"""MessagePack, without extended types, and with bounds on what a few bytes may claim to be.

Facts: interop §1.2. Peers read it with string keys only, so other keys are refused when writing.
"""

from __future__ import annotations

from typing import Any

import msgpack

from .base import DecodeError, DecodeFault
from .blame import blame

ITEMS_MAX = 4 * 1024 * 1024
"""How many items one array or map may announce."""

BYTES_MAX = 64 * 1024 * 1024
"""How many bytes one string or binary may announce."""

_KEY_TYPES = (str, bytes)


class MsgpackSerializer:
    """The ``msgpack`` serializer."""

    name = "msgpack"
    content_type = "application/x-msgpack"
    content_encoding = "binary"

    def dumps(self, value: Any) -> bytes:
        """Serialize a value.

        :raises EncodeError: names the part of the value that MessagePack has no form for.
        """
        try:
            packed = _pack(value)
            _refuse_odd_keys(value)
        # The packer calls into the values (``__len__``, ``items``), which may raise anything.
        except Exception as exc:
            raise blame(value, _pack, serializer=self.name, key_types=_KEY_TYPES, cause=exc) from exc
        return packed

    def loads(self, data: bytes) -> Any:
        """Read a document.

        :raises DecodeError: not MessagePack, nested too deeply, or announcing more than allowed.
        """
        try:
            return msgpack.unpackb(
                data,
                raw=False,
                timestamp=3,
                ext_hook=_refuse_extension,
                max_str_len=BYTES_MAX,
                max_bin_len=BYTES_MAX,
                max_array_len=ITEMS_MAX,
                max_map_len=ITEMS_MAX,
                max_ext_len=12,
            )
        except (msgpack.StackError, RecursionError) as exc:
            raise DecodeError(DecodeFault.TOO_DEEP, "MessagePack nested too deeply") from exc
        # The unpacker raises ValueError, TypeError (a key that is a list), OverflowError, ...
        except Exception as exc:
            detail = f"{type(exc).__name__}: {str(exc)[:200]}"
            raise DecodeError(DecodeFault.MALFORMED, f"not MessagePack ({detail})") from exc


def _refuse_extension(code: int, data: bytes) -> Any:
    raise ValueError(f"extension type {code} has no meaning here")


def _refuse_odd_keys(value: Any) -> None:
    """Its depth is bounded: the packer has been through the value and stops at 511 levels."""
    if isinstance(value, dict):
        for key, part in value.items():
            if not isinstance(key, _KEY_TYPES):
                raise TypeError("a key that is not a string")
            if isinstance(part, (dict, list, tuple)):
                _refuse_odd_keys(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            if isinstance(part, (dict, list, tuple)):
                _refuse_odd_keys(part)


def _pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed

"""Reads the one fact that a result store must know of a stored document: whether it is a SUCCESS.

Source: interop §8.2, "Write rule". Documents are what the result serializer made of them, so the
state is read from JSON and msgpack by a decoder that skips the rest, and looked for, never decoded,
in a pickle.
"""

from __future__ import annotations

import json

import msgspec

SUCCESS = "SUCCESS"

_PICKLE_OPCODE = b"\x80"
_PICKLE_HEAD_BYTES = 64
# Between a key and its value a pickle has the memo of the one and the length of the other.
_PICKLE_GAP_BYTES = 7


class _Status(msgspec.Struct, frozen=True, gc=False):
    status: str


_json = msgspec.json.Decoder(_Status)
_msgpack = msgspec.msgpack.Decoder(_Status)


def is_success(document: bytes) -> bool:
    """Whether a result document says that the task succeeded; False for what cannot be read."""
    if document[:1] == _PICKLE_OPCODE:
        # A pickled document begins with its first entry. An empty msgpack map begins with the same
        # byte and has no status either.
        _head, key, tail = document[:_PICKLE_HEAD_BYTES].partition(b"status")
        return bool(key) and SUCCESS.encode() in tail[: _PICKLE_GAP_BYTES + len(SUCCESS)]
    try:
        if document.lstrip()[:1] != b"{":
            return _msgpack.decode(document).status == SUCCESS
        return _json.decode(document).status == SUCCESS
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _is_success_in_loose_json(document)


def _is_success_in_loose_json(document: bytes) -> bool:
    """What the strict decoder refuses although the standard library wrote it: NaN, lone surrogates."""
    try:
        content = json.loads(document)
    except (ValueError, RecursionError):
        return False  # a foreign document: it may be overwritten
    return isinstance(content, dict) and content.get("status") == SUCCESS

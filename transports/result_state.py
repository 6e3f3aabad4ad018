"""Reads what a result store must know of a stored document: whether it is a SUCCESS, or final at all.

Source: interop §8.2, "Write rule". Documents are what the result serializer made of them, so the
state is read from JSON and msgpack by a decoder that skips the rest, and looked for, never decoded,
in a pickle.
"""

from __future__ import annotations

import json
import re

import msgspec

SUCCESS = "SUCCESS"
FINAL = frozenset({SUCCESS, "FAILURE", "REVOKED"})
"""States after which nothing more is to come."""

# A compressed document (interop §8.5) hides its state. This engine compresses only a SUCCESS, and names
# the method by an alias, such as gzip; a content type, such as application/x-gzip, is another writer's.
_COMPRESSED_SUCCESS = re.compile(rb"\x00celery-compressed\x00\w+\x00")
_PICKLE_OPCODE = b"\x80"
_PICKLE_HEAD_BYTES = 128
# Behind a key there may be its memo; then comes the length of the value, in one form or the other.
_PICKLED_STATE = re.compile(rb"status(?:q.|r.{4}|\x94)?(?:X(.)\x00{3}|\x8c(.))", re.DOTALL)
# In any text: what stands behind the word, with quotes and colons in between.
_STATE_SOMEWHERE = re.compile(rb"status\W{1,8}([\w.-]{2,32})")


class _Status(msgspec.Struct, frozen=True, gc=False):
    status: str


_json = msgspec.json.Decoder(_Status)
_msgpack = msgspec.msgpack.Decoder(_Status)


def is_success(document: bytes) -> bool:
    """Whether a result document says that the task succeeded; False for what cannot be read."""
    return state_of(document) == SUCCESS


def is_final(document: bytes) -> bool:
    """Whether a result document says that the task has ended.

    Of a document in a serialization that is not known here the state is looked for in the text. One
    without any counts as final, so that whoever waits gets to see it, and can say what is wrong.
    """
    state = state_of(document)
    if state is None:
        found = _STATE_SOMEWHERE.search(document)
        return found is None or found[1].decode("ascii") in FINAL
    return state in FINAL


def state_of(document: bytes) -> str | None:
    """The state that a result document says, whatever serialized it; None where none can be read."""
    if document[:1] == b"\0":
        return SUCCESS if _COMPRESSED_SUCCESS.match(document) else None
    if document[:1] == _PICKLE_OPCODE:
        # A pickled document begins with its first entry. An empty msgpack map begins with the same
        # byte and has no status either.
        found = _PICKLED_STATE.search(document, 0, _PICKLE_HEAD_BYTES)
        if found is None:
            return None
        length = (found[1] or found[2])[0]
        return document[found.end() : found.end() + length].decode("utf-8", "replace")
    try:
        if document.lstrip()[:1] != b"{":
            return _msgpack.decode(document).status
        return _json.decode(document).status
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _state_in_loose_json(document)


def _state_in_loose_json(document: bytes) -> str | None:
    """What the strict decoder refuses although the standard library wrote it: NaN, lone surrogates."""
    try:
        content = json.loads(document)
    except (ValueError, RecursionError):
        return None  # a foreign document: it may be overwritten
    state = content.get("status") if isinstance(content, dict) else None
    return state if isinstance(state, str) else None

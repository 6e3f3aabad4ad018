"""Changes to a message document that leave everything else in it as it was sent."""

from __future__ import annotations

import json
from typing import Any

import msgspec


def with_header(document: bytes, name: str, value: float | str) -> bytes:
    """The same message with one more header.

    :param document: an envelope that `message.parse` accepts, so that what msgspec refuses (NaN, lone
        surrogates) the standard library reads.
    """
    try:
        envelope = msgspec.json.decode(document)
    except msgspec.DecodeError:
        return json.dumps(_extended(json.loads(document), name, value)).encode("ascii")
    try:
        return msgspec.json.encode(_extended(envelope, name, value))
    except UnicodeEncodeError:
        return json.dumps(envelope).encode("ascii")


def _extended(envelope: dict[str, Any], name: str, value: float | str) -> dict[str, Any]:
    envelope["headers"] = {**(envelope.get("headers") or {}), name: value}
    return envelope

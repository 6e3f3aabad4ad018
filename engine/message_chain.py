"""What was to follow a task, read of a message whose task does not run: as far as it can be read."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from ..serializers.base import ContentDisallowed, DecodeError
from ..serializers.depth import overflows
from ..serializers.registry import SerializerTable
from ..transports import envelope as envelopes
from ..transports.envelope import Envelope, MalformedEnvelope
from .message import MalformedMessage, Signature, TaskMessage
from .message_headers import decode_dict

_HARMLESS_TYPES: Final = frozenset({"application/json", "application/x-msgpack"})
_HARMLESS_BYTES_MAX: Final = 1024 * 1024

_log = logging.getLogger("prefork.messages")


def is_harmless(message: TaskMessage) -> bool:
    """Whether reading the arguments runs nobody's code and takes little memory."""
    small = len(message.envelope.document) <= _HARMLESS_BYTES_MAX and message.compression is None
    return small and message.content_type in _HARMLESS_TYPES


def chain_of(document: bytes, table: SerializerTable) -> list[Signature]:
    """The further steps of the chain that a message is part of, the last runs next; none if unreadable.

    More is read than can be run: the headers may be wrong, and so may the arguments.
    """
    if overflows(document):
        return []
    try:
        return chain_within(envelopes.decode(document), table)
    except MalformedEnvelope as error:
        _log.debug("whether a chain goes on after it is unknown: %s", error)  # it is no message at all
        return []


def chain_within(envelope: Envelope, table: SerializerTable) -> list[Signature]:
    """As `chain_of`, of an envelope that is opened already."""
    try:
        method = decode_dict(envelope.headers, table).get("compression")
        body = table.decode(
            envelope.body,
            envelope.content_type,
            envelope.content_encoding,
            method if isinstance(method, str) else None,
        )
    except (MalformedMessage, ContentDisallowed, DecodeError) as error:
        _log.info("whether a chain goes on after a message is unknown: %s", error)
        return []
    # Protocol 1, whose body is a map, cannot tell of a chain.
    embed: Any = body[2] if isinstance(body, (list, tuple)) and len(body) == 3 else None
    chain = embed.get("chain") if isinstance(embed, Mapping) else None
    return [step for step in chain if isinstance(step, dict)] if isinstance(chain, (list, tuple)) else []

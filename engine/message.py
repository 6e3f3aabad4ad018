"""The task message: what crosses the wire between a client and a worker.

Written with `TaskDraft` and `encode_task`, read with `parse` and `TaskMessage.payload`, sent again
with `retry_of`. Facts: interop §2 to §4.
"""

from __future__ import annotations

from ..transports.identifiers import fresh_id
from .message_errors import Malformed, MalformedMessage
from .message_read import Embed, Signature, TaskMessage, parse
from .message_write import RawBody, TaskDraft, bounded_repr, build, draft_of, encode_task, retry_of

__all__ = [
    "Embed",
    "Malformed",
    "MalformedMessage",
    "RawBody",
    "Signature",
    "TaskDraft",
    "TaskMessage",
    "bounded_repr",
    "build",
    "draft_of",
    "encode_task",
    "fresh_id",
    "parse",
    "retry_of",
]

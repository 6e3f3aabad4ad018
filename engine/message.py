"""The task message: what crosses the wire between a client and a worker.

Written with `TaskDraft` and `encode_task`, read with `parse` and `TaskMessage.payload`, sent again
with `retry_of`. Facts: interop §2 to §4.
"""

from __future__ import annotations

from ..transports.identifiers import fresh_id
from .message_draft import RawBody, TaskDraft, time_text
from .message_errors import Malformed, MalformedMessage
from .message_read import Embed, Signature, TaskMessage, parse
from .message_repr import bounded_repr
from .message_retry import draft_of, retry_of
from .message_write import build, encode_task

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
    "time_text",
]

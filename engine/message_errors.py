"""What may be wrong with a task message: one error, and a closed set of reasons."""

from __future__ import annotations

from enum import Enum

from ..serializers.base import ContentDisallowed, DecodeError
from ..transports.envelope import MalformedEnvelope


class Malformed(str, Enum):
    """Why a document is no task message that can be run. The values are dead-letter reasons.

    Holds every reason of `EnvelopeFault` and of `DecodeFault`, by the same value.
    """

    NOT_JSON = "not-json"
    TOO_DEEP = "too-deep"
    TOO_LARGE = "too-large"
    NOT_AN_OBJECT = "not-an-object"
    BAD_PROPERTIES = "bad-properties"
    NO_DELIVERY_TAG = "no-delivery-tag"
    BAD_HEADERS = "bad-headers"
    BAD_ENVELOPE_BODY = "bad-envelope-body"
    BAD_BODY_ENCODING = "bad-body-encoding"
    BAD_BASE64 = "bad-base64"
    BAD_CONTENT_TYPE = "bad-content-type"
    CONTENT_DISALLOWED = "content-disallowed"
    UNDECODABLE_BODY = "undecodable-body"
    BAD_CHARSET = "bad-charset"
    UNKNOWN_COMPRESSION = "unknown-compression"
    CORRUPT_COMPRESSION = "corrupt-compression"
    REFUSED_HERE = "refused-in-this-process"
    NO_TASK = "no-task"
    NO_ID = "no-id"
    BAD_HEADER = "bad-header"
    BAD_ETA = "bad-eta"
    BAD_EXPIRES = "bad-expires"
    BAD_TIMELIMIT = "bad-timelimit"
    BAD_PAYLOAD = "bad-payload"
    BAD_ARGS = "bad-args"
    BAD_KWARGS = "bad-kwargs"
    BAD_EMBED = "bad-embed"


def encodable(text: str) -> str:
    """The same text, with backslash escapes for lone surrogates, which UTF-8 has no form for."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


class MalformedMessage(Exception):
    """A document that is no task message that can be run: a dead letter.

    :param reason: the code to settle by.
    :param detail: one line for people; never contains arguments.
    :param task_id: the id, where one could be read.
    :param task: the task's name, where one could be read.
    """

    def __init__(
        self, reason: Malformed, detail: str, task_id: str | None = None, task: str | None = None
    ) -> None:
        # What is told of a message may quote it, and is stored: it must have a form in UTF-8.
        detail = encodable(detail)
        task_id = task_id if task_id is None or encodable(task_id) == task_id else None
        task = None if task is None else encodable(task)
        # In a result it is plain text, for every serializer and for readers that do not have this class.
        self.reason = Malformed(reason)
        super().__init__(self.reason.value, detail, task_id, task)
        self.detail = detail
        self.task_id = task_id
        self.task = task

    def __str__(self) -> str:
        what = f"{self.task}[{self.task_id}]: " if self.task or self.task_id else ""
        return f"{what}{self.reason.value}: {self.detail}"


def malformed(
    cause: MalformedEnvelope | DecodeError | ContentDisallowed,
    task_id: str | None = None,
    task: str | None = None,
) -> MalformedMessage:
    """The error of the engine for an error of the layers below."""
    if isinstance(cause, ContentDisallowed):
        return MalformedMessage(Malformed.CONTENT_DISALLOWED, str(cause), task_id, task)
    return MalformedMessage(Malformed(cause.reason.value), cause.detail, task_id, task)

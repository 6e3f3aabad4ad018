"""The port of a serializer, and the errors that every serializer raises.

A serializer turns anything that goes wrong into one of these errors: callers settle messages by
the error's type and reason code, and never see an exception of a parser.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any, Protocol, runtime_checkable

PATH_STEPS_MAX = 32
"""How many steps of a path an error shows; deeper ones are elided."""

Step = int | str | tuple[Any]
"""One step into a value: a position or a key, in a 1-tuple if it is neither text nor a number."""


@runtime_checkable
class Serializer(Protocol):
    """Turns values into bytes and back. Safe to use from several threads."""

    @property
    def name(self) -> str:
        """The name in the configuration, such as ``json``."""

    @property
    def content_type(self) -> str:
        """What is written into the message, such as ``application/json``."""

    @property
    def content_encoding(self) -> str:
        """``utf-8`` for text formats, ``binary`` for others."""

    def dumps(self, value: Any) -> bytes:
        """Serialize a value.

        :raises EncodeError: the value, or something inside it, has no form in this format.
        """

    def loads(self, data: bytes) -> Any:
        """Read a value.

        :raises DecodeError: the bytes are not a document of this format, or one too large or deep.
        """


class SerializerError(Exception):
    """Base of everything that a serializer raises on purpose."""


class EncodeError(SerializerError):
    """A value has no form in the format. Raised before anything is sent.

    :param steps: where the value is, from the root of what was serialized.
    :param value_type: the type of the value, as shown to the user.
    :param remedy: what to do instead.
    :param root: how the path starts, for instance ``args``.
    """

    def __init__(
        self, steps: Sequence[Step], value_type: str, remedy: str, serializer: str, root: str = ""
    ) -> None:
        self.steps = tuple(steps)
        self.value_type = value_type
        self.remedy = remedy
        self.serializer = serializer
        self.path = root + path_text(self.steps)
        # Steps may be values without a form themselves: the path is kept as text.
        super().__init__("", value_type, remedy, serializer, self.path)

    def __str__(self) -> str:
        where = self.path or "value"
        return f"{where}: {self.value_type} cannot be encoded as {self.serializer}; {self.remedy}"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.args


class DecodeFault(str, Enum):
    """Why bytes could not be decoded. A closed set; the values are dead-letter reasons."""

    MALFORMED = "undecodable-body"
    TOO_LARGE = "too-large"
    TOO_DEEP = "too-deep"
    CHARSET = "bad-charset"
    COMPRESSION = "unknown-compression"
    CORRUPT = "corrupt-compression"
    REFUSED_HERE = "refused-in-this-process"


class DecodeError(SerializerError):
    """Bytes that are not what their content type says, or more than a process should take in.

    :param reason: the code to settle by.
    :param detail: one line for people; never contains the data.
    """

    def __init__(self, reason: DecodeFault, detail: str) -> None:
        self.reason = DecodeFault(reason)  # plain text where it was stored
        super().__init__(self.reason.value, detail)
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.detail}"


class ContentDisallowed(SerializerError):
    """The content type of a message is not accepted; not one byte of it was decoded.

    :param content_type: what the message says it is.
    :param accepted: the content types that are accepted here.
    """

    def __init__(self, content_type: str, accepted: Sequence[str]) -> None:
        super().__init__(content_type, tuple(accepted))
        self.content_type = content_type
        self.accepted = tuple(accepted)

    def __str__(self) -> str:
        listed = ", ".join(self.accepted) or "nothing"
        return (
            f"content type {self.content_type!r} is not accepted here (accepted: {listed}); "
            "name it in accept_content if its senders are trusted"
        )


class UnknownSerializer(SerializerError):
    """No serializer goes by a name or content type that the configuration gives.

    :param name: the name.
    :param known: the names there are.
    """

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(name, tuple(known))
        self.name = name
        self.known = tuple(known)

    def __str__(self) -> str:
        return (
            f"no serializer is called {self.name!r} (known: {', '.join(self.known)}); "
            "others register by the entry point group prefork.serializers"
        )


def path_text(steps: Sequence[Step]) -> str:
    """How a path is shown: ``[1]['user']``. Long paths lose their middle."""
    shown = list(steps)
    if len(shown) <= PATH_STEPS_MAX:
        return "".join(map(_step_text, shown))
    half = PATH_STEPS_MAX // 2
    return "".join(map(_step_text, shown[:half])) + "[…]" + "".join(map(_step_text, shown[-half:]))


def _step_text(step: Step) -> str:
    key = step[0] if isinstance(step, tuple) else step
    text = repr(key) if isinstance(key, (str, int, float, bool, type(None))) else f"<{type(key).__name__}>"
    return f"[{text[:80]}]"

"""What can go wrong with RabbitMQ beyond its being away."""

from __future__ import annotations

import re

from ..errors import TransportError, Unacceptable

_INEQUIVALENT = re.compile(r"inequivalent arg '(?P<argument>[^']*)' for (?P<kind>\w+) '(?P<name>[^']*)'")


class DeclarationClash(TransportError):
    """A queue or exchange exists, and is not what this side describes (406).

    :param name: of the queue, unless the broker names what differs: its exchange may be it.
    :param remedy: what to do about it.
    :ivar argument: what differs, or empty when the broker does not say.
    """

    permanent = True

    def __init__(
        self, name: str, said: str, remedy: str = "describe it in task_queues as it is, or delete it"
    ) -> None:
        found = _INEQUIVALENT.search(said)
        argument = found["argument"] if found else ""
        kind, name = (found["kind"], found["name"]) if found else ("queue", name)
        differs = f" in {argument!r}" if argument else ""
        super().__init__(name, said, remedy)
        self.name = name
        self.argument = argument
        self._text = f"{kind} {name!r} exists and differs{differs} from what is configured ({said}); {remedy}"

    def __str__(self) -> str:
        return self._text


class Refused(TransportError):
    """The broker refused an operation for what it is: rights, a queue that somebody holds alone, a name.

    :param permanent: there is no such thing (404), or it cannot be so (406). Rights can be granted, and
        who holds a queue lets it go.
    """

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent


# Of a queue whose node is down (404), and of a virtual host with too many queues (406): both pass.
_PASSES = ("inaccessible", "limit")
_NOT_FOUND, _PRECONDITION_FAILED, _CONTENT_TOO_LARGE = 404, 406, 311


def refused(what: str, code: int, said: str) -> TransportError:
    """The error that closed a channel.

    :param code: of AMQP.
    :param said: the words of the broker.
    """
    if code == _CONTENT_TOO_LARGE or (code == _PRECONDITION_FAILED and "message size" in said):
        return Unacceptable(
            f"RabbitMQ refused {what}: {said}; keep large data elsewhere and pass on where they are, or "
            "raise its max_message_size"
        )
    passes = code not in (_NOT_FOUND, _PRECONDITION_FAILED) or any(word in said for word in _PASSES)
    return Refused(f"RabbitMQ refused {what}: {said}", permanent=not passes)

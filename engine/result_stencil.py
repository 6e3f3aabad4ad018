"""Documents that differ in nothing but the id: encoded once, and filled in afterwards."""

from __future__ import annotations

from collections.abc import Callable

from .message import fresh_id

_ID_CHARS = len(fresh_id())


def stencil(encode: Callable[[str], bytes]) -> Callable[[str], bytes]:
    """A function that answers as `encode` does, and encodes only what it cannot fill in.

    Filled in are ids as long as those this engine makes, of letters, digits and dashes: whatever the
    serializer, they take the place of one another byte by byte.

    :param encode: makes the document of an id, the same one whenever it is asked.
    """
    place = fresh_id()
    head, _, tail = encode(place).partition(place.encode("ascii"))
    if encode(place).count(place.encode("ascii")) != 1:
        return encode  # a serializer that hides the id, as a compressing one would

    def fill(task_id: str) -> bytes:
        plain = len(task_id) == _ID_CHARS and task_id.isascii() and task_id.replace("-", "").isalnum()
        return head + task_id.encode("ascii") + tail if plain else encode(task_id)

    return fill

"""Dead letters: one stream, whose entry ids are the keys of the letters."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from ..base import DeadLetter
from .keys import Keys, decode
from .link import Link
from .pool import Pool
from .scripts import DEAD_REPLAY

_PAGE = 20
_KEY = re.compile(r"\d{1,19}-\d{1,19}")


def dead_letters(pool: Pool, keys: Keys, limit: int) -> Iterator[DeadLetter]:
    """Dead letters, oldest first, read page by page."""
    start = b"-"
    while limit > 0:
        with pool.link() as link:
            page = link.call("XRANGE", keys.dead, start, "+", "COUNT", min(_PAGE, limit))
        for entry in page:
            yield _letter(entry)
        limit -= len(page)
        if len(page) < _PAGE:
            return
        start = b"(" + page[-1][0]


def dead_get(link: Link, keys: Keys, key: str) -> DeadLetter | None:
    """One dead letter; None for a key that names none."""
    if not _KEY.fullmatch(key):
        return None
    found = link.call("XRANGE", keys.dead, key, key)
    return _letter(found[0]) if found else None


def dead_replay(link: Link, keys: Keys, key: str) -> bool:
    """Put a dead letter back into its queue with a clean record; False if it is gone."""
    letter = dead_get(link, keys, key)
    if letter is None:
        return False
    place = keys.list_of(letter.queue, letter.priority)
    return bool(link.run(DEAD_REPLAY, [keys.dead, place], [key]))


def dead_drop(link: Link, keys: Keys, key: str) -> bool:
    """Delete a dead letter; False if it is gone."""
    return bool(_KEY.fullmatch(key)) and bool(link.call("XDEL", keys.dead, key))


def _letter(entry: Any) -> DeadLetter:
    key, values = entry
    fields = {decode(name): value for name, value in zip(values[::2], values[1::2], strict=True)}
    return DeadLetter(
        key=decode(key),
        queue=decode(fields.get("queue", b"")),
        reason=decode(fields.get("reason", b"")),
        causes=read_causes(fields.get("causes", b"")),
        document=fields.get("document", b""),
        priority=int(_number(fields.get("priority"))),
        crashes=int(_number(fields.get("crashes"))),
        died_wall_s=_number(fields.get("died")),
    )


def read_causes(data: bytes) -> tuple[str, ...]:
    """What a message was charged with."""
    text = data.decode("utf-8", "replace")
    try:
        found = json.loads(text) if text else []
    except (ValueError, RecursionError):
        found = None
    # What is no list was written by somebody else, and is shown as it is.
    return tuple(map(str, found)) if isinstance(found, list) else (text,)


def _number(data: bytes | None) -> float:
    try:
        found = float(data or b"0")
    except ValueError:
        return 0.0
    return found if math.isfinite(found) else 0.0

"""Arguments as text, for those who want them in the headers of their messages."""

from __future__ import annotations

import reprlib
from typing import Any

REPR_CHARS_MAX = 1024


def bounded_repr(value: Any) -> str:
    """A repr of at most `REPR_CHARS_MAX` characters; a ``__repr__`` that raises is survived."""
    shortener = reprlib.Repr()
    shortener.maxlevel = 3
    shortener.maxtuple = shortener.maxlist = shortener.maxdict = shortener.maxset = 64
    shortener.maxstring = shortener.maxother = 256
    try:
        text = shortener.repr(value)
    # Some `__repr__` raised.
    except Exception as exc:  # noqa: BLE001
        text = f"<{type(value).__name__}: its repr raises {type(exc).__name__}>"
    return text if len(text) <= REPR_CHARS_MAX else text[: REPR_CHARS_MAX - 1] + "…"

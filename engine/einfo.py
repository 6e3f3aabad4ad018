"""What is kept of an exception: the object, and its traceback as bounded text."""

from __future__ import annotations

import traceback
from types import TracebackType

TEXT_LIMIT = 64 * 1024
"""Characters of traceback that are stored at most; the middle is left out."""

FRAME_LIMIT = 200
"""Frames formatted at most, from the innermost end; a deep recursion repeats itself anyway."""


def bounded(text: str, limit: int = TEXT_LIMIT) -> str:
    """The text, or its first and last part when it is longer than `limit` characters."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"


def safe_text(value: object, limit: int = 2048) -> str:
    """`repr` of anything: bounded, and a text even when that `__repr__` raises."""
    try:
        return bounded(repr(value), limit)
    except Exception as exc:  # noqa: BLE001 - somebody else's __repr__ may raise anything
        return f"<{type(value).__name__}: repr() raised {type(exc).__name__}>"


def traceback_text(exc: BaseException, tb: TracebackType | None) -> str:
    """The traceback as text, as Python prints it, bounded; never raises."""
    try:
        text = "".join(traceback.format_exception(type(exc), exc, tb, limit=-FRAME_LIMIT))
    except Exception as failure:  # noqa: BLE001 - an exception's own __str__ may raise anything
        frames = "".join(traceback.format_tb(tb, limit=-FRAME_LIMIT))
        text = (
            f"Traceback (most recent call last):\n{frames}{type(exc).__qualname__}: "
            f"<its text cannot be had: {type(failure).__name__}>\n"
        )
    return bounded(text)


class ExceptionInfo:
    """What hooks receive as `einfo`: `type`, `exception`, `tb` and `traceback` (text, made on demand)."""

    def __init__(self, exc: BaseException, skip_frames: int = 0) -> None:
        self.type = type(exc)
        self.exception = exc
        tb = exc.__traceback__
        for _ in range(skip_frames):
            if tb is not None and tb.tb_next is not None:
                tb = tb.tb_next
        self.tb = tb
        self._text: str | None = None
        self.internal = False

    @property
    def traceback(self) -> str:
        """The traceback as bounded text."""
        if self._text is None:
            self._text = traceback_text(self.exception, self.tb)
        return self._text

    def __str__(self) -> str:
        return self.traceback

    def __repr__(self) -> str:
        return f"<ExceptionInfo: {safe_text(self.exception)}>"

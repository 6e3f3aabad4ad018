"""What stands in for ``sys.stdout`` and ``sys.stderr`` in a worker: printed lines become records."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Iterable
from typing import TextIO

BUFFER_MAX_CHARS = 8192
"""A line longer than this is logged in pieces."""


class _State(threading.local):
    """Each thread prints its own lines. Written by its thread only."""

    def __init__(self) -> None:
        self.pending = ""
        self.logging = False


class RedirectedStream(io.TextIOBase):
    """A text stream whose lines are logged.

    :param original: where text goes that a log handler itself prints, and whose descriptor
        sub-processes inherit; None where the process was started with the descriptor closed.
    """

    def __init__(self, logger: logging.Logger, level: int, original: TextIO | None) -> None:
        super().__init__()
        self.logger = logger
        self.level = level
        self.original = original
        self._state = _State()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """As a terminal would have it."""
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        """Nothing that can be printed is refused."""
        return "backslashreplace"

    def write(self, text: str) -> int:
        """Log every line that is complete; the rest waits for its end, or for `flush`."""
        if not isinstance(text, str):
            raise TypeError(f"write() takes a text, not {type(text).__name__}")
        state = self._state
        if state.logging:
            # A handler that writes to sys.stderr would otherwise call itself for ever.
            return len(text) if self.original is None else self.original.write(text)
        *lines, rest = (state.pending + text).split("\n")
        *full, state.pending = _cut(rest)
        self._log([piece for line in lines for piece in _cut(line)] + full)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:  # type: ignore[override]
        """Write texts one after the other."""
        for text in lines:
            self.write(text)

    def flush(self) -> None:
        """Log what waits for the end of its line."""
        state = self._state
        if state.logging:
            if self.original is not None:
                self.original.flush()
        elif state.pending:
            rest, state.pending = state.pending, ""
            self._log([rest])

    def isatty(self) -> bool:
        """It is not."""
        return False

    def writable(self) -> bool:
        """It is."""
        return True

    def fileno(self) -> int:
        """The descriptor of the original stream.

        :raises io.UnsupportedOperation: there is none.
        """
        if self.original is None:
            raise io.UnsupportedOperation("fileno: the process was started with this stream closed")
        return self.original.fileno()

    def _log(self, lines: list[str]) -> None:
        state = self._state
        state.logging = True
        try:
            for line in lines:
                if line.strip():
                    self.logger.log(self.level, "%s", line.rstrip("\r"))
        finally:
            state.logging = False


def _cut(line: str) -> list[str]:
    return [line[at : at + BUFFER_MAX_CHARS] for at in range(0, len(line), BUFFER_MAX_CHARS)] or [""]

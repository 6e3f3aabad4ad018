"""A progress bar for a terminal, in the space it needs."""

from __future__ import annotations

from typing import TextIO

_WIDTH = 32


class Progress:
    """One line that is redrawn in place; silent when the stream is no terminal.

    :param total: how many steps there will be.
    """

    def __init__(self, stream: TextIO, total: int) -> None:
        self._stream = stream
        self._total = total
        self._live = stream.isatty() and total > 0
        self._drawn = ""  # written by the one thread that shows progress

    def show(self, done: int, note: str = "") -> None:
        """Draw the bar with `done` steps behind it; the same line is not drawn twice."""
        if not self._live:
            return
        filled = _WIDTH * done // self._total
        line = f"[{'#' * filled}{'.' * (_WIDTH - filled)}] {done}/{self._total} {note}"
        if line != self._drawn:
            self._stream.write(f"\r\x1b[K{line}")
            self._stream.flush()
            self._drawn = line

    def close(self) -> None:
        """Erase the line, so that what follows begins at the left."""
        if self._live:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

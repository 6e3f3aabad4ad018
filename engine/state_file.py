"""The file in which a worker keeps, over restarts, what is revoked, and its logical clock (``--statedb``).

One JSON object, replaced as a whole, readable by its owner alone. Celery's file of this name is a shelve
of pickles: it is neither read nor overwritten.
"""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from .exceptions import ImproperlyConfigured
from .log_file import BadLogFileTemplate, expand

FORMAT: Final = "prefork worker state 1"
FILE_BYTES_MAX: Final = 64 * 1024 * 1024
_PRIVATE: Final = 0o600

_log = logging.getLogger("prefork.state")


class ForeignStateFile(ValueError):
    """The file is not one of ours, so it is left alone.

    :ivar path: where it is.
    """

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"state file {path}: {why}; it is left as it is. Name another one (--statedb)")
        self.path = path


class State(NamedTuple):
    """What is kept.

    :param revoked: ids, oldest first.
    :param clock: the logical clock.
    """

    revoked: Sequence[str] = ()
    clock: int = 0


class StateFile:
    """The state of one worker on disk. Used by one thread.

    :param template: the path, with ``%n``, ``%h`` and the like as in `log_file.expand`.
    :raises ImproperlyConfigured: the template cannot be expanded.
    """

    def __init__(self, template: str, node: str) -> None:
        try:
            self.path = os.path.abspath(expand(template, node))
        except BadLogFileTemplate as error:
            raise ImproperlyConfigured(f"worker_state_db (--statedb): {error}") from error
        self._saved: State | None = None
        self._failed = False

    def load(self) -> State:
        """What a worker before this one has saved; nothing when there is no file.

        :raises ForeignStateFile: the file is another program's, or nobody should trust it.
        :raises OSError: it cannot be read.
        """
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return State()
        with os.fdopen(fd, "rb") as file:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
                raise ForeignStateFile(self.path, "not a file of this user")
            if found.st_size > FILE_BYTES_MAX:
                raise ForeignStateFile(self.path, f"{found.st_size} bytes, of at most {FILE_BYTES_MAX}")
            state = _decode(self.path, file.read())
        self._saved = state
        return state

    def save(self, state: State, *, anyway: bool = False) -> bool:
        """Write the state if other ids are revoked; whether that was done. A failure is logged once.

        :param anyway: write it even if only the clock has gone on.
        """
        state = State(tuple(state.revoked), state.clock)
        if not anyway and self._saved is not None and self._saved.revoked == state.revoked:
            return False
        try:
            self._write(state)
        except OSError as error:
            if not self._failed:
                self._failed = True
                _log.error("state file %s cannot be written: %s", self.path, error)
            return False
        self._failed = False
        self._saved = state
        return True

    def _write(self, state: State) -> None:
        document = json.dumps({"format": FORMAT, "clock": state.clock, "revoked": list(state.revoked)})
        temporary = f"{self.path}.{os.getpid()}.tmp"
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _PRIVATE)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(document.encode("ascii"))
                file.flush()
                os.fdatasync(fd)
            os.rename(temporary, self.path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise


def _decode(path: str, data: bytes) -> State:
    if not data:
        return State()
    try:
        found: Any = json.loads(data)
    except (ValueError, RecursionError):
        raise ForeignStateFile(path, "not a state of prefork's (Celery's is a database of pickles)") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ForeignStateFile(path, f"does not say that it is {FORMAT!r}")
    revoked, clock = found.get("revoked"), found.get("clock")
    if not isinstance(revoked, list) or not all(isinstance(one, str) for one in revoked):
        raise ForeignStateFile(path, "the revoked ids are damaged")
    if not isinstance(clock, int) or isinstance(clock, bool):
        raise ForeignStateFile(path, "the clock is damaged")
    return State(tuple(revoked), max(0, clock))

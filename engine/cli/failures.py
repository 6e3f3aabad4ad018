"""How a command ends: exit codes, and the error that carries one.

Standard library only: `prefork health` loads nothing else.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the exit status of `prefork` means. Documented in docs/reference/cli.md."""

    OK = 0
    FAILED = 1
    USAGE = 2
    BOOT_FAILED = 3
    UNAVAILABLE = 69
    NOT_READY = 75
    CONFIG = 78
    INTERRUPTED = 130


class CommandError(Exception):
    """A command cannot do what was asked; the message is for the person who typed it.

    Raised by every command, caught by `main` alone, which prints the message without a traceback.

    :param message: names the value, the place and the remedy.
    :param code: the exit status of the process.
    """

    def __init__(self, message: str, code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.code = code

"""``python -m prefork.engine.supervisor --spec-fd N``: be the supervisor of the worker described there."""

from __future__ import annotations

import os
import sys

import setproctitle

from ..boot import BootSpec
from ..log_formats import escape_line
from .deaths import EXIT_BOOT_FAILED
from .loop import Supervisor
from .notify import HostNotifier


def main(arguments: list[str]) -> int:
    """Read the specification and run the worker; returns the exit code."""
    match arguments:
        case ["--spec-fd", number] if number.isdecimal():
            with os.fdopen(int(number), encoding="utf-8") as file:
                spec = BootSpec.from_json(file.read())
        case _:
            sys.stderr.write("usage: python -m prefork.engine.supervisor --spec-fd N\n")
            return 2
    try:
        supervisor = Supervisor(spec)
    except (OSError, ValueError) as error:
        # A log file that cannot be opened, a variable that means nothing: for the operator, no traceback.
        reason = f"the worker cannot start: {error}"
        sys.stderr.write(f"prefork: {escape_line(reason)}\n")
        HostNotifier(spec.notify_fd).failed(reason)
        return EXIT_BOOT_FAILED
    setproctitle.setproctitle(f"prefork: {supervisor.context.node}: supervisor")
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""``python -m prefork.engine.supervisor --spec-fd N``: be the supervisor of the worker described there."""

from __future__ import annotations

import os
import sys

import setproctitle

from ..boot import BootSpec
from .loop import Supervisor


def main(arguments: list[str]) -> int:
    """Read the specification and run the worker; returns the exit code."""
    match arguments:
        case ["--spec-fd", number] if number.isdecimal():
            with os.fdopen(int(number), encoding="utf-8") as file:
                spec = BootSpec.from_json(file.read())
        case _:
            sys.stderr.write("usage: python -m prefork.engine.supervisor --spec-fd N\n")
            return 2
    supervisor = Supervisor(spec)
    setproctitle.setproctitle(f"prefork: {supervisor.context.node}: supervisor")
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

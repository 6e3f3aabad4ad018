"""Runs several test commands at the same time, because most tests wait more than they work.

Called by tox: ``python side_by_side.py COMMAND... -- COMMAND...``. Each command's output is shown whole
when it has ended, in the order given; the exit status is that of the first one that failed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import groupby


def commands(arguments: Sequence[str]) -> list[list[str]]:
    """The commands between the double dashes."""
    return [list(part) for dashes, part in groupby(arguments, lambda one: one == "--") if not dashes]


def run(parts: Sequence[Sequence[str]]) -> int:
    """Run them all and return the first exit status that is not 0."""
    started = []
    for part in parts:
        output = tempfile.TemporaryFile()
        started.append((part, output, subprocess.Popen(part, stdout=output, stderr=subprocess.STDOUT)))
    statuses = []
    for part, output, process in started:
        began_mono_s = time.monotonic()
        statuses.append(process.wait())
        output.seek(0)
        sys.stdout.write(f"$ {' '.join(part)}\n")
        sys.stdout.flush()
        sys.stdout.buffer.write(output.read())
        sys.stdout.write(f"exit {statuses[-1]}, waited for {time.monotonic() - began_mono_s:.0f} s\n\n")
        sys.stdout.flush()
        output.close()
    return next((status for status in statuses if status), 0)


if __name__ == "__main__":
    sys.exit(run(commands(sys.argv[1:])))

"""Measure this engine and its peer: ``python -m tests.bench [--write docs/benchmarks.md]``."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from . import machine
from .plan import TINY, Size, measure
from .report import page, rows, table


def main() -> int:
    """Measure, print the table; 0 whether or not every target was met, for the page says so."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the page to this file")
    parser.add_argument("--directory", type=Path, help="where the queues are; default: the user's cache")
    parser.add_argument("--tiny", action="store_true", help="only see whether everything runs")
    parser.add_argument("--rounds", type=int, default=Size().rounds)
    parser.add_argument(
        "--quiet-below", type=float, default=1.0, metavar="LOAD", help="wait for the load to fall below"
    )
    parser.add_argument("--quiet-within", type=float, default=180.0, metavar="SECONDS", help="but not longer")
    arguments = parser.parse_args()
    size = TINY if arguments.tiny else Size(rounds=arguments.rounds)
    begin_load = machine.wait_until_quiet(arguments.quiet_below, arguments.quiet_within)
    loads = [begin_load]
    directory = Path(
        tempfile.mkdtemp(prefix="prefork-bench-", dir=arguments.directory or machine.disk_directory())
    )
    try:
        facts = machine.describe(directory)
        figures = measure(directory, size, _say, lambda: loads.append(machine.load()))
    finally:
        shutil.rmtree(directory)
    _say("\n".join(table(rows(figures))))
    if arguments.write is not None:
        arguments.write.write_text(page(figures, facts, size, (begin_load, max(loads))), encoding="utf-8")
    return 0


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())

"""Measure this engine and its peers: ``python -m tests.bench [PART ...] [--write PAGE]``."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from . import machine
from .plan import TINY, Size, measure
from .report import embedded_section, rows, table
from .sections import with_part

PARTS = ("embedded", "redis", "rabbitmq")
HEAD = """\
# Benchmarks

Written by `python -m tests.bench --write docs/benchmarks.md`, which `tox -e bench` runs.
Only the ratios carry over to other machines.
"""


def main() -> int:
    """Measure, print the tables; 0 whether or not every target was met, for the page says so."""
    arguments = _parser().parse_args()
    begin_load = machine.wait_until_quiet(arguments.quiet_below, arguments.quiet_within)
    directory = Path(
        tempfile.mkdtemp(prefix="prefork-bench-", dir=arguments.directory or machine.disk_directory())
    )
    try:
        if "embedded" in arguments.parts:
            _embedded(arguments, directory, begin_load)
        if "redis" in arguments.parts:
            # Needs all peers to be installed, which whoever measures the embedded broker alone has not.
            from .on_redis.main import measure_redis

            measure_redis(arguments, directory, begin_load, HEAD)
        if "rabbitmq" in arguments.parts:
            # Starts its server as the tests do.
            sys.path.append(str(Path(__file__).parents[1]))
            from .on_rabbitmq.main import measure_rabbitmq

            measure_rabbitmq(arguments, directory, begin_load, HEAD)
    finally:
        shutil.rmtree(directory)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=PARTS, default=PARTS, metavar="PART", help=str(PARTS))
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write its parts of the page in this file")
    parser.add_argument("--directory", type=Path, help="where the queues are; default: the user's cache")
    parser.add_argument("--tiny", action="store_true", help="only see whether everything runs")
    parser.add_argument("--quick", action="store_true", help="on servers: one round of a quarter")
    parser.add_argument(
        "--raw",
        type=Path,
        metavar="FILE",
        help="on servers: keep the numbers here, and go on where it ends",
    )
    parser.add_argument("--rounds", type=int, default=Size().rounds)
    parser.add_argument(
        "--quiet-below", type=float, default=1.0, metavar="LOAD", help="wait for the load to fall below"
    )
    parser.add_argument("--quiet-within", type=float, default=180.0, metavar="SECONDS", help="but not longer")
    return parser


def _embedded(arguments: argparse.Namespace, directory: Path, begin_load: float) -> None:
    size = TINY if arguments.tiny else Size(rounds=arguments.rounds)
    loads = [begin_load]
    facts = machine.describe(directory)
    figures = measure(directory, size, _say, lambda: loads.append(machine.load()))
    _say("\n".join(table(rows(figures))))
    if arguments.write is not None:
        text = arguments.write.read_text(encoding="utf-8") if arguments.write.exists() else HEAD
        section = embedded_section(figures, facts, size, (begin_load, max(loads)))
        arguments.write.write_text(with_part(text, "embedded", section), encoding="utf-8")


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())

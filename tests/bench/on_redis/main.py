"""The part of the benchmarks on Redis, from the server to the page."""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path

from prefork.transports.registry import open_transport

from .. import machine
from ..sections import part, with_part
from .plan import QUICK, TINY, Raw, Size, jobs, run
from .plot import draw
from .report import rows, section, table
from .server import Server, server

_NOTES = "notes on Redis"
_PEERS = ("celery", "dramatiq", "huey", "rq", "taskiq", "redis", "hiredis")
_QUEUE = "celery"


def measure_redis(arguments: argparse.Namespace, directory: Path, begin_load: float, head: str) -> None:
    """Measure what is asked for, print the table, write section and picture.

    :param head: of a page that does not exist yet.
    """
    size = TINY if arguments.tiny else QUICK if arguments.quick else Size(rounds=arguments.rounds)
    keep = arguments.raw or directory / "raw.json"
    raw: Raw = json.loads(keep.read_text(encoding="utf-8")) if keep.exists() else {}
    with server(directory) as one:
        run(jobs(size, lambda: _delayed(one)), one, directory, raw, _say, keep)
        facts = _facts(one, begin_load)
    _say("\n".join(table(rows(raw))))
    if arguments.write is not None:
        page = arguments.write
        text = page.read_text(encoding="utf-8") if page.exists() else head
        notes = f"<!-- {_NOTES} -->\n{part(text, _NOTES)}\n<!-- end of {_NOTES} -->"
        page.write_text(with_part(text, "redis", section(raw, facts, size, notes)), encoding="utf-8")
        draw(raw, page.with_suffix(".png"))


def _facts(one: Server, begin_load: float) -> dict[str, str]:
    facts = machine.processor()
    facts["Redis"] = one.version()
    facts["prefork"] = version("prefork")
    facts["peers"] = ", ".join(f"{name} {version(name)}" for name in _PEERS)
    facts["load average when it began, and when it ended"] = f"{begin_load:.2f}, {machine.load():.2f}"
    return facts


def _delayed(one: Server) -> int:
    transport = open_transport(one.url)
    try:
        return transport.depth(_QUEUE).delayed
    finally:
        transport.close()


def _say(text: str) -> None:
    print(text, flush=True)

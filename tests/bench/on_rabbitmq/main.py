"""The part of the benchmarks on RabbitMQ, from the server to the page."""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .. import machine
from ..on_redis.plan import (
    BULK,
    DRAIN,
    LATENCY,
    QUICK,
    SEND,
    TINY,
    Job,
    Raw,
    Size,
    bulk,
    drain,
    latency,
    run,
    send,
)
from ..on_redis.report import table
from ..sections import part, with_part
from .engines import CELERY, ENGINES, OURS, UNCONFIRMED
from .report import rows, section
from .server import server

_NOTES = "notes on RabbitMQ"
_PEERS = ("celery", "dramatiq", "pika", "amqp", "kombu")


def jobs(size: Size) -> list[Job]:
    """Everything, in the order of one round."""

    def share(count: int) -> int:
        return max(200, int(count * size.share))

    return [
        *(Job(DRAIN, e, drain(share(e.per_round)), size.rounds) for e in ENGINES),
        Job(SEND, UNCONFIRMED, send(share(10_000)), size.rounds),
        Job(BULK, OURS, bulk(share(20_000)), size.rounds),
        *(Job(LATENCY, e, latency(size.probes), size.rounds) for e in (OURS, CELERY)),
    ]


def measure_rabbitmq(arguments: argparse.Namespace, directory: Path, begin_load: float, head: str) -> None:
    """Measure what is asked for, print the table, write the section.

    :param head: of a page that does not exist yet.
    """
    size = TINY if arguments.tiny else QUICK if arguments.quick else Size(rounds=arguments.rounds)
    keep = arguments.raw.with_suffix(".rabbitmq.json") if arguments.raw else directory / "rabbitmq.json"
    raw: Raw = json.loads(keep.read_text(encoding="utf-8")) if keep.exists() else {}
    with server(directory) as one:
        found: Any = one  # has what a round needs of a server of Redis
        run(jobs(size), found, directory, raw, _say, keep)
        facts = {
            "RabbitMQ": one.version(),
            "peers": ", ".join(f"{name} {version(name)}" for name in _PEERS),
            "load average when it began, and when it ended": f"{begin_load:.2f}, {machine.load():.2f}",
        }
    _say("\n".join(table(rows(raw))))
    if arguments.write is not None:
        page = arguments.write
        text = page.read_text(encoding="utf-8") if page.exists() else head
        notes = f"<!-- {_NOTES} -->\n{part(text, _NOTES)}\n<!-- end of {_NOTES} -->"
        page.write_text(with_part(text, "rabbitmq", section(raw, facts, size, notes)), encoding="utf-8")


def _say(text: str) -> None:
    print(text, flush=True)

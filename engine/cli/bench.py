"""`prefork bench`: how fast this host is against its broker, and with which settings."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from ..app import App
from ..bench.figures import Figures, Setting, recommend
from ..bench.trial import Load, TrialFailed, default_concurrency, run_trials
from ..embed import WorkerError
from ..version import __version__
from .failures import CommandError, ExitCode
from .options import GlobalOptions
from .output import as_json, complain, say, table
from .session import config_of, session, transport_of

_MESSAGES = 20_000
_PROBES = 50
_SECONDS = 5.0
_TIMEOUT_S = 120.0
_READ_AHEAD = "0,1,16"
_BROKER_SETTINGS = ("broker_", "redis_")
_HEADINGS = ("concurrency", "read-ahead", "tasks/s", "p50 ms", "p99 ms", "cpu us")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `bench`."""
    parser.add_argument(
        "-c",
        "--concurrency",
        type=_numbers(1),
        metavar="A,B",
        help="numbers of children to try (default: 1, one per CPU, two per CPU)",
    )
    parser.add_argument(
        "--read-ahead",
        type=_numbers(0),
        default=_numbers(0)(_READ_AHEAD),
        metavar="A,B",
        help="upper bounds on the messages a child holds; 0: bounded by predicted time alone (default "
        f"{_READ_AHEAD})",
    )
    parser.add_argument(
        "--messages",
        type=int,
        default=_MESSAGES,
        metavar="N",
        help=f"to drain each time (default {_MESSAGES})",
    )
    parser.add_argument(
        "--probes", type=int, default=_PROBES, metavar="N", help=f"single messages (default {_PROBES})"
    )
    parser.add_argument(
        "--task-ms", type=float, default=0.0, metavar="MS", help="how long each task sleeps (default 0)"
    )
    parser.add_argument(
        "--timeout", type=float, default=_TIMEOUT_S, metavar="SECONDS", help="give up a trial after that"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace, options: GlobalOptions) -> int:
    """Measure every combination on a queue of its own; what it made in the broker is gone afterwards."""
    if arguments.messages < 2 or arguments.probes < 1 or arguments.task_ms < 0:
        raise CommandError(
            "bench: --messages at least 2, --probes at least 1, --task-ms at least 0", ExitCode.USAGE
        )
    with session(options) as app:
        _require_processes(app)
        found = _measure(app, arguments)
    best = recommend(found)
    if arguments.json:
        document = {
            "version": __version__,
            "task_ms": arguments.task_ms,
            "trials": [one.plain() for one in found],
            "recommended": best.plain(),
        }
        say(as_json(document))
    else:
        say(table(_HEADINGS, [_row(one) for one in found]))
        say(_advice(best))
    return ExitCode.OK


def _measure(app: App, arguments: argparse.Namespace) -> list[Figures]:
    settings = [
        Setting(concurrency, read_ahead)
        for concurrency in arguments.concurrency or default_concurrency()
        for read_ahead in arguments.read_ahead
    ]
    load = Load(arguments.messages, arguments.probes, arguments.task_ms, _SECONDS, arguments.timeout)
    with tempfile.TemporaryDirectory(prefix="prefork-bench-") as directory:
        try:
            return run_trials(broker_settings(app), settings, load, Path(directory), _progress)
        except (TrialFailed, WorkerError) as error:
            raise CommandError(f"bench: {error}") from error


def _require_processes(app: App) -> None:
    """:raises CommandError: no other process could read what this one sends."""
    capabilities = transport_of(app).capabilities
    if not capabilities.several_processes:
        raise CommandError(
            f"bench: the broker {capabilities.name} lives within one process, so no worker could be measured "
            "on it; name one that a worker can reach, such as -b filesystem:///var/lib/app/queue",
            ExitCode.USAGE,
        )


def broker_settings(app: App) -> dict[str, Any]:
    """What the application says of its broker, for workers and senders of the benchmark."""
    config = config_of(app)
    return {
        key: value
        for key, value in config.items()
        if key.startswith(_BROKER_SETTINGS) and config.is_given(key)
    }


def _progress(one: Figures) -> None:
    if not sys.stderr.isatty():
        return  # nobody waits
    complain(f"concurrency {one.concurrency}, read-ahead {one.read_ahead}: {one.per_s:,.0f} tasks/s")


def _row(one: Figures) -> tuple[object, ...]:
    cpu = "" if one.cpu_us is None else f"{one.cpu_us:.0f}"
    shown = f"{one.per_s:.0f}", f"{one.p50_ms:.2f}", f"{one.p99_ms:.2f}", cpu
    return (one.concurrency, one.read_ahead, *shown)


def _advice(best: Figures) -> str:
    return (
        f"recommended: prefork worker --concurrency {best.concurrency} "
        f"--prefetch-multiplier {best.read_ahead}"
    )


def _numbers(least: int) -> Any:
    """A parser of comma-separated whole numbers, none of them below `least`."""

    def parse(text: str) -> list[int]:
        try:
            numbers = [int(part) for part in text.split(",")]
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r}: whole numbers, separated by commas") from None
        if min(numbers) < least:
            raise argparse.ArgumentTypeError(f"{text!r}: none of them below {least}")
        return list(dict.fromkeys(numbers))

    return parse

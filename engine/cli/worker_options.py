"""The options of `prefork worker`: those that act, and those of Celery's that have nothing to act on."""

from __future__ import annotations

import argparse
from collections.abc import Callable

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "FATAL")

# flag -> attribute. Accepted so that a command line moves over unchanged, and listed once at start.
WITHOUT_EFFECT = {
    "-O": "optimization",
    "--disable-prefetch": "disable_prefetch",
    "--pool-start-method": "pool_start_method",
    "--without-gossip": "without_gossip",
    "--without-heartbeat": "without_heartbeat",
    "--heartbeat-interval": "heartbeat_interval",
    "--beat": "beat",
    "--schedule": "schedule",
    "--scheduler": "scheduler",
    "--executable": "executable",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add every option of a worker to a parser."""
    _add_pool(parser)
    _add_limits(parser)
    _add_queues(parser)
    _add_process(parser)
    _add_without_effect(parser)
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="section.key=value",
        help="settings, as in worker.prefetch_multiplier=4",
    )


def _add_pool(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("pool")
    group.add_argument(
        "-c", "--concurrency", metavar="N|auto", help="children; default: CPUs this process may use"
    )
    group.add_argument(
        "--async-concurrency", type=_at_least(int, 1), metavar="N", help="async tasks at once per child"
    )
    group.add_argument("-P", "--pool", default="prefork", metavar="NAME", help="prefork (default) or solo")
    group.add_argument("--autoscale", metavar="MAX,MIN", help="grow with waiting work, shrink when idle")
    group.add_argument(
        "--prefetch-multiplier", type=_at_least(int, 0), metavar="N", help="upper bound per child"
    )
    group.add_argument(
        "--max-tasks-per-child", type=_at_least(int, 1), metavar="N", help="then replace the child"
    )
    group.add_argument(
        "--max-memory-per-child",
        type=_at_least(int, 1),
        metavar="KIB",
        help="private memory, then replace it",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("time limits")
    group.add_argument(
        "--time-limit", type=_at_least(float, 0), metavar="SECONDS", help="hard: the child is killed"
    )
    group.add_argument(
        "--soft-time-limit",
        type=_at_least(float, 0),
        metavar="SECONDS",
        help="soft: the task gets an exception",
    )


def _add_queues(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("queues and tasks")
    group.add_argument(
        "-Q", "--queues", action="append", metavar="A,B", help="consume from these only; A=5,B=1 weighs them"
    )
    group.add_argument("-X", "--exclude-queues", action="append", metavar="A,B", help="but not from these")
    group.add_argument(
        "-I", "--include", action="append", metavar="A,B", help="modules to import besides the app's"
    )
    group.add_argument(
        "--purge", "--discard", action="store_true", help="drop what waits before starting; asks nothing"
    )


def _add_process(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("process")
    group.add_argument("-n", "--hostname", metavar="NAME", help="node name; %%h host, %%n name, %%d domain")
    group.add_argument("-l", "--loglevel", default="WARNING", metavar="LEVEL", help=", ".join(LEVELS))
    group.add_argument(
        "-f", "--logfile", metavar="PATH", help="default: standard error; %%n %%h %%d %%i %%I %%p"
    )
    group.add_argument("--pidfile", metavar="PATH", help="where to write the supervisor's process id")
    group.add_argument("-S", "--statedb", metavar="PATH", help="where to keep revoked ids between runs")
    group.add_argument(
        "--without-mingle", action="store_true", help="do not ask other workers at the start what is revoked"
    )
    group.add_argument("-E", "--task-events", "--events", action="store_true", help="send task events")
    group.add_argument("-D", "--detach", action="store_true", help="run in the background")
    group.add_argument("--uid", metavar="USER", help="become this user before starting")
    group.add_argument("--gid", metavar="GROUP", help="become this group before starting")
    group.add_argument("--umask", metavar="OCTAL", help="file mode creation mask")


def _add_without_effect(parser: argparse.ArgumentParser) -> None:
    hidden = argparse.SUPPRESS
    parser.add_argument("-O", "--optimization", choices=("default", "fair"), help=hidden)
    parser.add_argument("--disable-prefetch", action="store_true", help=hidden)
    parser.add_argument("--pool-start-method", choices=("fork", "spawn"), help=hidden)
    parser.add_argument("--without-gossip", action="store_true", help=hidden)
    parser.add_argument("--without-heartbeat", action="store_true", help=hidden)
    parser.add_argument("--heartbeat-interval", type=float, help=hidden)
    parser.add_argument("-B", "--beat", action="store_true", help=hidden)
    parser.add_argument("-s", "--schedule", "--schedule-filename", help=hidden)
    parser.add_argument("--scheduler", help=hidden)
    parser.add_argument("--executable", help=hidden)


def _at_least(kind: Callable[[str], float], least: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        # Written so that NaN, which compares with nothing, is refused as well.
        if not value >= least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return value

    return parse

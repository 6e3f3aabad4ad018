"""Options that every command takes, before or after its name, as users of Celery type them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TextIO

from ..version import __version__
from .failures import CommandError, ExitCode

# Needed to find the command's name without knowing its options: these take a value.
_TAKE_A_VALUE = frozenset(
    {"-A", "--app", "-b", "--broker", "--result-backend", "--config", "--workdir", "--loader"}
)


@dataclass(frozen=True)
class GlobalOptions:
    """What was said about the application and the output, wherever it stood on the line.

    :param app: ``module``, ``module:attribute`` or None; ``PREFORK_APP`` when not given.
    :param broker: a broker URL that overrides the configuration.
    :param result_backend: likewise for results.
    :param config: a configuration module, or a ``.toml`` file.
    :param workdir: directory to change into first; also put first on ``sys.path``.
    :param color: False for plain output, None to decide by the terminal.
    :param ignored: options of Celery's that were given and mean nothing here.
    """

    app: str | None = None
    broker: str | None = None
    result_backend: str | None = None
    config: str | None = None
    workdir: str | None = None
    color: bool | None = None
    quiet: bool = False
    ignored: tuple[str, ...] = ()


def global_parser() -> argparse.ArgumentParser:
    """The options alone, to be a parent of the parser of a command.

    Nothing has a default, so that an option before the command survives the parsing of what
    follows it.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    group = parser.add_argument_group("global options (before or after the command)")
    group.add_argument("-A", "--app", metavar="MODULE[:ATTR]", help="the application, or PREFORK_APP")
    group.add_argument(
        "-b",
        "--broker",
        metavar="URL",
        help="broker URL; overrides the configuration; - reads it from standard input",
    )
    group.add_argument(
        "--result-backend", metavar="URL", help="result store URL; overrides the configuration; - as above"
    )
    group.add_argument("--config", metavar="MODULE|FILE", help="configuration module or .toml file")
    group.add_argument("--workdir", metavar="DIR", help="change into this directory first")
    group.add_argument("-C", "--no-color", action="store_true", help="plain output")
    group.add_argument("-q", "--quiet", action="store_true", help="less output")
    group.add_argument("--loader", help=argparse.SUPPRESS)
    group.add_argument("--skip-checks", action="store_true", help=argparse.SUPPRESS)
    group.add_argument("--version", action="version", version=f"prefork {__version__}")
    return parser


def split_at_command(argv: Sequence[str]) -> tuple[list[str], str | None, list[str]]:
    """Divide a command line into global options, the command's name, and the command's own."""
    position = 0
    while position < len(argv):
        token = argv[position]
        if not token.startswith("-"):
            return list(argv[:position]), token, list(argv[position + 1 :])
        position += 2 if token in _TAKE_A_VALUE else 1
    return list(argv), None, []


def collect(namespace: argparse.Namespace, environ_app: str | None = None) -> GlobalOptions:
    """Gather the global options out of parsed arguments.

    :param environ_app: what ``PREFORK_APP`` says; used when no ``-A`` was given.
    """
    given = vars(namespace)
    ignored = tuple(
        flag for flag, name in (("--loader", "loader"), ("--skip-checks", "skip_checks")) if name in given
    )
    return GlobalOptions(
        app=given.get("app", environ_app or None),
        broker=given.get("broker"),
        result_backend=given.get("result_backend"),
        config=given.get("config"),
        workdir=given.get("workdir"),
        color=False if given.get("no_color") else None,
        quiet=bool(given.get("quiet")),
        ignored=ignored,
    )


def with_urls_of(options: GlobalOptions, stream: TextIO) -> GlobalOptions:
    """The same, with a line of a stream for each URL that is given as ``-``, the broker's first.

    What stands on a command line can be read by every user of the host; what comes through a pipe
    cannot.

    :raises CommandError: the stream has ended.
    """
    if options.broker == "-":
        options = replace(options, broker=_line(stream, "--broker"))
    if options.result_backend == "-":
        options = replace(options, result_backend=_line(stream, "--result-backend"))
    return options


def _line(stream: TextIO, flag: str) -> str:
    url = stream.readline().strip()
    if not url:
        raise CommandError(f"{flag} -: standard input has no URL for it", ExitCode.USAGE)
    return url

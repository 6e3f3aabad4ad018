"""`prefork demo`: the engine at work, in seconds, with nothing but what is installed."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..demo.files import own_sources
from ..demo.run import Plan, run_demo
from .failures import CommandError, ExitCode
from .options import GlobalOptions

_TIMEOUT_S = 120.0
_FILES_MAX = 2000


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `demo`."""
    parser.add_argument(
        "folder", nargs="?", type=Path, help="text files to read (default: this package's own)"
    )
    parser.add_argument("-c", "--concurrency", type=int, default=2, metavar="N", help="processes (default 2)")
    parser.add_argument("--max-files", type=int, default=_FILES_MAX, metavar="N", help="read at most N files")
    parser.add_argument(
        "--timeout", type=float, default=_TIMEOUT_S, metavar="SECONDS", help="give up after that"
    )


def run(arguments: argparse.Namespace, options: GlobalOptions) -> int:
    """Exit 0 when everything went as planned, misfortunes included; 1 otherwise."""
    folder = (arguments.folder or own_sources()).resolve()
    if not folder.is_dir():
        raise CommandError(f"demo: {folder}: no such directory", ExitCode.USAGE)
    if arguments.concurrency < 1:
        raise CommandError(f"demo: --concurrency {arguments.concurrency}: at least 1", ExitCode.USAGE)
    plan = Plan(folder, arguments.concurrency, arguments.max_files, arguments.timeout)
    return ExitCode.OK if run_demo(plan) else ExitCode.FAILED

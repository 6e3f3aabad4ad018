"""`prefork config`: the effective configuration, and where each value came from."""

from __future__ import annotations

import argparse

from ..config import SETTINGS, effective, no_effect
from .failures import ExitCode
from .options import GlobalOptions
from .output import as_json, say, table
from .session import config_of, session


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `config`."""
    parser.add_argument("keys", nargs="*", metavar="KEY", help="these only")
    parser.add_argument(
        "--defaults", action="store_true", help="every setting with its default and its meaning"
    )
    parser.add_argument("--changed", action="store_true", help="leave out what is at its default")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace, options: GlobalOptions) -> int:
    """Print key, value (secrets masked) and source."""
    if arguments.defaults:
        return _defaults(arguments)
    with session(options) as app:
        config = config_of(app)
        rows = [
            (key, value, source)
            for key, value, source in effective(config)
            if (not arguments.changed or source != "default")
            and (not arguments.keys or key in arguments.keys)
        ]
        idle = no_effect(config)
    if arguments.json:
        say(as_json({key: {"value": value, "source": source} for key, value, source in rows}))
        return ExitCode.OK
    say(table(("key", "value", "source"), rows))
    if idle and not arguments.keys:
        say(f"\nno effect: {', '.join(idle)}")
    return ExitCode.OK


def _defaults(arguments: argparse.Namespace) -> int:
    """What could be configured; needs no application, and works when its configuration is wrong."""
    keys = [key for key in sorted(SETTINGS) if not arguments.keys or key in arguments.keys]
    if arguments.json:
        say(as_json({key: {"default": SETTINGS[key].default, "meaning": SETTINGS[key].doc} for key in keys}))
    else:
        say(table(("key", "default", "meaning"), [(k, SETTINGS[k].default, SETTINGS[k].doc) for k in keys]))
    return ExitCode.OK

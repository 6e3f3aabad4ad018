"""`prefork release`: hand everything that waits back to workers of other makes."""

from __future__ import annotations

import argparse
import time

from ...transports.base import Releases
from ...transports.errors import LeasesHeld
from ..clock import mono_s
from .failures import CommandError, ExitCode
from .options import GlobalOptions
from .output import complain, safe, say
from .session import session, transport_of

_LOOK_S = 0.5
_SLACK_S = 0.5


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `release`."""
    parser.add_argument(
        "-Q", "--queues", metavar="A,B", help="only these queues (default: every queue of the broker)"
    )
    parser.add_argument(
        "-f",
        "--force",
        action="store_true",
        help="take every worker for dead at once; what a living one runs then runs twice",
    )


def run(arguments: argparse.Namespace, options: GlobalOptions) -> int:
    """Return delayed, put-off and abandoned messages to their queues; waits for leases to run out."""
    names = [name.strip() for name in (arguments.queues or "").split(",") if name.strip()]
    with session(options) as app:
        transport = transport_of(app)
        if not isinstance(transport, Releases):
            say(
                f"nothing to release: only prefork reads the queues of a {transport.capabilities.name} broker"
            )
            return ExitCode.OK
        problems = 0
        for name in names or [None]:
            if not arguments.force:
                _await_leases(transport, name)
            try:
                done = transport.release(name, force=arguments.force)
            except LeasesHeld as error:
                raise CommandError(f"release: {error}") from error
            where = "" if name is None else f"{safe(name)}: "
            say(f"{where}{done.delayed} delayed, {done.recorded} put off, {done.held} in work: released")
            for line in done.problems:
                complain(f"{where}{safe(line)}")
            problems += len(done.problems)
    return ExitCode.FAILED if problems else ExitCode.OK


def _await_leases(transport: Releases, queue: str | None) -> None:
    """Wait until the leases of dead workers have run out.

    :raises CommandError: one is renewed meanwhile, so its worker lives.
    """
    ends_mono_s: dict[str, float] = {}
    while leases := transport.leases(queue):
        now_mono_s = mono_s()
        for worker, left_s in leases.items():
            end_mono_s = ends_mono_s.get(worker)
            if end_mono_s is None:
                complain(f"worker {safe(worker)}: waiting {left_s:.0f} s for its lease to run out")
                ends_mono_s[worker] = now_mono_s + left_s
            elif now_mono_s + left_s > end_mono_s + _SLACK_S:
                raise CommandError(
                    f"release: worker {safe(worker)} lives: it renews its lease. Stop it first "
                    "(or say -f, if you know better)"
                )
        time.sleep(min(_LOOK_S, *leases.values()))

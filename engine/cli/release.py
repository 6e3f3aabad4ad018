"""`prefork release`: hand everything that waits back to workers of other makes."""

from __future__ import annotations

import argparse
import time

from ...transports.base import Releases, Transport
from ...transports.errors import LeasesHeld
from ..app import App
from ..clock import mono_s
from ..limits.lanes import is_lane
from ..limits.upkeep import hand_back, lanes_of_queue
from .failures import CommandError, ExitCode
from .options import GlobalOptions
from .output import complain, safe, say
from .queues import known_queues
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
    """Return delayed, put-off, limited and abandoned messages to their queues; waits for leases to end."""
    names = [name.strip() for name in (arguments.queues or "").split(",") if name.strip()]
    with session(options) as app:
        transport = transport_of(app)
        problems = 0
        for name in names or [None]:
            where = "" if name is None else f"{safe(name)}: "
            if isinstance(transport, Releases):
                problems += _release(app, transport, name, where, force=arguments.force)
            elif transport.capabilities.routes:
                say(f"{where}{_hand_back_lanes(app, transport, name)} limited: released")
            else:
                shown = transport.capabilities.name
                say(f"nothing to release: only prefork reads the queues of a {shown} broker")
                return ExitCode.OK
    return ExitCode.FAILED if problems else ExitCode.OK


def _release(app: App, transport: Releases, name: str | None, where: str, *, force: bool) -> int:
    """Release one queue, or all; how many problems there were."""
    if not force:
        _await_leases(transport, name)
    # What is delayed in a lane goes to the lane first.
    lanes = [] if name is None else lanes_of_queue(transport_of(app), name, app.tasks)
    try:
        done = [transport.release(one, force=force) for one in (name, *lanes)]
    except LeasesHeld as error:
        raise CommandError(f"release: {error}") from error
    limited = _hand_back_lanes(app, transport_of(app), name)
    delayed, recorded = sum(one.delayed for one in done), sum(one.recorded for one in done)
    held = sum(one.held for one in done)
    say(f"{where}{delayed} delayed, {recorded} put off, {limited} limited, {held} in work: released")
    problems = [line for one in done for line in one.problems]
    for line in problems:
        complain(f"{where}{safe(line)}")
    return len(problems)


def _hand_back_lanes(app: App, transport: Transport, queue: str | None) -> int:
    """Move what waits for a limit back to its queue; how many messages."""
    queues = known_queues(app, set())
    of = [queue] if queue is not None else queues
    lanes = {lane for name in of for lane in lanes_of_queue(transport, name, app.tasks)}
    if queue is None:
        lanes |= {name for name in queues if is_lane(name)}
    return sum(hand_back(transport, lane, queues, app.client.table) for lane in sorted(lanes))


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

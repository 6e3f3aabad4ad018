"""What a worker owes its broker again and again: lease, schedule, lost workers, maintenance.

The agent does it for a pool; a worker that runs everything in one process does it in a thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from ..transports.base import Recovery, Transport
from ..transports.errors import TransportError
from .clock import mono_s, wall_s

_PROMOTE_S: Final = 0.25
# Of a broker that tells whenever something was put into the schedule.
_PROMOTE_TOLD_S: Final = 15.0
_MAINTAIN_S: Final = 10.0
# What failed is tried again no later than this, so that work goes on soon after an outage.
_RETRY_S: Final = 1.0


class Duty:
    """Something that is done again and again.

    :ivar next_mono_s: monotonic time when it is due.
    :ivar failures: how often in a row it failed.
    """

    __slots__ = ("failures", "interval_s", "name", "next_mono_s", "perform")

    def __init__(self, name: str, interval_s: float, perform: Callable[[], None]) -> None:
        self.name = name
        self.interval_s = interval_s
        self.perform = perform
        self.next_mono_s = 0.0
        self.failures = 0


class Housekeeping:
    """The duties of one worker towards its broker. Used by one thread.

    :param renew_s: how often the lease is renewed.
    :param on_renewed: called after each renewal of the lease.
    :param on_promoted: called after due messages were made ready.
    :param on_lapsed: called with what was taken over from workers that vanished.
    :param told: the broker tells when its schedule changes, and `look_at_schedule` is called then.
    """

    def __init__(
        self,
        transport: Transport,
        worker_id: str,
        *,
        lease_s: float,
        renew_s: float,
        max_crashes: int,
        log: logging.Logger,
        on_renewed: Callable[[], None],
        on_promoted: Callable[[], object],
        on_lapsed: Callable[[Recovery], None],
        told: bool = False,
    ) -> None:
        self._transport = transport
        self._worker_id = worker_id
        self._lease_s = lease_s
        self._max_crashes = max_crashes
        self._log = log
        self._on_renewed = on_renewed
        self._on_promoted = on_promoted
        self._on_lapsed = on_lapsed
        self._lease = Duty("lease", renew_s, self.renew)
        self._schedule = Duty("schedule", _PROMOTE_TOLD_S if told else _PROMOTE_S, self._promote)
        self._promoted_mono_s = 0.0
        self.duties = [
            self._lease,
            self._schedule,
            Duty("lost workers", lease_s / 3, self._recover_lapsed),
            Duty("maintenance", _MAINTAIN_S, self._maintain),
        ]

    def turn(self) -> float:
        """Do what is due; returns in how many seconds something is due again.

        A failure ends the turn: it may have waited for a silent broker, and the caller has other
        things to do than to wait as often as there are duties. Some wait for other servers (a result
        store), as long as they like: the lease comes first again after each of them.
        """
        now_s = mono_s()
        for duty in self.duties:
            if now_s < duty.next_mono_s:
                continue
            if mono_s() >= self._lease.next_mono_s and not self._perform(self._lease, mono_s()):
                break
            if duty is not self._lease and not self._perform(duty, now_s):
                break
        return max(0.0, min(duty.next_mono_s for duty in self.duties) - mono_s())

    def _perform(self, duty: Duty, now_s: float) -> bool:
        duty.next_mono_s = now_s + duty.interval_s
        try:
            duty.perform()
        except TransportError as error:
            duty.failures += 1
            retry_s = min(duty.interval_s, _RETRY_S)
            duty.next_mono_s = mono_s() + retry_s
            if duty.failures == 1:
                self._log.error("%s: %s; trying again every %.2g s", duty.name, error, retry_s)
            return False
        if duty.failures:
            self._log.warning("%s: works again after %d failures", duty.name, duty.failures)
            duty.failures = 0
        return True

    def renew(self) -> None:
        """Renew the lease.

        :raises TransportError: the broker cannot be reached.
        """
        self._transport.heartbeat(self._worker_id, self._lease_s)
        self._on_renewed()

    def look_at_schedule(self) -> None:
        """Something changed, perhaps in the schedule: look at it soon, and not too often."""
        self._schedule.next_mono_s = min(self._schedule.next_mono_s, self._promoted_mono_s + _PROMOTE_S)

    def _promote(self) -> None:
        self._promoted_mono_s = mono_s()
        next_wall_s = self._transport.promote()
        if next_wall_s is not None:
            soon_s = max(0.0, next_wall_s - wall_s())
            self._schedule.next_mono_s = mono_s() + min(soon_s, self._schedule.interval_s)
        self._on_promoted()

    def _recover_lapsed(self) -> None:
        self._on_lapsed(self._transport.recover_lapsed(max_crashes=self._max_crashes))

    def _maintain(self) -> None:
        for line in self._transport.maintain():
            self._log.warning("%s", line)

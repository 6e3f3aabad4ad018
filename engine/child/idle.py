"""How a child waits when there is nothing to do.

The agent is the one waiter of a worker: it sees that messages are ready and wakes no more idle
children than there are messages (design §4.2). Without it, a child looks by itself, ever less
often. Where the broker pushes messages to each child (AMQP), a child sleeps on its own connection.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from typing import Final, Protocol

from ...transports.base import Consumer, Wakeable
from ..clock import mono_ns
from ..linux import Linux
from ..process_link import ProcessLink
from ..scoreboard import A_LOOP_NS, Slot

_SAFETY_S: Final = 6.0
_AGENT_GONE_NS: Final = 2_500_000_000
_POLL_FIRST_S: Final = 0.01
_POLL_LAST_S: Final = 0.25
# A futex cannot be polled together with a descriptor: it is looked at so often meanwhile, which
# costs nothing that could be measured and bounds how late a child learns that it must leave.
_GLANCE_MS: Final = 100


class Idle(Protocol):
    """Waits for something to do."""

    def before_looking(self) -> int:
        """A token; take it before looking for messages."""

    def wait(self, token: int) -> None:
        """Sleep until something may have changed since the token was taken."""

    def worked(self) -> None:
        """There was something to do."""

    def nudge(self) -> None:
        """End a `wait` or `rest`, be it the next one. From any thread of this process."""

    def rest(self, token: int) -> None:
        """Sleep until nudged, or told to leave: there is no room for messages, whatever comes."""


class Nudge:
    """A descriptor by which one thread ends the sleep of another."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def give(self) -> None:
        """Make it readable."""
        os.eventfd_write(self.fd, 1)

    def drain(self) -> None:
        """Forget what was given so far. Call it before looking, not after."""
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            pass  # nothing was given


class AgentWakes:
    """Sleeps on the slot's futex, which the agent and the supervisor change."""

    def __init__(self, link: ProcessLink, slot: Slot) -> None:
        self._board_words = link.scoreboard.words
        self._futex = Linux().futex(link.scoreboard.buffer, slot.wake_address())
        self._poll_s = _POLL_FIRST_S

    def before_looking(self) -> int:
        """The futex's value."""
        return self._futex.value()

    def wait(self, token: int) -> None:
        """Sleep until woken; at most a few seconds, or much less while the agent is away."""
        if mono_ns() - self._board_words[A_LOOP_NS] < _AGENT_GONE_NS:
            self._futex.wait(token, _SAFETY_S)
            return
        self._futex.wait(token, self._poll_s)
        self._poll_s = min(self._poll_s * 2, _POLL_LAST_S)

    def worked(self) -> None:
        """Poll often again, should the agent be away."""
        self._poll_s = _POLL_FIRST_S

    def nudge(self) -> None:
        """Change the futex."""
        self._futex.wake()

    def rest(self, token: int) -> None:
        """Sleep until the futex changes; at most a few seconds."""
        self._futex.wait(token, _SAFETY_S)


class ConnectionWakes:
    """Sleeps on the connection that messages are pushed to; the supervisor is heard as well.

    :param due_in_s: when a limited task may run that waits in a lane, if one does.
    """

    def __init__(
        self,
        link: ProcessLink,
        slot: Slot,
        connection: Wakeable,
        due_in_s: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._due_in_s = due_in_s
        self._futex = Linux().futex(link.scoreboard.buffer, slot.wake_address())
        self._connection = connection
        self._nudged = Nudge()

    def before_looking(self) -> int:
        """The futex's value."""
        self._nudged.drain()
        return self._futex.value()

    def wait(self, token: int) -> None:
        """Sleep until something comes or the futex changes; at most a few seconds."""
        self._sleep(token, self._connection.fileno())

    def rest(self, token: int) -> None:
        """Sleep until nudged or the futex changes; at most a few seconds."""
        self._sleep(token, -1)

    def nudge(self) -> None:
        """End the present or the next sleep."""
        self._nudged.give()

    def _sleep(self, token: int, fd: int) -> None:
        poller = select.poll()
        poller.register(self._nudged.fd, select.POLLIN)
        if fd >= 0:
            poller.register(fd, select.POLLIN)
        for _ in range(int(_SAFETY_S * 1000 / _GLANCE_MS)):
            due_in_s = self._due_in_s()
            is_due = due_in_s is not None and due_in_s * 1000 < _GLANCE_MS
            pause_ms = due_in_s * 1000 if due_in_s is not None and is_due else _GLANCE_MS
            if self._futex.value() != token or poller.poll(pause_ms) or is_due:
                return

    def worked(self) -> None:
        """Nothing to remember."""


def idle_of(
    link: ProcessLink,
    slot: Slot,
    consumer: Consumer,
    due_in_s: Callable[[], float | None] = lambda: None,
) -> Idle:
    """How the child that uses a consumer waits."""
    if isinstance(consumer, Wakeable):
        return ConnectionWakes(link, slot, consumer, due_in_s)
    return AgentWakes(link, slot)

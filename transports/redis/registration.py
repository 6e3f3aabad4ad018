"""Enters an owner in the broker, once it is known that its scripts will be able to do their work."""

from __future__ import annotations

from ..errors import BrokerUnavailable
from .keys import Keys, decode, encode
from .link import Link
from .owners import Registered
from .scripts import PREFLIGHT, REGISTER

FIRST_LEASE_S = 15.0


def register(link: Link, keys: Keys, owner: str, registered: Registered) -> None:
    """Enter an owner, and its worker with a first lease.

    :raises BrokerUnavailable: the server cannot be reached, or the user lacks the right to a command
        that a script would need when it has already taken a message.
    """
    refused = link.run(PREFLIGHT, [keys.scratch(owner)], [link.settings.db])
    if refused:
        user = link.settings.user or "default"
        commands = ", ".join(dict.fromkeys(map(decode, refused)))
        raise BrokerUnavailable(
            f"redis at {link.settings.shown} refuses to the user {user!r}: {commands} (NOPERM). Nothing is "
            "reserved without them; grant them (ACL SETUSER)"
        )
    link.run(
        REGISTER,
        [keys.owners, keys.worker(registered.worker), keys.workers, keys.queues],
        [
            encode(owner),
            registered.encoded(),
            encode(registered.worker),
            FIRST_LEASE_S,
            *map(encode, registered.queues),
        ],
    )

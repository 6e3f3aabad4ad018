"""Why a retry that another make of worker sent is let rest for a moment before it starts.

Celery sends the next attempt first and stores the state RETRY of the old one afterwards, milliseconds
later. Its check that no SUCCESS is overwritten is not atomic (interop §18, 16). An attempt that starts
at once, as ours do, can be over by then, and its result would be lost under a RETRY that stays for
ever: seen once in about 250 retries without a delay in a fleet of both makes.
"""

from __future__ import annotations

from typing import Any, Final

from ...transports.base import Delivery, Outcome, Outgoing
from ..message import TaskMessage
from ..message_edit import with_header
from ..message_retry import OWN_RETRY_HEADER

REST_S: Final = 0.15
RESTED_HEADER: Final = "prefork_rested"


def needs_rest(message: TaskMessage, headers: Any) -> bool:
    """Whether an attempt may start while its predecessor's state is still to be stored.

    One with an eta was held back by its delay already.

    :param headers: raw headers of the message.
    """
    if not message.retries or message.eta_wall_s is not None or not isinstance(headers, dict):
        return False
    return message.retries not in (headers.get(OWN_RETRY_HEADER), headers.get(RESTED_HEADER))


def rest(delivery: Delivery, message: TaskMessage, now_wall_s: float) -> Outcome:
    """Put it off once; it comes back with a note that it has rested."""
    document = with_header(delivery.document, RESTED_HEADER, message.retries)
    later = Outgoing(delivery.queue, document, delivery.priority, now_wall_s + REST_S)
    return Outcome(tag=delivery.tag, follow_ups=(later,))

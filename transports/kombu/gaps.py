"""What the bridge cannot promise, in flags and in words."""

from __future__ import annotations

from ..base import Capabilities
from .address import Address

_EVERYWHERE = (
    "priorities: messages come in the order that kombu's transport gives, whatever their priority",
    "schedule: a message that is not due waits in the queue prefork-deferred, and then in the memory of "
    "one process of a worker that runs; it needs such a worker",
    "dead letters: they are in the queue prefork-dead-letters, and are not listed by prefork dead",
    "results are stored apart from the acknowledgement, never together with it",
    "follow-up messages are sent before the acknowledgement, not together with it: after a crash they "
    "may be sent again",
    "waking: queues are looked at in intervals (the option polling_interval, in seconds)",
    "inspection: messages cannot be shown without being taken, and only queues are listed that are "
    "configured or were used in this process",
    "selecting: messages cannot be taken from one queue by name, so no task can be limited",
    "sharing: workers share no limits, locks (of unique tasks) and revocations",
    "giving back: a message returns to the end of its queue, unless the broker has a way to do better",
)
_TAKEN = (
    "a message leaves the broker when it is read, and then stands in a journal on the host of its reader: "
    "workers of that host recover it when its reader dies, those of other hosts do not, and a reboot "
    "of the host loses it",
    "leases: workers of one host recover each other; which messages were started is not known, so none "
    "becomes a suspect",
)
_KEPT = (
    "what a process holds when it dies is returned by the broker, when and as the broker does that; "
    "crashes are not counted, so a message that kills its processes is not stopped",
    "leases: the broker has its own, or none",
    "nobody else can give back what a busy process holds",
)
_LOCAL = ("several processes: messages pass between the threads of one process only",)


def capabilities_of(address: Address) -> Capabilities:
    """What a transport of kombu can do behind the bridge."""
    gaps = _EVERYWHERE + (_TAKEN if address.takes else _KEPT) + (_LOCAL if address.local else ())
    return Capabilities(
        name=f"kombu+{address.scheme}",
        priorities=False,
        highest_priority_first=False,
        strict_priorities=False,
        schedule=False,
        dead_letters=False,
        leases=False,
        recall_by_others=address.takes,
        stores_results=False,
        inspection=False,
        several_processes=not address.local,
        routes=False,
        shares_queues=True,
        announces_schedule=False,
        inspects_schedule=False,
        lists_queues=False,
        counts_in_work=address.takes,
        coordinates=False,
        selects=False,
        rotates=False,
        gaps=gaps,
    )

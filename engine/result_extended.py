"""What `result_extended` stores of a task beside its result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .message_repr import bounded_repr


def extended_of(request: Any, *, as_text: bool = False) -> Mapping[str, Any]:
    """The fields, as far as a request says them.

    :param request: a `Context`, or what somebody else made to look like one.
    :param as_text: the arguments as people read them: a task may have put anything into them.
    """
    args, kwargs = getattr(request, "args", None), getattr(request, "kwargs", None)
    delivery: Any = getattr(request, "delivery_info", None) or {}
    return {
        "name": getattr(request, "task", None),
        "args": bounded_repr(args) if as_text else args,
        "kwargs": bounded_repr(kwargs) if as_text else kwargs,
        "worker": getattr(request, "hostname", None),
        "retries": getattr(request, "retries", None),
        "queue": delivery.get("routing_key"),
    }

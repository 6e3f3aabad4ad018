"""Says at start which tasks may run longer than the broker lets a worker hold a message."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from math import ceil
from typing import Any

from ..options import options_of


def longer_than(hold_s_max: float, tasks: Mapping[str, Any], config: Any) -> dict[str, float]:
    """Hard time limits (seconds) beyond what a broker allows, by the names of the tasks, in order.

    Tasks of our own are left out: what they do is done quickly, whatever limit is set for all tasks.

    :param hold_s_max: seconds; `Capabilities.hold_s_max`.
    """
    found: dict[str, float] = {}
    for name in sorted(tasks):
        limit_s = None if name.startswith("celery.") else options_of(tasks[name], config).time_limit_s
        if limit_s is not None and limit_s > hold_s_max:
            found[name] = limit_s
    return found


def warn_of_long_limits(
    hold_s_max: float | None, tasks: Mapping[str, Any], config: Any, log: logging.Logger
) -> None:
    """Warn once; a broker without such a bound needs no warning."""
    found = {} if hold_s_max is None else longer_than(hold_s_max, tasks, config)
    if found:
        log.warning(
            "the time limit of %s is beyond the %.0f s for which the broker lets a message be held "
            "(consumer_timeout): such a task runs twice and is then a dead letter. Lower the limit, or raise "
            "consumer_timeout at the broker and say so: broker_transport_options = "
            '{"consumer_timeout": %d}, in seconds',
            ", ".join(found),
            hold_s_max,
            ceil(max(found.values())),
        )

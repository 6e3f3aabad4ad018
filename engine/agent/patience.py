"""Says at start which tasks may run longer than the broker lets a worker hold a message."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ..options import options_of


def longer_than(hold_s_max: float, tasks: Mapping[str, Any], config: Any) -> list[str]:
    """The tasks whose hard time limit is beyond what a broker allows, in order of their names.

    :param hold_s_max: seconds; `Capabilities.hold_s_max`.
    """
    limits = {name: options_of(task, config).time_limit_s for name, task in tasks.items()}
    return sorted(name for name, limit_s in limits.items() if limit_s is not None and limit_s > hold_s_max)


def warn_of_long_limits(
    hold_s_max: float | None, tasks: Mapping[str, Any], config: Any, log: logging.Logger
) -> None:
    """Warn once; a broker without such a bound needs no warning."""
    names = [] if hold_s_max is None else longer_than(hold_s_max, tasks, config)
    if names:
        log.warning(
            "the time limit of %s is beyond the %.0f s for which the broker lets a message be held "
            "(consumer_timeout): such a task runs twice and is then a dead letter. Raise consumer_timeout at "
            "the broker, and say so in broker_transport_options, or lower the limit",
            ", ".join(names),
            hold_s_max,
        )

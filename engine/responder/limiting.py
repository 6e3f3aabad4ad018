"""Commands that change the limits of tasks (interop §11.5)."""

from __future__ import annotations

import math
from typing import Any, Final

from ..exceptions import ImproperlyConfigured
from ..limits.rates import rate_per_s
from ..time_limit_board import RunTimeLimits
from .side import WorkerSide

# In which a rate is shown: the first one of which there is at least one.
_UNITS: Final = (("s", 1), ("m", 60), ("h", 3600))


def rate_limit(side: WorkerSide, task_name: Any, rate_limit: Any, **_: Any) -> Any:
    """Give a task kind another rate in this worker."""
    if side.rates is None:
        raise ValueError("this worker keeps no rate limits: worker_disable_rate_limits is set")
    if task_name not in side.loaded.app.tasks:
        return {"error": "unknown task"}
    try:
        per_s = side.rates.set_rate(task_name, rate_limit)
    except ImproperlyConfigured as error:
        return {"error": f"Invalid rate limit string: {error}"}
    if per_s is None:
        return {"ok": "rate limit disabled successfully"}
    return {"ok": "new rate limit set successfully" if per_s else "tasks of this name are paused"}


def rate_shown(side: WorkerSide, name: str, declared: Any) -> Any:
    """The rate limit of a task kind in this worker, as it would be given; None when there is none.

    :param declared: what the code says. It is shown as it is there, unless another one was set since.
    """
    bucket = None if side.rates is None else side.rates.bucket(name)
    if bucket is None:
        return declared
    per_s = bucket.per_s
    if per_s is None:
        return None
    if declared is not None and math.isclose(rate_per_s(declared, name) or 0.0, per_s, rel_tol=1e-6):
        return declared
    if not per_s:
        return "0"
    unit, in_unit = next((unit, per_s * s) for unit, s in _UNITS if per_s * s >= 1 or unit == "h")
    return f"{in_unit:.6g}/{unit}"


def time_limit(side: WorkerSide, task_name: Any = None, hard: Any = None, soft: Any = None, **_: Any) -> Any:
    """Give a task kind other time limits in this worker, from its next task on."""
    if task_name not in side.loaded.app.tasks:
        return {"error": "unknown task"}
    if side.supervisor is None:
        raise ValueError("a worker of one process enforces no time limits: there is nobody to do it")
    limits = RunTimeLimits(_seconds("soft", soft), _seconds("hard", hard))
    if limits.soft_s is not None and limits.hard_s is not None and limits.soft_s > limits.hard_s:
        raise ValueError(f"soft={soft!r} is above hard={hard!r}: the task would be killed first")
    side.time_limits.set(task_name, limits)
    return {"ok": "time limits set successfully"}


def _seconds(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            pass  # said below, as of any other value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ValueError(f"{name}={value!r:.60}: give a number of seconds, or null for the worker's own")
    return float(value)

"""Whether a message may run now: a pure decision, taken before any byte of its body is decoded.

What may not be decoded at all has been refused before (`message.parse`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..settle import Ending

UNKNOWN_SINCE_HEADER = "prefork_unknown_since"


class Refusal(NamedTuple):
    """Why a message does not run now.

    :param due_wall_s: for what waits: when to look again (Unix time).
    :param detail: for people.
    """

    ending: Ending
    due_wall_s: float | None = None
    detail: str = ""


def admit(
    now_wall_s: float,
    *,
    known: bool,
    task_name: str,
    eta_wall_s: float | None,
    expires_wall_s: float | None,
    headers: Any,
    unknown_grace_s: float,
    unknown_retry_s: float,
) -> Refusal | None:
    """None when the message may run, else what stands against it.

    A task that is not known is kept for a while, because in a rolling deploy the other half of
    the workers may know it (design §5). Expiry is strict, as in interop §2.5.

    :param known: a task of this name is registered here.
    :param headers: raw headers of the message; read only for a task that is not known.
    :param unknown_grace_s: so long after it was first seen it is given up.
    :param unknown_retry_s: and so often it is looked at until then.
    """
    if expires_wall_s is not None and now_wall_s > expires_wall_s:
        return Refusal(Ending.EXPIRED, detail="expired")
    if not known:
        return _unknown(now_wall_s, task_name, headers, unknown_grace_s, unknown_retry_s)
    if eta_wall_s is not None and eta_wall_s > now_wall_s:
        return Refusal(Ending.NOT_DUE, eta_wall_s)
    return None


def _unknown(now_wall_s: float, task_name: str, headers: Any, grace_s: float, retry_s: float) -> Refusal:
    since = headers.get(UNKNOWN_SINCE_HEADER) if isinstance(headers, dict) else None
    # Anybody may have written the header: only a moment of the past counts.
    since_wall_s = now_wall_s
    if isinstance(since, (int, float)) and 0 <= since <= now_wall_s:
        since_wall_s = float(since)
    detail = f"no task is registered as {task_name!r} in this worker"
    if now_wall_s - since_wall_s >= grace_s:
        return Refusal(Ending.UNKNOWN_TASK_FOR_GOOD, detail=detail)
    return Refusal(Ending.UNKNOWN_TASK, min(now_wall_s + retry_s, since_wall_s + grace_s), detail)

"""What workers answer to a revocation besides words, and what a client learns from that."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

TELL: Final = "tell_running"
"""The argument of `revoke` that asks for it. Workers of other makes take it, and do not heed it."""

WORKER: Final = "worker"
"""The name that the worker has in the broker's list (`KnowsWorkers.workers`)."""

MAY_RUN: Final = "may_run"
"""The ids of those that run there all the same, or may."""


def never_run(ids: Iterable[str], workers: Iterable[str], answers: Iterable[Any]) -> list[str]:
    """Those of revoked tasks of which it is certain that they will not run; none until all have answered.

    :param workers: all that might run one of them. Whoever comes later knows what is revoked.
    :param answers: of those that were asked, in any form: from outside.
    """
    heard = [answer for answer in answers if _tells(answer)]
    if silent(workers, heard):
        return []
    running = {one for answer in heard for one in answer[MAY_RUN] if isinstance(one, str)}
    return [one for one in ids if one not in running]


def silent(workers: Iterable[str], answers: Iterable[Any]) -> set[str]:
    """The workers that have not said what runs there."""
    return set(workers) - {answer[WORKER] for answer in answers if _tells(answer)}


def _tells(answer: Any) -> bool:
    return (
        isinstance(answer, dict)
        and isinstance(answer.get(WORKER), str)
        and isinstance(answer.get(MAY_RUN), list)
    )

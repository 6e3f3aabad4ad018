"""Which tasks were revoked before they started.

A revoked task has a REVOKED document as its result. So that workers need not ask the store about
every message, a beacon is written with it: they look at that one key now and then, and ask about
single messages only while it is there. It expires with the documents, after `result_expires`.
"""

from __future__ import annotations

from collections.abc import Callable

from ..serializers.base import DecodeError, Serializer
from ..transports.base import ResultStore, StoredResult
from ..transports.result_state import state_of
from . import result_document, states
from .result_document import MalformedResult

BEACON = "prefork-revocations"
"""The key under which the result store says that there are revoked tasks."""

LOOK_EVERY_S = 0.25
"""How long a worker may not notice that something was revoked."""


def beacon(serializer: Serializer, expires_s: float | None) -> StoredResult:
    """What is stored beside revoked results."""
    document = result_document.encode(states.REVOKED, None, task_id=BEACON, serializer=serializer)
    return StoredResult(BEACON, document, expires_s, final=False)


class Revocations:
    """Answers whether a task was revoked. Used by one thread.

    :param open_store: gives the result store of this process; None when results are disabled.
    :ivar none_until_mono_s: before then `revoked` says no, whatever it is asked; written by that thread.
    """

    def __init__(self, open_store: Callable[[], ResultStore | None], serializer: Serializer) -> None:
        self._open = open_store
        self._serializer = serializer
        self._looked_mono_s = float("-inf")
        self._lit = False
        self.none_until_mono_s = float("-inf")

    def revoked(self, task_id: str, now_mono_s: float) -> bool:
        """Whether a task was revoked, as far as known `LOOK_EVERY_S` ago.

        :param now_mono_s: monotonic seconds.
        :raises ResultStoreUnavailable: the store cannot be reached.
        """
        store = self._open()
        if store is None:
            self.none_until_mono_s = float("inf")
            return False
        if now_mono_s - self._looked_mono_s >= LOOK_EVERY_S:
            self._lit = store.get([BEACON])[0] is not None
            self._looked_mono_s = now_mono_s
        if not self._lit:
            self.none_until_mono_s = self._looked_mono_s + LOOK_EVERY_S
            return False
        found = store.get([task_id])[0]
        if found is None:
            return False
        try:
            return result_document.decode(found, self._serializer).status == states.REVOKED
        except (MalformedResult, DecodeError):
            # As of a client with another `result_serializer`.
            return state_of(found) == states.REVOKED

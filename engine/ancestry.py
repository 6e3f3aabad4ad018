"""The results of the tasks before one in its chain, which may say that it will never run.

Whatever ends a chain is stored for its later steps as well, but not always: a worker of an older version
does not know of it, and what is lost with an early acknowledgement takes the rest of its chain along. Who
waits for a step therefore looks at those before it, at first and now and then.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from ..transports.errors import ResultStoreUnavailable
from .clock import mono_s

if TYPE_CHECKING:
    from .stored_results import StoredResults

_log = logging.getLogger("prefork.results")

LOOK_EVERY_S: Final = 5.0
"""How often the tasks before one that is waited for are looked at."""


def ancestors(result: Any) -> list[Any]:
    """The results before this one, the first one first."""
    found = []
    node = result.parent
    while node is not None:
        found.append(node)
        node = node.parent
    return found[::-1]


class Ancestry:
    """Those before a result that are not known to have succeeded. Used by the one who waits.

    :param stored: reads their results.
    """

    def __init__(self, result: Any, stored: StoredResults) -> None:
        self._stored = stored
        self._nodes = [node for node in ancestors(result) if getattr(node, "unknown", False)]
        self._next_mono_s = mono_s() + LOOK_EVERY_S

    def step_s(self, left_s: float) -> float:
        """How long to wait for the result itself, of `left_s` seconds, until they are looked at."""
        return min(left_s, max(0.0, self._next_mono_s - mono_s())) if self._nodes else left_s

    def look(self) -> None:
        """Read their results, if it is time to, all at once.

        :raises BaseException: what one of them has raised.
        """
        if not self._nodes or mono_s() < self._next_mono_s:
            return
        self._next_mono_s = mono_s() + LOOK_EVERY_S
        try:
            found = self._stored.read_final([node.id for node in self._nodes])
        except ResultStoreUnavailable as error:
            _log.debug("the tasks before one that is waited for cannot be looked at: %s", error)
            return  # whether that ends the wait is for the wait itself to say
        for node in self._nodes:
            if node.id in found:
                node.learn(found[node.id])
                node.maybe_throw(propagate=True)
        # Not by what is known of them: another thread may have read one since, and nobody raised it here.
        self._nodes = [node for node in self._nodes if node.id not in found]

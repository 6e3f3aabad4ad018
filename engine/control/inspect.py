"""``app.control.inspect()``: what workers say about themselves (parity §15.2)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..exceptions import DuplicateNodenameWarning
from .addressing import matches

if TYPE_CHECKING:
    from .client import Control


def flatten_reply(replies: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Replies in one mapping by node name; warns of names that come more than once."""
    found: dict[str, Any] = {}
    twice: list[str] = []
    for reply in replies:
        twice += [node for node in reply if node in found]
        found.update(reply)
    if twice:
        warnings.warn(
            f"several workers have one node name: {', '.join(sorted(set(twice)))}; give each its own (-n)",
            DuplicateNodenameWarning,
            stacklevel=2,
        )
    return found


class Inspect:
    """Asks workers. Every method returns what they answered by node name, or None when none did.

    :param destination: names of the workers to ask; a single name returns that one's answer alone.
    :param timeout: seconds that are waited for answers.
    :param callback: called with every reply, ``{node: answer}``, as it comes.
    :param limit: how many answers are waited for; None is as many as there are destinations.
    :param pattern: of the names to ask, with `matcher`.
    :param matcher: ``glob`` or ``pcre``.
    """

    def __init__(
        self,
        destination: Sequence[str] | str | None = None,
        timeout: float = 1.0,
        callback: Callable[[dict[str, Any]], Any] | None = None,
        connection: Any = None,
        app: Any = None,
        limit: int | None = None,
        pattern: str | None = None,
        matcher: str | None = None,
        *,
        control: Control,
    ) -> None:
        self.control = control
        self.destination = destination
        self.timeout = timeout
        self.callback = callback
        self.limit = limit
        self.pattern = pattern
        self.matcher = matcher

    def _request(self, command: str, **arguments: Any) -> Any:
        replies = self.control.broadcast(
            command,
            arguments=arguments,
            destination=self.destination,
            callback=self.callback,
            limit=self.limit,
            timeout=self.timeout,
            reply=True,
            pattern=self.pattern,
            matcher=self.matcher,
        )
        return self._by_node(replies or [])

    def _by_node(self, replies: list[dict[str, Any]]) -> Any:
        if not replies:
            return None
        by_node = flatten_reply(replies)
        if isinstance(self.destination, str):
            return by_node.get(self.destination)
        if self.pattern and self.matcher:
            # A worker that knows no patterns answers as well.
            return {n: reply for n, reply in by_node.items() if matches(n, self.pattern, self.matcher)}
        return by_node

    def ping(self, destination: Sequence[str] | str | None = None) -> Any:
        """Who is there: ``{"ok": "pong"}``."""
        if destination is not None:
            self.destination = destination
        return self._request("ping")

    def active(self, safe: bool | None = None) -> Any:
        """The tasks that run.

        :param safe: arguments as texts, not as values.
        """
        return self._request("active", safe=safe)

    def reserved(self, safe: bool | None = None) -> Any:
        """The tasks that children hold and have not started."""
        return self._request("reserved", safe=safe)

    def scheduled(self, safe: bool | None = None) -> Any:
        """The tasks that wait for their time in the worker: none, they wait in the broker."""
        return self._request("scheduled", safe=safe)

    def registered(self, *taskinfoitems: str) -> Any:
        """The names of the tasks, with these attributes."""
        return self._request("registered", taskinfoitems=list(taskinfoitems))

    registered_tasks = registered

    def stats(self) -> Any:
        """Counters and facts of the worker."""
        return self._request("stats")

    def revoked(self) -> Any:
        """The ids that are revoked."""
        return self._request("revoked")

    def active_queues(self) -> Any:
        """The queues that are consumed."""
        return self._request("active_queues")

    def query_task(self, *ids: Any) -> Any:
        """What the workers know of these tasks.

        :param ids: ids, or one list of them.
        """
        if len(ids) == 1 and isinstance(ids[0], (list, tuple)):
            ids = tuple(ids[0])
        return self._request("query_task", ids=list(ids))

    def conf(self, with_defaults: bool = False) -> Any:
        """The configuration, secrets masked."""
        return self._request("conf", with_defaults=with_defaults)

    def report(self) -> Any:
        """Versions and settings, for a bug report."""
        return self._request("report")

    def clock(self) -> Any:
        """The logical clock."""
        return self._request("clock")

    def hello(self, from_node: str, revoked: Sequence[str] | None = None) -> Any:
        """What a worker that starts asks the others."""
        return self._request("hello", from_node=from_node, revoked=list(revoked or ()))

    def memsample(self) -> Any:
        """Memory of the worker; Celery's workers answer it."""
        return self._request("memsample")

    def memdump(self, samples: int = 10) -> Any:
        """Memory samples; Celery's workers answer it."""
        return self._request("memdump", samples=samples)

    def objgraph(self, type: str = "Request", n: int = 200, max_depth: int = 10) -> Any:
        """A graph of objects; Celery's workers answer it."""
        return self._request("objgraph", num=n, max_depth=max_depth, type=type)

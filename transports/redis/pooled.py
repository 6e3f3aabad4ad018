"""Commands over whatever link of a pool is free, for callers that need none of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .link import Arg, Link, Script
from .pool import Pool


class PooledLink(Link):
    """A link without a connection: each call takes one from the pool, and gives it back."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool.settings)
        self._pool = pool

    def call(self, *args: Arg, timeout_s: float | None = None) -> Any:
        """Run one command; see `Link.call`."""
        with self._pool.link() as link:
            return link.call(*args, timeout_s=timeout_s)

    def many(
        self, commands: Sequence[Sequence[Arg]], *, atomic: bool = False, tolerant: bool = False
    ) -> list[Any]:
        """Run several commands; see `Link.many`."""
        with self._pool.link() as link:
            return link.many(commands, atomic=atomic, tolerant=tolerant)

    def run(
        self, script: Script, keys: Sequence[Arg], args: Sequence[Arg], *, timeout_s: float | None = None
    ) -> Any:
        """Run a script; see `Link.run`."""
        with self._pool.link() as link:
            return link.run(script, keys, args, timeout_s=timeout_s)

    def send_only(
        self, script: Script, keys: Sequence[Arg], args: Sequence[Arg], *, more: bool = False
    ) -> None:
        """Send a script and do not wait; see `Link.send_only`."""
        with self._pool.link() as link:
            link.send_only(script, keys, args, more=more)

"""The result store of a memory broker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic, time

from ..base import StoredResult
from ..errors import BrokerUnavailable, ResultStoreUnavailable
from .broker import MemoryBroker
from .names import shared_broker


class MemoryResults:
    """Implements `transports.base.ResultStore`, beside the broker of the same name.

    :param name: one store per name and process.
    :param wall: the clock of the expiry. How long a call may block is always real time.
    """

    def __init__(self, name: str = "", *, wall: Callable[[], float] = time) -> None:
        self._broker = shared_broker(name)
        self._shelf = self._broker.shelf
        self._wall = wall

    def belongs_to(self, broker: MemoryBroker) -> bool:
        """Whether it is kept by this broker."""
        return self._broker is broker

    def store(self, results: Sequence[StoredResult]) -> None:
        """Write documents, as in `ResultStore.store`."""
        with self._locked():
            self._shelf.store(results, self._wall())
            self._broker.announce(())

    def store_soon(self, results: Sequence[StoredResult]) -> None:
        """Write documents, as in `ResultStore.store_soon`; nothing is quicker than to do it."""
        self.store(results)

    def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Read documents, as in `ResultStore.get`."""
        with self._locked():
            now_wall_s = self._wall()
            return [self._shelf.get(key, now_wall_s) for key in keys]

    def wait(self, keys: Sequence[str], timeout_s: float | None) -> dict[str, bytes]:
        """Wait for final documents, as in `ResultStore.wait`."""
        end_mono_s = None if timeout_s is None else monotonic() + timeout_s
        with self._locked():
            while True:
                found = self._shelf.final(keys, self._wall())
                left_s = None if end_mono_s is None else end_mono_s - monotonic()
                if found or not keys or (left_s is not None and left_s <= 0):
                    return found
                self._broker.wait(left_s)

    def forget(self, keys: Sequence[str]) -> None:
        """Delete documents, as in `ResultStore.forget`."""
        with self._locked():
            self._shelf.forget(keys)

    def save_group(self, group_id: str, document: bytes, expires_s: float | None) -> None:
        """Write a group, as in `ResultStore.save_group`."""
        with self._locked():
            self._shelf.save_group(group_id, document, expires_s, self._wall())

    def get_group(self, group_id: str) -> bytes | None:
        """Read a group, as in `ResultStore.get_group`."""
        with self._locked():
            return self._shelf.get_group(group_id, self._wall())

    def forget_group(self, group_id: str) -> None:
        """Delete a group, as in `ResultStore.forget_group`."""
        with self._locked():
            self._shelf.forget_group(group_id)

    def expire(self, limit: int = 1000) -> int:
        """Drop expired documents, as in `ResultStore.expire`."""
        with self._locked():
            return self._shelf.expire(limit, self._wall())

    def close(self) -> None:
        """Nothing is held: the documents belong to the broker of this name."""

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            with self._broker.locked():
                yield
        except BrokerUnavailable as error:
            raise ResultStoreUnavailable(str(error)) from error

"""Results that coroutines wait for: two threads serve all of them, on however many event loops.

A result store can wait for many keys in one call, but not be told of another key meanwhile. So one
thread waits for everything that is awaited when its call begins, and the other one for what has come
since, a moment at a time. They end when nothing is awaited any more.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from ..serializers.base import DecodeError
from ..transports.errors import ResultStoreUnavailable
from .clock import mono_s, thread_cpu_s
from .result_document import MalformedResult, ResultDocument
from .states import READY_STATES
from .stored_results import StoredResults

FRESH_S: Final = 0.02
"""How long one wait for what has come since lasts: so late at most is the next one noticed."""

KNOWN_S: Final = 1.0
"""How long one wait for everything lasts, if nothing comes."""

IDLE_S: Final = 2.0
"""How long the threads stay when nothing is awaited any more."""

# With ten thousands of keys one call takes long: at most half of the time, and a tenth of a second's rest.
_REST_S_MAX: Final = 0.1
_REST_S_MIN: Final = 0.002

Awaitable = asyncio.Future[ResultDocument]


class _Answer(NamedTuple):
    future: Awaitable
    document: ResultDocument | None
    error: Exception | None


class Awaited:
    """Futures of final documents, by the ids of their tasks. Safe to use from several threads.

    :param stored: reads and waits, blocking.
    """

    def __init__(self, stored: StoredResults) -> None:
        self._stored = stored
        self._changed = threading.Condition()
        # All written under the condition's lock. What nobody has begun to wait for is fresh.
        self._futures: dict[str, list[Awaitable]] = {}
        self._fresh: dict[str, None] = {}
        self._waiting = False  # the first thread is in its wait, and knows nothing of what is fresh
        self._alive: set[str] = set()
        self._closed = False

    def future(self, task_id: str) -> Awaitable:
        """A future of the running loop; give it to `forget` in the end, whatever came of it."""
        future: Awaitable = asyncio.get_running_loop().create_future()
        with self._changed:
            if self._closed:
                raise _closed()
            self._futures.setdefault(task_id, []).append(future)
            self._fresh[task_id] = None
            self._start("known", self._serve_known)
            if self._waiting:
                self._start("fresh", self._serve_fresh)
            self._changed.notify_all()
        return future

    def forget(self, task_id: str, future: Awaitable) -> None:
        """Nobody waits for this any more."""
        with self._changed:
            futures = self._futures.get(task_id)
            if futures is not None and future in futures:
                futures.remove(future)
                if not futures:
                    self._drop(task_id)

    def __len__(self) -> int:
        """How many ids are awaited."""
        return len(self._futures)

    def close(self) -> None:
        """Tell those who still wait that nothing will come, and let the threads end."""
        with self._changed:
            self._closed = True
            answers = self._taken(list(self._futures), lambda _: (None, _closed()))
            self._changed.notify_all()
        _tell(answers)

    def _start(self, name: str, serve: Callable[[], None]) -> None:
        if name not in self._alive:
            self._alive.add(name)
            threading.Thread(target=serve, name=f"prefork-await-{name}", daemon=True).start()

    def _drop(self, task_id: str) -> list[Awaitable]:
        self._fresh.pop(task_id, None)
        return self._futures.pop(task_id, [])

    # -- the threads --------------------------------------------------------------------------

    def _serve_known(self) -> None:
        """Wait for everything, again and again."""
        while True:
            with self._changed:
                if not self._await(lambda: bool(self._futures), "known"):
                    return
                self._fresh.clear()
                keys = list(self._futures)
                self._waiting = True
            began_s = thread_cpu_s()
            self._look(keys, KNOWN_S)
            with self._changed:
                self._waiting = False
            rest_s = min(thread_cpu_s() - began_s, _REST_S_MAX)
            if rest_s > _REST_S_MIN:
                time.sleep(rest_s)

    def _serve_fresh(self) -> None:
        """Wait for what has come since the other thread began to, a moment at a time."""
        while True:
            with self._changed:
                if not self._await(lambda: self._waiting and bool(self._fresh), "fresh"):
                    return
                keys = list(self._fresh)
            self._look(keys, FRESH_S)

    def _await(self, reason: Callable[[], bool], name: str) -> bool:
        """Wait under the lock for a reason to look; False when the thread may end."""
        if not self._changed.wait_for(lambda: self._closed or reason(), IDLE_S) or self._closed:
            self._alive.discard(name)
            return False
        return True

    def _look(self, keys: Sequence[str], timeout_s: float) -> None:
        """Wait for the documents of keys, and pass on what came, be it an error."""
        end_mono_s = mono_s() + timeout_s
        try:
            found = self._stored.wait_any(keys, timeout_s)
        except (DecodeError, MalformedResult):
            self._look_one_by_one(keys)
            return
        except Exception as error:  # noqa: BLE001 - whoever waits is told; the thread serves the others
            self._pass_on(keys, lambda _, error=error: (None, error))  # type: ignore[misc]
            return
        if found:
            self._pass_on(found, lambda key: (found[key], None))
        elif mono_s() < end_mono_s:
            time.sleep(FRESH_S)  # a store that does not wait must not keep this thread busy

    def _look_one_by_one(self, keys: Sequence[str]) -> None:
        """Find out which document it is that cannot be read."""
        for key in keys:
            try:
                document = self._stored.read(key)
            except Exception as error:  # noqa: BLE001 - as above
                self._pass_on([key], lambda _, error=error: (None, error))  # type: ignore[misc]
            else:
                if document is not None and document.status in READY_STATES:
                    self._pass_on([key], lambda _, document=document: (document, None))  # type: ignore[misc]

    def _pass_on(
        self,
        keys: Sequence[str] | dict[str, ResultDocument],
        answer: Callable[[str], tuple[ResultDocument | None, Exception | None]],
    ) -> None:
        with self._changed:
            answers = self._taken(keys, answer)
        _tell(answers)

    def _taken(
        self,
        keys: Sequence[str] | dict[str, ResultDocument],
        answer: Callable[[str], tuple[ResultDocument | None, Exception | None]],
    ) -> list[_Answer]:
        return [_Answer(future, *answer(key)) for key in keys for future in self._drop(key)]


def _closed() -> ResultStoreUnavailable:
    return ResultStoreUnavailable("the app was closed: nobody looks for this result any more")


def _tell(answers: Sequence[_Answer]) -> None:
    """Resolve futures, each on its own loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Answer]] = {}
    for answer in answers:
        by_loop.setdefault(answer.future.get_loop(), []).append(answer)
    for loop, some in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, some)
        except RuntimeError:
            continue  # that loop has been closed: nobody is left who could be told


def _resolve(answers: Sequence[_Answer]) -> None:
    for future, document, error in answers:
        if future.done():
            continue  # cancelled meanwhile
        if error is not None:
            future.set_exception(error)
        elif document is not None:
            future.set_result(document)

"""The filesystem broker, seen from one process."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from ..base import Capabilities, Depth, Outgoing
from ..errors import BrokerFull, BrokerUnavailable
from . import clock, owners
from .append import Item, append
from .consumer import FilesystemConsumer
from .fileops import FileOps
from .layout import DOCUMENT_BYTES_MAX, NEVER_MS, PRIORITIES, decode_name, hash64, is_hashed
from .pages import waiting
from .queuedir import QueueDir
from .schedule import promote
from .settle import Settler
from .store import Store
from .watch import QueueWatch

CAPABILITIES = Capabilities(name="filesystem", stores_results=True)
_NAME_BYTES_MAX = 1 << 20
_NO_SPACE = ("ENOSPC", "EDQUOT", "EFBIG")


class FilesystemTransport:
    """See the port `Transport`.

    :param root: the broker's directory; made when it is not there.
    :param fsync: whatever is reported done survives a loss of power (docs/decisions/0002 has the cost).
    :param lock_timeout_s: how long another process may keep a lock before an operation gives up.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        fsync: bool = False,
        lock_timeout_s: float = 10.0,
        ops: FileOps | None = None,
    ) -> None:
        self._store = Store(
            os.path.abspath(root), ops or FileOps(), fsync=fsync, lock_timeout_s=lock_timeout_s
        )
        self._queues: dict[str, QueueDir] = {}  # written under _mutex
        self._mutex = threading.Lock()

    @property
    def capabilities(self) -> Capabilities:
        """What this transport can do."""
        return CAPABILITIES

    def send(self, messages: Sequence[Outgoing]) -> None:
        """Store messages; see the port."""
        if len(messages) == 1:
            self._send_to(messages[0].queue, [_item(messages[0])])
            return
        by_queue: dict[str, list[Item]] = {}
        for message in messages:
            by_queue.setdefault(message.queue, []).append(_item(message))
        for name, items in by_queue.items():
            self._send_to(name, items)

    def _send_to(self, name: str, items: Sequence[Item]) -> None:
        queue = self._queue(name)
        queue.enter()
        try:
            placed = append(queue, items)
        except OSError as error:
            raise BrokerFull(
                f"cannot store {len(items)} messages in queue {name!r} "
                f"of {self._store.root}: {error.strerror}"
            ) from error
        finally:
            queue.lock.release()
        if self._store.fsync:
            for segment in {id(one.segment): one.segment for one in placed}.values():
                segment.sync()

    def _queue(self, name: str) -> QueueDir:
        queue = self._queues.get(name)
        if queue is None:
            with self._mutex:
                queue = self._queues.get(name)
                if queue is None:
                    queue = self._queues[name] = QueueDir(self._store, name)
        return queue

    def _existing(self, name: str) -> QueueDir | None:
        if name in self._queues or os.path.isdir(self._store.path("queues", QueueDir.folder(name))):
            return self._queue(name)
        return None

    def _queue_by_id(self, queue_id: int) -> QueueDir | None:
        for queue in list(self._queues.values()):
            if queue.id == queue_id:
                return queue
        for name in self.queues():
            if hash64(name) == queue_id:
                return self._queue(name)
        return None

    def consumer(self, queues: Sequence[str], owner: str, worker: str) -> FilesystemConsumer:
        """A consumer of these queues; registers its owner."""
        registered = owners.register(self._store, owner, worker)
        settler = Settler(self._store, registered, self._queue_by_id)
        opened = [self._queue(name) for name in dict.fromkeys(queues)]
        return FilesystemConsumer(self._store, registered, opened, settler, lambda: None)

    def watch(self, queues: Sequence[str]) -> QueueWatch:
        """A watch over these queues."""
        opened = [self._queue(name) for name in dict.fromkeys(queues)]
        for queue in opened:
            with queue.locked():
                queue.read_in()
        return QueueWatch([f"{queue.path}/in" for queue in opened])

    def queues(self) -> list[str]:
        """Names of the queues that exist."""
        found = []
        for folder in os.listdir(self._store.path("queues")):
            name = self._full_name(folder) if is_hashed(folder) else decode_name(folder)
            if name is not None:
                found.append(name)
        return sorted(found)

    def _full_name(self, folder: str) -> str | None:
        try:
            data = self._store.ops.read_file(self._store.path("queues", folder, "name"), _NAME_BYTES_MAX)
            return data.decode("utf-8", "surrogatepass")
        except (OSError, UnicodeDecodeError):
            return None

    def promote(self, limit: int = 1000) -> float | None:
        """Make due delayed messages ready; see the port."""
        next_ms = NEVER_MS
        for name in self.queues():
            _, queue_next_ms = promote(self._queue(name), int(clock.wall_s() * 1000), limit)
            next_ms = min(next_ms, queue_next_ms)
        return None if next_ms == NEVER_MS else next_ms / 1000

    def depth(self, queue: str) -> Depth:
        """How many messages of a queue are where."""
        found = self._existing(queue)
        return Depth(0, 0, 0) if found is None else found.depth()

    def ready(self, queues: Sequence[str]) -> int:
        """A cheap estimate, never 0 while something is ready."""
        total = 0
        for name in queues:
            queue = self._existing(name)
            hints = None if queue is None else queue.hints()
            if hints is not None:
                total += sum(waiting(*hints))
            elif queue is not None:
                total += queue.depth().ready
        return total

    def close(self) -> None:
        """Release descriptors. Safe to call twice."""
        with self._mutex:
            for queue in self._queues.values():
                queue.close()
            self._queues.clear()


def _item(message: Outgoing) -> Item:
    if len(message.document) > DOCUMENT_BYTES_MAX:
        raise BrokerUnavailable(
            f"a message of {len(message.document)} bytes for queue {message.queue!r} is too large; "
            "pass a reference to the data instead"
        )
    due_ms = due_in_ms(message.due_wall_s)
    priority = message.priority
    return Item(message.document, 0 if priority < 0 else min(priority, PRIORITIES - 1), due_ms)


def due_in_ms(due_wall_s: float | None) -> int:
    """A due time as it is stored, rounded up: never early. 0 for what is due at once."""
    if due_wall_s is None or due_wall_s <= clock.wall_s():
        return 0
    return min(math.ceil(min(due_wall_s, 1e15) * 1000), NEVER_MS - 1)

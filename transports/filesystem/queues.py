"""The queues of a broker, opened once per process."""

from __future__ import annotations

import os
import threading

from .fileops import ForeignObject
from .layout import decode_name, encode_name, hash64, is_hashed
from .queuedir import QueueDir
from .store import Store

_NAME_BYTES_MAX = 1 << 20


class Queues:
    """Open queues by name, and by the number that tags carry."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._open: dict[str, QueueDir] = {}  # written under _mutex
        self._by_id: dict[int, QueueDir] = {}  # written under _mutex
        self._mutex = threading.Lock()

    def get(self, name: str) -> QueueDir:
        """A queue; made when it does not exist."""
        queue = self._open.get(name)
        if queue is None:
            with self._mutex:
                queue = self._open.get(name)
                if queue is None:
                    queue = QueueDir(self._store, name)
                    self._open[name] = self._by_id[queue.id] = queue
        return queue

    def existing(self, name: str) -> QueueDir | None:
        """A queue if it exists."""
        if name in self._open or os.path.isdir(self._store.path("queues", encode_name(name))):
            return self.get(name)
        return None

    def by_id(self, queue_id: int) -> QueueDir | None:
        """The queue that a tag speaks of."""
        queue = self._by_id.get(queue_id)
        if queue is not None:
            return queue
        for name in self.names():
            if hash64(name) == queue_id:
                return self.get(name)
        return None

    def names(self) -> list[str]:
        """Names of the queues that exist; what is no queue is quarantined."""
        found = []
        for folder in os.listdir(self._store.path("queues")):
            path = self._store.path("queues", folder)
            name = self._full_name(path) if is_hashed(folder) else decode_name(folder)
            if name is None or not os.path.isdir(path) or os.path.islink(path):
                if not is_hashed(folder) or not os.path.isdir(path):  # else: it is being made
                    self._store.quarantine(ForeignObject(path, "not a queue"))
                continue
            found.append(name)
        return sorted(found)

    def _full_name(self, path: str) -> str | None:
        try:
            data = self._store.ops.read_file(f"{path}/name", _NAME_BYTES_MAX)
            name = data.decode("utf-8", "surrogatepass")
        except (OSError, UnicodeDecodeError):
            return None
        except ForeignObject as error:
            self._store.quarantine(error)
            return None
        return name if encode_name(name) == os.path.basename(path) else None

    def all(self) -> list[QueueDir]:
        """Every queue that exists."""
        return [self.get(name) for name in self.names()]

    def close(self) -> None:
        """Drop descriptors."""
        with self._mutex:
            for queue in self._open.values():
                queue.close()
            self._open.clear()
            self._by_id.clear()

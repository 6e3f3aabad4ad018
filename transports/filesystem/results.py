"""Result documents: one file each, replaced as a whole."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from ..base import StoredResult
from ..errors import BrokerUnavailable, ResultStoreUnavailable
from ..result_state import is_success
from . import clock
from .expiry import ExpirySweep
from .failures import too_large
from .fileops import FileOps, ForeignObject
from .result_format import (
    FLAG_FINAL,
    FLAG_SUCCESS,
    HEAD,
    MAGIC,
    RESULT_BYTES_MAX,
    encode_result,
    result_path,
    shard_lock,
    shard_of,
)
from .result_wait import ResultWait
from .store import Store


def result_content(result: StoredResult) -> bytes:
    """The content of the file of a result.

    :raises Unacceptable: it is larger than what is read again.
    """
    size = HEAD.size + len(result.key.encode("utf-8", "surrogatepass")) + len(result.document)
    if size > RESULT_BYTES_MAX:
        raise too_large(f"a result of {size} bytes for {result.key!r}")
    flags = FLAG_FINAL if result.final else 0
    if is_success(result.document):
        flags |= FLAG_SUCCESS
    return encode_result(result.key, result.document, flags, result.expires_s)


def place_result(store: Store, temporary: str, key: str, kind: str = "results") -> None:
    """Make a prepared file the document of its key, unless that has a SUCCESS already.

    :raises FileNotFoundError: there is no such prepared file (any more).
    """
    path = result_path(store, key, kind)
    with shard_lock(store, shard_of(key)):
        if _succeeded(store, path):
            store.ops.unlink(temporary)
            return
        try:
            store.ops.rename(temporary, path)
        except FileNotFoundError:
            # The folder was not there yet (others may make it meanwhile), or the file is gone.
            store.ops.make_dir(os.path.dirname(path))
            store.ops.rename(temporary, path)
        except IsADirectoryError:
            store.quarantine(ForeignObject(path, "a directory"))
            store.ops.rename(temporary, path)
    if store.fsync:
        store.ops.sync_dir(os.path.dirname(path))


def _succeeded(store: Store, path: str) -> bool:
    try:
        fd = store.ops.open_regular(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except ForeignObject as error:
        store.quarantine(error)
        return False
    try:
        head = store.ops.pread(fd, HEAD.size, 0)
    finally:
        store.ops.close(fd)
    if len(head) < HEAD.size or not head.startswith(MAGIC):
        store.quarantine(ForeignObject(path, "not a result" if head else "empty"))
        return False
    _, flags, expires_ms, _ = HEAD.unpack(head)
    return bool(flags & FLAG_SUCCESS) and int(expires_ms) > clock.wall_s() * 1000


def read_result(store: Store, key: str, kind: str = "results") -> tuple[bytes, bool] | None:
    """The document of a key and whether it is final; None when there is none or it has expired."""
    path = result_path(store, key, kind)
    try:
        data = store.ops.read_file(path, RESULT_BYTES_MAX)
    except FileNotFoundError:
        return None
    except ForeignObject as error:
        store.quarantine(error)
        return None
    if len(data) < HEAD.size or not data.startswith(MAGIC):
        store.quarantine(ForeignObject(path, "not a result" if data else "empty"))
        return None
    _, flags, expires_ms, key_bytes = HEAD.unpack_from(data)
    at = HEAD.size + key_bytes
    if data[HEAD.size : at] != key.encode("utf-8", "surrogatepass"):
        store.quarantine(ForeignObject(path, "the result of another key"))
        return None
    if int(expires_ms) <= clock.wall_s() * 1000:
        return None
    return data[at:], bool(flags & FLAG_FINAL)


class FilesystemResults:
    """See the port `ResultStore`.

    :param root: the directory, which may be that of a broker.
    """

    def __init__(
        self, root: str | Path, *, fsync: bool = False, ops: FileOps | None = None, store: Store | None = None
    ) -> None:
        self._store = store or Store(os.path.abspath(root), ops or FileOps(), fsync=fsync)
        self._wait = ResultWait(self._store, self._final)
        self._sweep = ExpirySweep(self._store)
        self._mutex = threading.Lock()
        self.root = self._store.root
        self._counter = 0  # written under _mutex

    def store(self, results: Sequence[StoredResult]) -> None:
        """Write result documents; a stored SUCCESS is never overwritten.

        :raises ResultStoreUnavailable: no space, or no access.
        :raises Unacceptable: one of them is too large.
        """
        for result in results:
            self._write(result.key, result_content(result), "results")

    def _write(self, key: str, content: bytes, kind: str) -> None:
        with self._mutex:
            self._counter += 1
            counter = self._counter
        temporary = self._store.path(
            kind, f".{os.getpid()}-{threading.get_ident()}-{id(self):x}-{counter}.tmp"
        )
        try:
            self._store.ops.write_new(temporary, content, sync=self._store.fsync)
            place_result(self._store, temporary, key, kind)
        except (OSError, BrokerUnavailable) as error:
            with contextlib.suppress(OSError):  # the first error is the one to report
                self._store.ops.unlink_if_there(temporary)
            if isinstance(error, OSError) and error.errno == errno.EFBIG:
                raise too_large(f"cannot store the result of {key!r}: {error}") from error
            raise ResultStoreUnavailable(f"cannot store the result of {key!r}: {error}") from error

    def store_soon(self, results: Sequence[StoredResult]) -> None:
        """Write documents that only inform; see the port. Nothing is quicker than to do it."""
        self.store(results)

    def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """Read documents, None for a key that has none or has expired."""
        return [None if found is None else found[0] for found in map(self._read, keys)]

    def _read(self, key: str) -> tuple[bytes, bool] | None:
        try:
            return read_result(self._store, key)
        except OSError as error:
            raise ResultStoreUnavailable(f"cannot read the result of {key!r}: {error}") from error

    def _final(self, key: str) -> bytes | None:
        found = self._read(key)
        return found[0] if found is not None and found[1] else None

    def wait(self, keys: Sequence[str], timeout_s: float | None) -> dict[str, bytes]:
        """Wait until at least one of the keys has a final document; see the port."""
        return self._wait.wait(keys, timeout_s)

    def forget(self, keys: Sequence[str]) -> None:
        """Delete documents."""
        for key in keys:
            self._remove(result_path(self._store, key))

    def _remove(self, path: str) -> None:
        try:
            self._store.ops.unlink_if_there(path)
        except OSError as error:
            raise ResultStoreUnavailable(f"cannot delete {path}: {error.strerror}") from error

    def save_group(self, group_id: str, document: bytes, expires_s: float | None) -> None:
        """Store a group document."""
        self._write(group_id, encode_result(group_id, document, FLAG_FINAL, expires_s), "groups")

    def get_group(self, group_id: str) -> bytes | None:
        """Read a group document."""
        try:
            found = read_result(self._store, group_id, "groups")
        except OSError as error:
            raise ResultStoreUnavailable(f"cannot read group {group_id!r}: {error}") from error
        return None if found is None else found[0]

    def forget_group(self, group_id: str) -> None:
        """Delete a group document."""
        self._remove(result_path(self._store, group_id, "groups"))

    def expire(self, limit: int = 1000) -> int:
        """Drop up to `limit` expired documents; returns how many."""
        return self._sweep.sweep(limit)

    def close(self) -> None:
        """Release what is held. Safe to call twice."""
        self._wait.close()

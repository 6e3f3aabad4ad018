"""What the consumers of one host hold, in files, so that it outlives the processes that hold it.

Most transports of kombu give a message away when it is read: it then exists in the reader's memory
alone, and would die with it. So the bridge writes each such message down before it hands it out. A
message belongs to whoever renames its file, which one process only can do.

Layout: ``<root>/<worker>/<owner>/<tag>``, with hashed names; ``.name`` holds the name of a folder, and
the modification time of a worker's ``.lease`` is when its lease ends.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from ..errors import UnsafeStorage

TAG_BYTES = 16

_LEASE = ".lease"
_NAME = ".name"
_TAKEN = ".taken-"
_RETIRED = ".retired"
_NEW = ".new-"
_TRIES_MAX = 100
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One message that somebody holds.

    :param due_wall_s: for a message that waits: when it may return to the queue `home`.
    """

    queue: str
    document: bytes
    priority: int = 0
    crashes: int = 0
    causes: tuple[str, ...] = ()
    redelivered: bool = False
    due_wall_s: float | None = None
    home: str = ""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Entry).decode


class Shelf:
    """What one owner holds. Safe to use by several processes at once."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def exists(self) -> bool:
        """Whether the owner may still take something."""
        return self._place.is_dir()

    def hold(self, tag: bytes, entry: Entry) -> None:
        """Write down that the owner holds a message.

        :raises FileNotFoundError: the owner was recovered or closed.
        """
        _write(self._place / tag.hex(), _encode(entry))

    def read(self, tag: bytes) -> Entry | None:
        """A message that the owner holds, or None."""
        if len(tag) != TAG_BYTES:
            return None
        return _read_entry(self._place / tag.hex())

    def tags(self) -> list[bytes]:
        """What the owner holds, in the order in which it was read."""
        return [bytes.fromhex(name) for name in sorted(_names(self._place)) if not name.startswith(".")]

    def take(self, tag: bytes) -> Claimed | None:
        """Claim a message, to be removed when all is done with it; None when it is not held."""
        if len(tag) != TAG_BYTES:
            return None
        claimed = self._place / f"{_TAKEN}{os.getpid()}-{tag.hex()}"
        try:
            (self._place / tag.hex()).rename(claimed)
        except FileNotFoundError:
            return None
        # The owner may be retired between any two of these steps: what was claimed is claimed all the same.
        entry = _read_entry(claimed) or _read_entry(_retired(claimed))
        return None if entry is None else Claimed(claimed, entry)

    def retire(self) -> Shelf:
        """Let the owner take nothing more. What it holds is on the shelf that is returned."""
        retired = _retired(self._place / _NAME).parent
        # FileNotFoundError, OSError (not empty): somebody has begun, and what they left is taken over.
        with contextlib.suppress(OSError):
            self._place.rename(retired)
        shelf = Shelf(retired)
        shelf._release_claims_of_the_dead()
        return shelf

    def discard(self) -> None:
        """Remove the shelf, unless something is on it; its owner takes nothing more then."""
        if any(name != _NAME and not name.startswith(_NEW) for name in _names(self._place)):
            return
        # Retired, it can get nothing more; what its owner has put there since stays, to be recovered.
        (self if self._place.name.endswith(_RETIRED) else self.retire())._remove_if_empty()

    def _remove_if_empty(self) -> None:
        """Remove the shelf of a retired owner.

        The kernel decides whether it is empty: what another process renames just then is in no listing.
        """
        named = self._place / _NAME
        with contextlib.suppress(FileNotFoundError):  # another process is faster
            owner = named.read_bytes()
            for name in _names(self._place):
                if name.startswith(_NEW):
                    (self._place / name).unlink(missing_ok=True)
            named.unlink()
            try:
                self._place.rmdir()
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise
                _write(named, owner)

    def _release_claims_of_the_dead(self) -> None:
        for name in _names(self._place):
            if name.startswith(_TAKEN):
                pid = name.removeprefix(_TAKEN).partition("-")[0]
                if not _runs(pid):
                    with contextlib.suppress(FileNotFoundError):  # another process did it
                        (self._place / name).rename(self._place / name.rpartition("-")[2])


class Claimed:
    """A message that one process alone is about to settle; also after its owner was retired."""

    def __init__(self, path: Path, entry: Entry) -> None:
        self._path = path
        self.entry = entry

    def remove(self) -> None:
        """It is settled."""
        try:
            self._path.unlink()
        except FileNotFoundError:
            _retired(self._path).unlink()

    def undo(self) -> None:
        """It is held as before."""
        try:
            self._path.rename(_unclaimed(self._path))
        except FileNotFoundError:
            path = _retired(self._path)
            path.rename(_unclaimed(path))


def _retired(path: Path) -> Path:
    """Where a file of an owner lies once the owner is retired."""
    return path.parent.with_name(path.parent.name + _RETIRED) / path.name


def _unclaimed(path: Path) -> Path:
    return path.with_name(path.name.rpartition("-")[2])


class Journal:
    """The messages that the workers of this host hold of one broker.

    :param identity: names the broker.
    :param base: the directory of all journals; None is one of this user's, made anew for each boot.
    """

    def __init__(self, identity: str, base: Path | None = None) -> None:
        self._root = (base or _default_base()) / identity

    def register(self, worker: str, owner: str) -> Shelf:
        """Make a place for an owner."""
        place = self._root / _safe(worker) / _safe(owner)

        def make() -> None:
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            _write(place.parent / _NAME, worker.encode("utf-8", "surrogatepass"))
            _write(place / _NAME, owner.encode("utf-8", "surrogatepass"))

        _persistently(make)
        return Shelf(place)

    def extend(self, worker: str, until_wall_s: float) -> None:
        """Let a worker's lease end then."""
        place = self._root / _safe(worker)

        def make() -> None:
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            _write(place / _NAME, worker.encode("utf-8", "surrogatepass"))
            _write(place / _LEASE, b"")
            os.utime(place / _LEASE, (until_wall_s, until_wall_s))

        _persistently(make)

    def has_lease(self, worker: str) -> bool:
        """Whether a lease was ever given to a worker."""
        return (self._root / _safe(worker) / _LEASE).exists()

    def lapsed(self, now_wall_s: float) -> list[str]:
        """Workers whose lease is over."""
        found = []
        for place in _folders(self._root):
            with contextlib.suppress(FileNotFoundError):  # it is just being forgotten
                if (place / _LEASE).stat().st_mtime <= now_wall_s:
                    found.append(_read_name(place))
        return found

    def forget_worker(self, worker: str) -> None:
        """Forget a worker; one that still holds something lapses instead."""
        place = self._root / _safe(worker)
        for shelf in _folders(place):
            Shelf(shelf).discard()
        if _folders(place):
            self.extend(worker, 0.0)
            return
        for name in _names(place):
            if name.startswith("."):
                (place / name).unlink(missing_ok=True)
            else:
                with contextlib.suppress(OSError):  # only one that was left empty by who died in `register`
                    (place / name).rmdir()
        try:
            place.rmdir()
        except FileNotFoundError:
            return  # another process was faster
        except OSError:
            # What another process renames just then is in no listing, and must not get lost.
            self.extend(worker, 0.0)

    def owners(self, worker: str) -> list[str]:
        """The owners of a worker."""
        found = set()
        for place in _folders(self._root / _safe(worker)):
            with contextlib.suppress(FileNotFoundError):  # another process has just recovered it
                found.add(_read_name(place))
        return sorted(found)

    def shelf(self, owner: str) -> Shelf | None:
        """What an owner holds; None for one that nobody knows."""
        name = _safe(owner)
        for place in _folders(self._root):
            if (place / name).is_dir() or (place / f"{name}{_RETIRED}").is_dir():
                return Shelf(place / name)
        return None

    def entries(self) -> Iterator[Entry]:
        """Everything that is held."""
        for worker in _folders(self._root):
            for place in _folders(worker):
                for name in _names(place):
                    if not name.startswith(".") or name.startswith(_TAKEN):
                        entry = _read_entry(place / name)
                        if entry is not None:
                            yield entry


def _default_base() -> Path:
    """A directory of this user's alone, which nothing of an earlier boot is in.

    :raises UnsafeStorage: somebody else has made it.
    """
    try:
        boot = _BOOT_ID.read_text(encoding="ascii")[:8]
    except OSError:
        boot = "0"
    base = Path(tempfile.gettempdir()) / f"prefork-{os.getuid()}-{boot}"
    base.mkdir(mode=0o700, exist_ok=True)
    found = base.lstat()
    if base.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise UnsafeStorage(str(base), "it must be a directory of this user's, closed to all others")
    return base


def _safe(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _runs(pid: str) -> bool:
    """Whether a process goes on; one that has ended and is not reaped does not."""
    try:
        state = Path("/proc", pid, "stat").read_bytes().rpartition(b")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in (b"Z", b"X")


def _persistently(make: Callable[[], None]) -> None:
    """Make something of a worker that others, for whom it had lapsed, may forget in the middle of that."""
    for _ in range(_TRIES_MAX):
        try:
            return make()
        except (FileNotFoundError, FileExistsError):  # a folder is gone, or goes while it is looked at
            continue
    return make()


def _write(path: Path, data: bytes) -> None:
    """Write a file so that nobody sees half of it."""
    temporary = path.with_name(f"{_NEW}{os.getpid()}-{threading.get_ident()}-{path.name}")
    temporary.write_bytes(data)
    temporary.rename(path)


def _read_entry(path: Path) -> Entry | None:
    """The entry in a file; None when it is gone. Half a file is never seen, as it is renamed."""
    try:
        return _decode(path.read_bytes())
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _read_name(place: Path) -> str:
    return (place / _NAME).read_bytes().decode("utf-8", "surrogatepass")


def _folders(place: Path) -> list[Path]:
    """The folders that are complete."""
    return [place / name for name in sorted(_names(place)) if (place / name / _NAME).is_file()]


def _names(place: Path) -> list[str]:
    try:
        return os.listdir(place)
    except (FileNotFoundError, NotADirectoryError):
        return []

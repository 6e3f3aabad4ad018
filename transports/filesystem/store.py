"""The directory of a broker: checked, laid out, and shared by everything that works in it."""

from __future__ import annotations

import contextlib
import os
import stat
import threading

from ..errors import BrokerUnavailable, UnsafeStorage
from . import clock
from .fileops import DIR_MODE, FileOps, ForeignObject
from .layout import FORMAT
from .locks import FileLock, process_locks

FOLDERS = (
    *("queues", "workers", "owners", "dead", "results", "groups", "quarantine", "locks"),
    *("agreements", "agreements/locks", "agreements/slots", "agreements/buckets"),
)
_REASON_BYTES_MAX = 2000
_TRIES_MAX = 100
_FORMAT_BYTES_MAX = 4096


class Store:
    """One broker directory, open in one process.

    :param root: made (0700) when it is not there.
    :param fsync: make every commit survive a loss of power before it is reported.
    :param lock_timeout_s: how long a stopped process may keep others waiting.
    :raises UnsafeStorage: somebody else owns the directory or can write to it, or it is not a broker's.
    """

    def __init__(self, root: str, ops: FileOps, *, fsync: bool = False, lock_timeout_s: float = 5.0) -> None:
        self.root = root
        self.ops = ops
        self.fsync = fsync
        self.lock_timeout_s = lock_timeout_s
        self.notices: list[str] = []  # appended by any thread, taken by `take_notices`
        self._mutex = threading.Lock()
        self._prepare()

    def path(self, *parts: str) -> str:
        """A path below the root. Parts are names of ours or encoded names, never a user's text."""
        return "/".join((self.root, *parts))

    def lock(self, path: str) -> FileLock:
        """The lock of this process for a lock file."""
        return process_locks().get(path, self.ops, self.lock_timeout_s)

    def quarantine(self, foreign: ForeignObject) -> None:
        """Put something that does not belong here out of the way, with the reason beside it."""
        name = os.path.basename(foreign.path)[:120]
        for attempt in range(_TRIES_MAX):
            target = self.path("quarantine", f"{int(clock.wall_s() * 1000)}-{os.getpid()}-{attempt}-{name}")
            if os.path.lexists(target):
                continue
            try:
                self.ops.rename(foreign.path, target)
            except FileNotFoundError:
                return  # somebody else did it, or it went away
            except OSError as error:
                self.notice(f"{foreign.path}: {foreign.why}; cannot be put into quarantine: {error.strerror}")
                return
            reason = f"{foreign.path}: {foreign.why}\n"[:_REASON_BYTES_MAX]
            with contextlib.suppress(OSError):  # a full disk: the notice still says why
                self.ops.write_new(f"{target}.reason", reason.encode("utf-8", "backslashreplace"))
            self.notice(f"quarantined {foreign.path}: {foreign.why}")
            return

    def notice(self, line: str) -> None:
        """Keep a line for the operator."""
        with self._mutex:
            self.notices.append(line)

    def take_notices(self) -> list[str]:
        """The lines kept since the last call."""
        with self._mutex:
            taken, self.notices = self.notices, []
        return taken

    def _prepare(self) -> None:
        try:
            os.makedirs(self.root, 0o700, exist_ok=True)
        except FileExistsError:
            raise UnsafeStorage(self.root, "not a directory; name another place for the broker") from None
        except OSError as error:
            raise BrokerUnavailable(f"cannot make {self.root}: {error.strerror}") from error
        found = os.stat(self.root)
        if found.st_uid != os.geteuid():
            raise UnsafeStorage(self.root, f"owned by uid {found.st_uid}, not {os.geteuid()}")
        if stat.S_IMODE(found.st_mode) & 0o022:
            raise UnsafeStorage(self.root, "others can write to it; chmod go-w it, or use another directory")
        try:
            self._check_format()
            for folder in FOLDERS:
                self.ops.make_dir(self.path(folder))
            # Made now, because recovery must work on a full disk. Never opened here when it exists:
            # closing it would drop the lock that another thread may hold.
            with contextlib.suppress(FileExistsError):
                self.ops.write_new(self.path("locks", "recovery"), b"")
        except ForeignObject as error:
            raise UnsafeStorage(error.path, error.why) from error
        except OSError as error:
            raise BrokerUnavailable(f"cannot prepare {self.root}: {error.strerror}") from error

    def _check_format(self) -> None:
        path = self.path("format")
        if not os.path.lexists(path):
            self._claim_directory(path)
        found = self.ops.read_file(path, _FORMAT_BYTES_MAX)
        if found != FORMAT:
            raise UnsafeStorage(
                path, f"holds {found[:60]!r}, not {FORMAT!r}: made by another version or another program"
            )

    def _claim_directory(self, path: str) -> None:
        strangers = [name for name in os.listdir(self.root) if not name.startswith(".format-")]
        # Another process may be doing the same: it puts the format before anything else.
        if strangers and not os.path.lexists(path):
            raise UnsafeStorage(self.root, f"holds {min(strangers)!r} but no broker; name an empty directory")
        os.chmod(self.root, DIR_MODE)
        temporary = self.path(f".format-{os.getpid()}-{threading.get_ident()}.tmp")
        self.ops.unlink_if_there(temporary)
        self.ops.write_new(temporary, FORMAT, sync=self.fsync)
        self.ops.rename(temporary, path)

"""Remote control on the filesystem broker: a message is a file, a mailbox a folder that is watched.

Requests of a namespace lie in one folder, which every worker reads and nobody empties: a file is there
for whoever listens, and is removed when it is old, or when there are too many. Replies lie in a folder
of their client, which takes them away. A file appears by a rename, so nobody sees half of one; its name
begins with the time since the host started, so the order of names is the order of sending.
"""

from __future__ import annotations

import contextlib
import os

from ..base import Message
from ..envelope import MalformedEnvelope, decode, encode
from ..errors import Unacceptable
from ..identifiers import fresh_id
from ..mailbox import KEPT_MAX, RECEIVED_MAX, USUAL_QUEUE, ControlQueue, reply_exchange
from ..readable import wait_readable
from . import clock
from .failures import broker_errors
from .fileops import ForeignObject
from .layout import encode_name
from .store import Store
from .watch import IN_DELETE_SELF, IN_MOVED_TO, Inotify, ticking_fd

FOLDER = "control"
MESSAGE_BYTES_MAX = 16 << 20
_REQUESTS = "requests"
_REPLIES = "replies"
# Of a client that was killed; others are removed by itself.
_REPLIES_KEPT_S = 300.0
_TOUCH_S = 60.0
_CLIENTS_SWEPT_MAX = 1000
_WRITTEN_AGE_S = 60.0
_TIME_DIGITS = 20


class FilesystemMailbox:
    """Implements `transports.mailbox.Mailbox`.

    :param path: the folder; it exists.
    :param own: it is this mailbox's alone: what was read is removed, and in the end the folder, too.
    """

    def __init__(self, store: Store, path: str, *, own: bool) -> None:
        self._store = store
        self._path = path
        self._own = own
        self._closed = False
        self._inotify: Inotify | None = None
        self._timer_fd = -1
        try:
            self._inotify = Inotify()
            self._inotify.add(path, IN_MOVED_TO | IN_DELETE_SELF)
        except OSError:
            # No inotify left; a timer does the same, with a delay.
            if self._inotify is not None:
                self._inotify.close()
                self._inotify = None
            self._timer_fd = ticking_fd()
            store.notice("no inotify left: remote control is looked at every 50 ms")
        # What is not to be read (again). Only names that are still there are kept.
        try:
            self._seen: set[str] = set() if own else set(self._names())
        except BaseException:
            self._close_fds()  # whoever wants to listen tries again and again
            raise

    def fileno(self) -> int:
        """The descriptor, as in `Mailbox.fileno`."""
        return self._timer_fd if self._inotify is None else self._inotify.fd

    @broker_errors
    def receive(self, timeout_s: float = 0.0) -> list[Message]:
        """What has come, as in `Mailbox.receive`."""
        if self._closed:
            return []
        found = self._take()
        ends_mono_s = clock.mono_s() + timeout_s
        while not found and (left_s := ends_mono_s - clock.mono_s()) > 0:
            wait_readable([self.fileno()], min(left_s, _TOUCH_S))
            found = self._take()
        return found

    def _take(self) -> list[Message]:
        self._silence()
        names = self._names()
        if self._own:
            os.utime(self._path)  # somebody waits here
        fresh = [name for name in names if name not in self._seen]
        taken = fresh[:RECEIVED_MAX]
        self._seen = (self._seen & set(names)) | set(taken)
        found = [self._read(name) for name in taken]
        return [message for message in found if message is not None]

    def _names(self) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self._path) if not name.startswith("."))
        except FileNotFoundError:
            # Somebody tidied up; whoever sends next makes a folder, which has to be watched then.
            make_folder(self._store, self._path)
            if self._inotify is not None:
                self._inotify.add(self._path, IN_MOVED_TO | IN_DELETE_SELF)
            return []

    def _read(self, name: str) -> Message | None:
        path = f"{self._path}/{name}"
        try:
            document = self._store.ops.read_file(path, MESSAGE_BYTES_MAX)
            if self._own:
                self._store.ops.unlink_if_there(path)
            return decode(document, document_bytes_max=MESSAGE_BYTES_MAX).message()
        except FileNotFoundError:
            return None  # it was old, and has been removed
        except ForeignObject as foreign:
            self._store.quarantine(foreign)
        except (MalformedEnvelope, ValueError) as error:
            self._store.notice(f"{path} is no message of remote control: {error}")
        return None

    def _silence(self) -> None:
        if self._inotify is not None:
            self._inotify.read()
            return
        with contextlib.suppress(BlockingIOError):  # it did not tick since
            os.read(self._timer_fd, 8)

    def close(self) -> None:
        """Stop listening, as in `Mailbox.close`."""
        if self._closed:
            return
        self._closed = True
        self._close_fds()
        if self._own:
            with contextlib.suppress(OSError):  # a reply may come just now; the folder is swept later
                remove_folder(self._store, self._path)

    def _close_fds(self) -> None:
        inotify, self._inotify = self._inotify, None
        if inotify is not None:
            inotify.close()
        fd, self._timer_fd = self._timer_fd, -1
        if fd >= 0:
            os.close(fd)


class FilesystemControls:
    """The part of the filesystem transport that implements `transports.mailbox.Controls`."""

    _store: Store

    @broker_errors
    def mailbox(self, exchange: str, node: str, queue: ControlQueue = USUAL_QUEUE) -> FilesystemMailbox:
        """Listen for requests, as in `Controls.mailbox`."""
        path = self._requests(exchange)
        _tidy(self._store, path, queue.ttl_s)
        return FilesystemMailbox(self._store, path, own=False)

    @broker_errors
    def broadcast(self, exchange: str, message: Message) -> None:
        """Send a request to every listener, as in `Controls.broadcast`."""
        path = self._requests(exchange)
        _write(self._store, path, message)
        _tidy(self._store, path, USUAL_QUEUE.ttl_s)

    @broker_errors
    def replies(self, exchange: str, address: str, queue: ControlQueue = USUAL_QUEUE) -> FilesystemMailbox:
        """Listen for replies, as in `Controls.replies`."""
        _sweep_clients(self._store, self._clients(reply_exchange(exchange)))
        path = f"{self._clients(reply_exchange(exchange))}/{encode_name(address)}"
        make_folder(self._store, path)
        return FilesystemMailbox(self._store, path, own=True)

    @broker_errors
    def reply(self, exchange: str, address: str, message: Message) -> None:
        """Answer one client, as in `Controls.reply`."""
        path = self._store.path(FOLDER, _REPLIES, encode_name(exchange), encode_name(address))
        with contextlib.suppress(FileNotFoundError):  # the client has gone
            if len(os.listdir(path)) < KEPT_MAX:
                _write(self._store, path, message)

    def _requests(self, exchange: str) -> str:
        path = self._store.path(FOLDER, _REQUESTS, encode_name(exchange))
        make_folder(self._store, path)
        return path

    def _clients(self, exchange: str) -> str:
        path = self._store.path(FOLDER, _REPLIES, encode_name(exchange))
        make_folder(self._store, path)
        return path


def make_folder(store: Store, path: str) -> None:
    """Make a folder below the one of remote control, and what is missing above it."""
    if os.path.isdir(path) and not os.path.islink(path):
        return
    below = path.removeprefix(f"{store.root}/").split("/")
    for depth in range(1, len(below) + 1):
        try:
            store.ops.make_dir(store.path(*below[:depth]))
        except ForeignObject as foreign:
            store.quarantine(foreign)
            store.ops.make_dir(store.path(*below[:depth]))


def remove_folder(store: Store, path: str) -> None:
    """Remove a client's folder with what is in it."""
    for name in os.listdir(path):
        store.ops.unlink_if_there(f"{path}/{name}")
    store.ops.rmdir(path)


def _write(store: Store, path: str, message: Message) -> None:
    document = encode(message)
    if len(document) > MESSAGE_BYTES_MAX:
        raise Unacceptable(
            f"a message of remote control of {len(document)} bytes, of at most {MESSAGE_BYTES_MAX}: "
            "send it in parts"
        )
    name = f"{clock.boot_ns():0{_TIME_DIGITS}d}-{fresh_id()}"
    store.ops.write_new(f"{path}/.{name}", document)
    store.ops.rename(f"{path}/.{name}", f"{path}/{name}")


def _tidy(store: Store, path: str, ttl_s: float) -> None:
    """Remove the requests that are too old or too many."""
    names = sorted(os.listdir(path))
    read = [name for name in names if not name.startswith(".")]
    surplus = set(read[: max(0, len(read) - KEPT_MAX)])
    now_ns = clock.boot_ns()
    for name in names:
        limit_s = _WRITTEN_AGE_S if name.startswith(".") else ttl_s
        sent_ns = _sent_ns(name)
        # What bears a later time, or none, was made before the host started, or by somebody else.
        ours = 0 < sent_ns <= now_ns
        age_s = (now_ns - sent_ns) / 1e9 if ours else _age_s(f"{path}/{name}")
        if name in surplus or age_s > limit_s:
            store.ops.unlink_if_there(f"{path}/{name}")


def _sent_ns(name: str) -> int:
    digits = name.lstrip(".").partition("-")[0]
    return int(digits) if len(digits) == _TIME_DIGITS and digits.isascii() and digits.isdecimal() else 0


def _sweep_clients(store: Store, path: str) -> None:
    """Remove what killed clients have left."""
    for name in os.listdir(path)[:_CLIENTS_SWEPT_MAX]:
        folder = f"{path}/{name}"
        if _age_s(folder) > _REPLIES_KEPT_S:
            with contextlib.suppress(OSError):  # somebody else does the same, or it is no folder of ours
                remove_folder(store, folder)


def _age_s(path: str) -> float:
    """How long ago something was changed; 0 when it has gone."""
    try:
        return clock.wall_s() - os.lstat(path).st_mtime
    except FileNotFoundError:
        return 0.0

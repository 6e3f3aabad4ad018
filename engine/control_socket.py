"""The control socket of a worker: where it is, how it is asked. One JSON object per line, both ways.

Standard library only, no application: a health probe must be cheap, and the supervisor imports
this module. Whoever may connect is checked twice: by the mode of the directory and the socket,
and by the peer's uid.
"""

from __future__ import annotations

import json
import os
import select
import socket
import stat
import struct
from collections.abc import Mapping
from typing import Any, Final

from .clock import mono_s

REQUEST_BYTES_MAX: Final = 64 * 1024
ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024
SUFFIX: Final = ".sock"

_RETRY_S: Final = 0.005

# The address field of AF_UNIX has 108 bytes, the last one is a zero.
_PATH_BYTES_MAX: Final = 107
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED
_UNSAFE_CHARACTERS: Final = str.maketrans(dict.fromkeys("/\0 \n", "-"))


class ControlError(Exception):
    """A worker could not be asked, or has refused.

    :ivar path: the socket.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"control socket {self.path}: {self.reason}"


class RuntimeDirectoryError(ControlError):
    """The directory for sockets could be written by somebody else, so nothing is put there."""


def runtime_directory(environ: Mapping[str, str], *, create: bool = False) -> str:
    """Where sockets are: ``$XDG_RUNTIME_DIR/prefork``, or ``prefork-<uid>`` among temporary files.

    :raises RuntimeDirectoryError: it is not a directory of ours with mode 0700.
    :raises FileNotFoundError: there is none (unless `create`).
    """
    base = environ.get("XDG_RUNTIME_DIR")
    if base and os.path.isdir(base):
        path = os.path.join(base, "prefork")
    else:
        # Not through tempfile, whose imports cost the supervisor a third of a megabyte.
        path = os.path.join(environ.get("TMPDIR") or "/tmp", f"prefork-{os.getuid()}")
    if create:
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass  # it is examined below, whoever made it
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise RuntimeDirectoryError(
            path, "is not a directory of this user with mode 0700; remove it, or set XDG_RUNTIME_DIR"
        )
    return path


def socket_name(node: str, pid: int) -> str:
    """File name of a worker's socket."""
    return f"{node.translate(_UNSAFE_CHARACTERS)}-{pid}{SUFFIX}"


def socket_path(directory: str, node: str, pid: int) -> str:
    """Path of a worker's socket; the node name is cut where the kernel allows no more."""
    room = _PATH_BYTES_MAX - len(os.fsencode(directory)) - len(f"/-{pid}{SUFFIX}")
    short = os.fsencode(node)[: max(room, 1)].decode("utf-8", "ignore")
    return os.path.join(directory, socket_name(short, pid))


def find_sockets(environ: Mapping[str, str] = os.environ) -> list[str]:
    """The sockets of this user's workers on this host, whether they answer or not.

    :raises RuntimeDirectoryError: the directory cannot be trusted.
    """
    try:
        directory = runtime_directory(environ)
    except FileNotFoundError:
        return []
    return sorted(os.path.join(directory, name) for name in os.listdir(directory) if name.endswith(SUFFIX))


def remove_abandoned(directory: str) -> int:
    """Remove the sockets that killed workers have left; returns how many.

    Nobody listens at such a one, and the process whose number is in its name has gone: a worker that
    has bound its socket and does not listen yet is there.
    """
    removed = 0
    for name in os.listdir(directory):
        pid = name.removesuffix(SUFFIX).rpartition("-")[2]
        if not name.endswith(SUFFIX) or not pid.isdecimal() or os.path.exists(f"/proc/{pid}"):
            continue
        path = os.path.join(directory, name)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as connection:
            try:
                connection.connect(path)
                continue  # it listens after all, in another process namespace
            except ConnectionRefusedError:
                pass  # nobody listens
            except OSError:
                continue  # it is busy, or has just gone
        try:
            os.unlink(path)
        except FileNotFoundError:
            continue  # another worker starts at this moment, and was faster
        removed += 1
    return removed


def request(
    path: str,
    message: Mapping[str, Any],
    timeout_s: float,
    *,
    uid: int | None = None,
    pid: int | None = None,
) -> dict[str, Any]:
    """Ask a worker and wait for its answer.

    :param message: ``{"op": "health" | "stats" | "active" | "modules" | "scale" | "stop", ...}``.
    :param timeout_s: bound for everything together.
    :param uid: whose worker it is, if not the caller's own; root answers for everybody.
    :param pid: which process it has to be, whoever's it is.
    :raises ControlError: nobody answers in time, or the worker refuses.
    """
    deadline_s = mono_s() + timeout_s
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.settimeout(timeout_s)
            _connect(connection, path, deadline_s)
            require_peer(connection, path, uid=uid, pid=pid)
            connection.sendall(encode_line(message))
            return _answer(connection, path, deadline_s)
        except TimeoutError:
            raise ControlError(path, f"no answer within {timeout_s:g} s") from None
        except OSError as error:
            raise ControlError(path, f"the worker cannot be reached ({error.strerror or error})") from error


def _connect(connection: socket.socket, path: str, deadline_s: float) -> None:
    while True:
        try:
            connection.connect(path)
            return
        except BlockingIOError:
            # The queue of the listener is full, and a Unix socket does not wait for room by itself.
            if mono_s() > deadline_s:
                raise TimeoutError from None
            select.select([], [], [], _RETRY_S)


def _answer(connection: socket.socket, path: str, deadline_s: float) -> dict[str, Any]:
    received = bytearray()
    while not received.endswith(b"\n"):
        left_s = deadline_s - mono_s()
        if left_s <= 0:
            raise TimeoutError
        connection.settimeout(left_s)
        data = connection.recv(65536)
        if not data:
            raise ControlError(path, "the worker closed the connection without an answer")
        received += data
        if len(received) > ANSWER_BYTES_MAX:
            raise ControlError(path, f"the answer is longer than {ANSWER_BYTES_MAX} bytes")
    answer = decode_line(bytes(received))
    if answer is None:
        raise ControlError(path, "the answer is no JSON object")
    if "error" in answer:
        raise ControlError(path, str(answer["error"]))
    return answer


def encode_line(message: Mapping[str, Any]) -> bytes:
    """One line of the protocol."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decode_line(line: bytes) -> dict[str, Any] | None:
    """The object of one line; None when it is none."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def require_peer(
    connection: socket.socket, path: str, *, uid: int | None = None, pid: int | None = None
) -> None:
    """Check who is at the other end: this user or root, unless the caller expects somebody else.

    :param uid: whom to expect besides root.
    :param pid: the process to expect; its user is of no account then.
    :raises ControlError: it is somebody else.
    """
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    peer_pid, peer_uid, _ = _CREDENTIALS.unpack(data)
    if pid is not None:
        if peer_pid != pid:
            raise ControlError(path, f"is answered by process {peer_pid}, not by {pid}")
    elif peer_uid not in (0, os.getuid() if uid is None else uid):
        raise ControlError(path, f"belongs to user {peer_uid}")

"""What ties a process of a worker to its supervisor, and the packets that they exchange.

The channel is a pair of ``AF_UNIX`` ``SOCK_SEQPACKET`` sockets: one packet is one JSON object, so
nothing can be half received. Standard library only: the supervisor imports this module.
"""

from __future__ import annotations

import array
import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from .boot import BootSpec
from .scoreboard import Scoreboard

PACKET_BYTES_MAX: Final = 128 * 1024

_SEND_BUFFER_BYTES: Final = 1024 * 1024
_FDS_MAX: Final = 4


class PacketError(ValueError):
    """A packet is too long to be sent, or what came is not a packet of ours.

    :ivar size_bytes: length of the packet.
    """

    def __init__(self, reason: str, size_bytes: int) -> None:
        super().__init__(f"{reason} ({size_bytes} bytes; at most {PACKET_BYTES_MAX})")
        self.size_bytes = size_bytes


@dataclass
class ProcessLink:
    """What a process is given when the supervisor, or the template on its behalf, forks it.

    :param scoreboard: the mapping that all processes of the worker share.
    :param channel: to the supervisor. The template's own; what the template forks closes it.
    :param doorbell_fd: eventfd; adding to it makes the supervisor look at the scoreboard at once.
    :param supervisor_pid: who must be the parent once the process has been re-parented.
    :param supervisor_pidfd: readable when the supervisor has died.
    :param spec: what the worker was told at its start.
    :param node: name of the worker, expanded.
    :param worker_id: name of this incarnation of the worker, never used again.
    """

    scoreboard: Scoreboard
    channel: socket.socket
    doorbell_fd: int
    supervisor_pid: int
    supervisor_pidfd: int
    spec: BootSpec
    node: str
    worker_id: str

    def other_sockets(self) -> list[int]:
        """Descriptors of sockets, besides the channel, that the engine itself has open here."""
        return []


def channel_pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a new channel; blocking, and closed on exec."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    return ours, theirs


def encode(message: dict[str, Any]) -> bytes:
    """One packet.

    :raises PacketError: it would be longer than `PACKET_BYTES_MAX`.
    """
    data = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
    if len(data) > PACKET_BYTES_MAX:
        raise PacketError(f"packet {message.get('op')!r} is too long; shorten its texts", len(data))
    return data


def decode(data: bytes) -> dict[str, Any]:
    """The message of one packet.

    :raises PacketError: it is not a JSON object with the text member ``op``.
    """
    try:
        message = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise PacketError(f"not a packet: {error}", len(data)) from error
    if not isinstance(message, dict) or not isinstance(message.get("op"), str):
        raise PacketError("not a packet: no member 'op'", len(data))
    return message


def send(channel: socket.socket, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
    """Send one message, with descriptors if need be.

    :raises PacketError: it is too long.
    :raises OSError: the channel is full (non-blocking), or its other end has gone.
    """
    data = encode(message)
    if fds:
        socket.send_fds(channel, [data], list(fds))
    else:
        channel.send(data)


def receive(channel: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """The next message and the descriptors that came with it; None when the other end has gone.

    :raises PacketError: what came is not a packet of ours.
    :raises BlockingIOError: there is nothing (non-blocking).
    """
    fds = array.array("i")
    try:
        data, ancillary, flags, _ = channel.recvmsg(
            PACKET_BYTES_MAX, socket.CMSG_SPACE(_FDS_MAX * fds.itemsize), socket.MSG_CMSG_CLOEXEC
        )
    except ConnectionResetError:
        # The other end has gone with packets of ours unread.
        return None, []
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    if flags & socket.MSG_TRUNC:
        raise PacketError("not a packet: cut", len(data))
    return (decode(data) if data else None), list(fds)

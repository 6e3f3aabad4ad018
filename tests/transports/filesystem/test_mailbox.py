"""Remote control on the filesystem: private files that expire, and whatever else may lie there."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefork.transports.base import Message
from prefork.transports.errors import TransportError, Unacceptable
from prefork.transports.filesystem import mailbox as module
from prefork.transports.filesystem.transport import FilesystemTransport
from prefork.transports.mailbox import KEPT_MAX, ControlQueue, reply_exchange
from support.waiting import eventually, readable

NS = "celery"


def message(body: bytes = b"{}") -> Message:
    return Message(body, "application/json", "utf-8", {"clock": 1}, {})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "broker"


@pytest.fixture
def transport(root: Path) -> Iterator[FilesystemTransport]:
    made = FilesystemTransport(root)
    yield made
    made.close()


@pytest.fixture
def requests(root: Path) -> Path:
    return root / "control" / "requests" / NS


@pytest.fixture
def replies(root: Path) -> Path:
    return root / "control" / "replies" / reply_exchange(NS)


def received(mailbox: Any, count: int = 1) -> list[bytes]:
    found: list[bytes] = []
    eventually(lambda: found.extend(one.body for one in mailbox.receive(0.05)) or len(found) >= count)
    return found


def test_files_and_folders_are_private(transport: FilesystemTransport, root: Path) -> None:
    client = transport.replies(NS, "me")
    transport.broadcast(NS, message())
    transport.reply(reply_exchange(NS), "me", message())
    for path in (root / "control").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    client.close()


def test_a_name_cannot_lead_out_of_the_broker(transport: FilesystemTransport, root: Path) -> None:
    for name in ("../../x", "/etc", "..", ".", "a/b", "\0", "é" * 300):
        client = transport.replies(name, name)
        transport.reply(reply_exchange(name), name, message())
        assert received(client) == [b"{}"]
        client.close()
        transport.broadcast(name, message())
    assert sorted(one.name for one in root.parent.iterdir()) == ["broker"]
    assert {one.name for one in (root / "control").iterdir()} == {"requests", "replies"}


def test_old_requests_are_removed(transport: FilesystemTransport, requests: Path) -> None:
    transport.broadcast(NS, message(b"old"))
    (old,) = requests.iterdir()
    fresh_ns = int(old.name.partition("-")[0])
    os.rename(old, requests / f"{fresh_ns - 400 * 10**9:020d}-x")
    (requests / ".99999999999999999999-half-written").write_bytes(b"x")
    os.utime(requests / ".99999999999999999999-half-written", (1, 1))
    (requests / "another program's").write_bytes(b"x")
    os.utime(requests / "another program's", (1, 1))
    transport.broadcast(NS, message(b"new"))
    (left,) = requests.iterdir()
    assert b"400" not in left.read_bytes()
    assert int(left.name.partition("-")[0]) > fresh_ns


def test_more_than_so_many_are_not_kept(transport: FilesystemTransport, requests: Path) -> None:
    for _ in range(KEPT_MAX + 5):
        transport.broadcast(NS, message())
    assert len(list(requests.iterdir())) == KEPT_MAX


def test_a_client_that_does_not_read_is_not_written_to_for_ever(
    transport: FilesystemTransport, replies: Path
) -> None:
    client = transport.replies(NS, "me")
    for _ in range(KEPT_MAX + 5):
        transport.reply(reply_exchange(NS), "me", message())
    assert len(list((replies / "me").iterdir())) == KEPT_MAX
    client.close()
    assert list(replies.iterdir()) == []


def test_what_a_killed_client_left_is_swept_by_another(transport: FilesystemTransport, replies: Path) -> None:
    transport.replies(NS, "killed")
    transport.reply(reply_exchange(NS), "killed", message())
    long_ago = time.time() - 2 * module._REPLIES_KEPT_S
    os.utime(replies / "killed", (long_ago, long_ago))
    client = transport.replies(NS, "me")
    assert [one.name for one in replies.iterdir()] == ["me"]
    client.close()


def test_foreign_files_are_put_aside_and_what_is_no_message_is_said(
    transport: FilesystemTransport, requests: Path, root: Path
) -> None:
    node = transport.mailbox(NS, "w@h")
    (requests / "junk").write_bytes(b"junk")
    os.symlink("/etc/hostname", requests / "link")
    os.mkfifo(requests / "pipe")
    (requests / "folder").mkdir()
    (requests / "zz").write_bytes(
        b'{"body": "e30=", "properties": {"delivery_tag": 1, "body_encoding": "base64"}}'
    )
    os.utime(requests)
    assert received(node) == [b"{}"]
    assert len([one for one in (root / "quarantine").iterdir() if not one.name.endswith(".reason")]) == 3
    assert [line for line in transport.maintain() if "no message of remote control" in line]
    node.close()


def test_a_folder_that_somebody_removed_is_made_anew(transport: FilesystemTransport, requests: Path) -> None:
    node = transport.mailbox(NS, "w@h")
    requests.rmdir()
    assert readable(node.fileno())
    assert node.receive() == []
    transport.broadcast(NS, message(b"again"))
    assert received(node) == [b"again"]
    node.close()


def test_a_file_in_place_of_a_folder_is_put_aside(transport: FilesystemTransport, root: Path) -> None:
    (root / "control").write_bytes(b"")
    transport.broadcast(NS, message())
    assert (root / "control" / "requests" / NS).is_dir()


def test_a_mailbox_that_cannot_be_opened_leaves_nothing_open(
    transport: FilesystemTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport.mailbox(NS, "w@h").close()

    def none_left(mailbox: object) -> list[str]:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(module.FilesystemMailbox, "_names", none_left)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(TransportError, match="Too many"):
        transport.mailbox(NS, "w@h")
    # What other tests left may be closed meanwhile: only new ones are ours.
    assert set(os.listdir("/proc/self/fd")) <= before


def test_without_inotify_it_looks_every_so_often(
    transport: FilesystemTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Any, path: str, mask: int) -> int:
        raise OSError(28, "no space left for watches")

    monkeypatch.setattr(module.Inotify, "add", refuse)
    node = transport.mailbox(NS, "w@h")
    transport.broadcast(NS, message(b"heard"))
    assert readable(node.fileno())
    assert received(node) == [b"heard"]
    assert node.receive(0.1) == []
    assert [line for line in transport.maintain() if "no inotify left" in line]
    node.close()
    node.close()


def test_what_is_too_large_is_refused(transport: FilesystemTransport) -> None:
    with pytest.raises(Unacceptable):
        transport.broadcast(NS, message(b"x" * module.MESSAGE_BYTES_MAX))


def test_the_lifetime_of_requests_is_that_of_the_configuration(
    transport: FilesystemTransport, requests: Path
) -> None:
    transport.broadcast(NS, message())
    time.sleep(0.02)
    transport.mailbox(NS, "w@h", ControlQueue(ttl_s=0.01)).close()
    assert list(requests.iterdir()) == []

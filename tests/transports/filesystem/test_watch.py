from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from prefork.transports.base import Outgoing
from prefork.transports.errors import BrokerUnavailable
from prefork.transports.filesystem import watch
from prefork.transports.filesystem.transport import FilesystemTransport
from prefork.transports.filesystem.watch import QueueWatch
from support.waiting import eventually, readable


@pytest.fixture
def transport(tmp_path: Path) -> FilesystemTransport:
    return FilesystemTransport(tmp_path / "broker")


def no_inotify(self: object) -> None:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_without_inotify_a_watch_ticks_and_maintenance_says_so(
    transport: FilesystemTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch.Inotify, "__init__", no_inotify)
    found = transport.watch(["q"])
    assert found.polling
    assert readable(found.fileno())
    eventually(lambda: found.drain() or not readable(found.fileno(), 0.0))
    assert readable(found.fileno())
    found.close()
    found.close()
    assert any("no inotify" in line for line in transport.maintain())


def test_a_consumer_without_inotify_still_gets_its_message_in_time(
    transport: FilesystemTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch.Inotify, "__init__", no_inotify)
    consumer = transport.consumer(["q"], "owner", "worker")
    assert consumer.reserve(1, timeout_s=0.06) == []
    transport.send([Outgoing("q", b"a")])
    assert [one.document for one in consumer.reserve(1, timeout_s=5.0)] == [b"a"]
    consumer.close()


def test_other_errors_of_inotify_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(watch.Inotify, "__init__", refused)
    with pytest.raises(PermissionError):
        QueueWatch([str(tmp_path)])


def test_without_any_descriptor_the_error_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    class Libc:
        def timerfd_create(self, clock: int, flags: int) -> int:
            return -1

    monkeypatch.setattr(watch, "_libc", Libc)
    with pytest.raises(BrokerUnavailable, match="max_user_instances"):
        watch.ticking_fd()


def test_a_watch_survives_the_removal_of_the_whole_queue(
    transport: FilesystemTransport, tmp_path: Path
) -> None:
    found = transport.watch(["q"])
    os.rename(tmp_path / "broker/queues/q", tmp_path / "gone")
    (tmp_path / "gone/in").unlink()
    (tmp_path / "gone/lock").unlink()
    assert readable(found.fileno())
    found.drain()
    transport.send([Outgoing("q", b"a")])
    found.drain()
    transport.send([Outgoing("q", b"b")])
    assert readable(found.fileno())
    assert [one.document for one in transport.peek("q")] == [b"a", b"b"]
    found.close()

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from prefork.transports.base import StoredResult
from prefork.transports.filesystem import result_wait, watch
from prefork.transports.filesystem.results import FilesystemResults
from support.waiting import Background, eventually

SUCCESS = b'{"status": "SUCCESS"}'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "broker"


def stored(key: str) -> StoredResult:
    return StoredResult(key, SUCCESS)


def test_many_waiting_threads_share_one_descriptor_and_each_gets_its_own(root: Path) -> None:
    store, writer = FilesystemResults(root), FilesystemResults(root)
    keys = [f"key-{i}" for i in range(40)]
    before = len(os.listdir("/proc/self/fd"))
    waiting = [Background(lambda key=key: store.wait([key, f"{key}-never"], 10.0)) for key in keys]
    eventually(lambda: store._wait._waiting == len(keys))
    assert len(os.listdir("/proc/self/fd")) <= before + 3
    for key in reversed(keys):
        writer.store([StoredResult(f"other-{key}", SUCCESS), stored(key)])
    for key, one in zip(keys, waiting):
        assert one.result() == {key: SUCCESS}
    writer.close()
    store.close()
    store.close()


def test_only_what_was_stored_is_looked_at_again(root: Path) -> None:
    looked_at: list[str] = []
    store, writer = FilesystemResults(root), FilesystemResults(root)

    def final(key: str) -> bytes | None:
        looked_at.append(key)
        return store.get([key])[0]

    waiter = result_wait.ResultWait(store._store, final)
    keys = [f"key-{i}" for i in range(100)]
    waiting = Background(lambda: waiter.wait(keys, 10.0))
    eventually(lambda: len(looked_at) == 200)
    writer.store([stored("somebody-elses"), stored("key-7")])
    assert waiting.result() == {"key-7": SUCCESS}
    assert set(looked_at[200:]) == {"key-7"}
    waiter.close()
    store.close()
    writer.close()


def test_after_an_overflow_everything_is_looked_at_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really_read = watch.Inotify.read
    monkeypatch.setattr(
        watch.Inotify, "read", lambda self: (really_read(self), [(-1, watch.IN_Q_OVERFLOW, "")])[1]
    )
    store, writer = FilesystemResults(root), FilesystemResults(root)
    waiting = Background(lambda: store.wait(["key"], 10.0))
    eventually(lambda: store._wait._listening)
    writer.store([stored("key")])
    assert waiting.result() == {"key": SUCCESS}
    store.close()
    writer.close()


def test_without_inotify_results_are_looked_for(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(watch.Inotify, "__init__", refused)
    store, writer = FilesystemResults(root), FilesystemResults(root)
    waiting = Background(lambda: store.wait(["key"], 10.0))
    eventually(lambda: store._wait._listening)
    writer.store([stored("key")])
    assert waiting.result() == {"key": SUCCESS}
    store.close()
    writer.close()


def test_closing_lets_waiters_return(root: Path) -> None:
    store = FilesystemResults(root)
    first = Background(lambda: store.wait(["a"], None))
    second = Background(lambda: store.wait(["b"], None))
    eventually(lambda: store._wait._waiting == 2)
    store.close()
    assert first.result() == {} and second.result() == {}

"""Foreign, truncated, empty and linked things are put aside with a reason; work goes on around them."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from prefork.transports.base import Outcome, Outgoing, StoredResult, Verdict
from prefork.transports.errors import UnsafeStorage
from prefork.transports.filesystem.results import FilesystemResults
from prefork.transports.filesystem.transport import FilesystemTransport


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "broker"


def make_empty(path: Path) -> None:
    path.write_bytes(b"")


def make_garbage(path: Path) -> None:
    path.write_bytes(b"garbage" * 5000)


def make_link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def make_second_name(path: Path) -> None:
    other = path.parent.parent.parent / "elsewhere"
    other.write_bytes(b"garbage" * 5000)
    os.link(other, path)


def make_folder(path: Path) -> None:
    path.mkdir()


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    here = os.open(path.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(f"/proc/self/fd/{here}/{path.name}")
    finally:
        os.close(here)


STRANGERS = [
    make_empty,
    make_garbage,
    make_link,
    make_second_name,
    make_folder,
    make_fifo,
    make_socket,
]


def replace(path: Path, stranger: Callable[[Path], None]) -> None:
    path.unlink(missing_ok=True)
    stranger(path)


def quarantined(root: Path) -> dict[str, str]:
    """Reasons by the end of the name."""
    return {
        one.name.removesuffix(".reason").split("-", 3)[3]: one.read_text()
        for one in (root / "quarantine").iterdir()
        if one.name.endswith(".reason")
    }


def drain(transport: FilesystemTransport, queue: str) -> list[bytes]:
    consumer = transport.consumer([queue], f"drain-{os.urandom(4).hex()}", "worker")
    found = []
    while batch := consumer.reserve(64):
        found += [one.document for one in batch]
        assert all(consumer.settle([Outcome(one.tag) for one in batch]))
    consumer.close()
    return found


@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_stranger_in_the_place_of_a_segment_is_put_aside(
    root: Path, stranger: Callable[[Path], None]
) -> None:
    first = FilesystemTransport(root)
    first.send([Outgoing("q", b"%d" % i) for i in range(300)])  # two segments
    first.close()
    replace(root / "queues/q/0-00000001.seg", stranger)
    transport = FilesystemTransport(root)
    assert drain(transport, "q") == [b"%d" % i for i in range(256, 300)]
    transport.send([Outgoing("q", b"later")])
    assert drain(transport, "q") == [b"later"]
    assert "0-00000001.seg" in quarantined(root)
    assert any("0-00000001.seg" in line for line in transport.maintain())
    assert transport.maintain() == []
    transport.close()


@pytest.mark.parametrize("name", ["in", "out", "lock"])
@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_stranger_in_the_place_of_a_small_file_costs_no_message(
    root: Path, name: str, stranger: Callable[[Path], None]
) -> None:
    first = FilesystemTransport(root)
    first.send([Outgoing("q", b"a", 3), Outgoing("q", b"b"), Outgoing("q", b"c", 0, 4e9)])
    first.close()
    # A lock file is one per process and path, open as long as the process lives: use another path.
    moved = root.with_name("moved")
    root.rename(moved)
    replace(moved / "queues/q" / name, stranger)
    transport = FilesystemTransport(moved)
    assert drain(transport, "q") == [b"a", b"b"]
    assert transport.depth("q").delayed == 1
    assert transport.ready(["q"]) == 0
    transport.close()


@pytest.mark.parametrize("stranger", STRANGERS)
def test_strangers_everywhere_are_put_aside_by_maintenance(
    root: Path, stranger: Callable[[Path], None]
) -> None:
    transport = FilesystemTransport(root)
    transport.send([Outgoing("q", b"a"), Outgoing("q", b"b", 0, 4e9)])
    places = [
        "queues/q/stranger",
        "queues/q/x-1.seg",
        "queues/q/delayed/stranger",
        "dead/stranger",
        "results/stranger",
        "owners/stranger",
    ]
    for place in places:
        stranger(root / place)
    hour = next(one for one in (root / "queues/q/delayed").iterdir() if one.name.isdigit())
    stranger(hour / "stranger")
    lines = transport.maintain()
    for place in [*places, "delayed/" + hour.name + "/stranger"]:
        assert any(place in line for line in lines), (place, lines)
    assert transport.maintain() == []
    assert drain(transport, "q") == [b"a"]
    transport.close()


@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_stranger_in_the_place_of_a_dead_letter_or_result_is_none(
    root: Path, stranger: Callable[[Path], None]
) -> None:
    transport = FilesystemTransport(root)
    transport.send([Outgoing("q", b"a"), Outgoing("q", b"b")])
    consumer = transport.consumer(["q"], "owner", "worker")
    tags = [one.tag for one in consumer.reserve(2)]
    for tag in tags:
        consumer.settle([Outcome(tag, Verdict.DEAD, reason="why")])
    first, second = transport.dead_letters()
    replace(root / "dead" / first.key, stranger)
    assert transport.dead_get(first.key) is None
    assert [one.key for one in transport.dead_letters()] == [second.key]
    store = FilesystemResults(root)
    store.store([StoredResult("k", b"{}", 1000.0)])
    (path,) = (root / "results").glob("*/k")
    replace(path, stranger)
    assert store.get(["k"]) == [None]
    replace(path, stranger)
    store.store([StoredResult("k", b'{"status": "SUCCESS"}')])
    assert store.get(["k"]) == [b'{"status": "SUCCESS"}']
    assert {first.key, "k"} <= set(quarantined(root))
    store.close()
    transport.close()


@pytest.mark.parametrize("cut", [0, 10, 36, 4096, 9000])
def test_a_truncated_segment_is_put_aside(root: Path, cut: int) -> None:
    first = FilesystemTransport(root)
    first.send([Outgoing("q", b"a")])
    first.close()
    os.truncate(root / "queues/q/0-00000001.seg", cut)
    transport = FilesystemTransport(root)
    assert drain(transport, "q") == []
    assert "0-00000001.seg" in quarantined(root)
    transport.send([Outgoing("q", b"later")])
    assert drain(transport, "q") == [b"later"]
    transport.close()


def test_a_damaged_document_becomes_a_dead_letter_and_the_others_are_delivered(root: Path) -> None:
    transport = FilesystemTransport(root)
    transport.send([Outgoing("q", b"first"), Outgoing("q", b"second"), Outgoing("q", b"third")])
    path = root / "queues/q/0-00000001.seg"
    content = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(content.index(b"second"))
        file.write(b"SECOND")
    assert drain(transport, "q") == [b"first", b"third"]
    (letter,) = transport.dead_letters()
    assert (letter.reason, letter.document, letter.queue) == ("corrupt", b"SECOND", "q")
    transport.close()


def test_documents_that_were_cut_off_become_dead_letters(root: Path) -> None:
    transport = FilesystemTransport(root)
    transport.send([Outgoing("q", b"x" * 5000), Outgoing("q", b"y" * 5000)])
    path = root / "queues/q/0-00000001.seg"
    os.truncate(path, path.stat().st_size - 6000)
    assert drain(transport, "q") == []
    assert sorted(len(one.document) for one in transport.dead_letters()) == [0, 4000]
    transport.close()


def test_a_root_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "open"
    root.mkdir(mode=0o777)
    root.chmod(0o777)
    with pytest.raises(UnsafeStorage, match="others can write"):
        FilesystemTransport(root)


@pytest.mark.parametrize("stranger", [make_empty, make_garbage, make_fifo])
def test_a_root_that_is_no_directory_is_refused(root: Path, stranger: Callable[[Path], None]) -> None:
    stranger(root)
    with pytest.raises(UnsafeStorage, match="not a directory"):
        FilesystemTransport(root)


def test_a_root_of_another_format_is_refused(root: Path) -> None:
    root.mkdir(mode=0o700)
    (root / "format").write_text("something else\n")
    with pytest.raises(UnsafeStorage, match="another version"):
        FilesystemTransport(root)


def test_everything_made_is_private(root: Path) -> None:
    previous = os.umask(0)
    try:
        transport = FilesystemTransport(root)
        transport.send([Outgoing("q", b"a"), Outgoing("q", b"b", 0, 4e9)])
        consumer = transport.consumer(["q"], "owner", "worker")
        tag = consumer.reserve(1)[0].tag
        consumer.settle([Outcome(tag, Verdict.DEAD, reason="why", results=(StoredResult("k", b"{}"),))])
        transport.heartbeat("worker", 5.0)
    finally:
        os.umask(previous)
    for folder, folders, files in os.walk(root):
        for name in folders:
            assert stat.S_IMODE(os.lstat(f"{folder}/{name}").st_mode) == 0o700, f"{folder}/{name}"
        for name in files:
            assert stat.S_IMODE(os.lstat(f"{folder}/{name}").st_mode) == 0o600, f"{folder}/{name}"
    assert stat.S_IMODE(os.lstat(root).st_mode) == 0o700
    transport.close()


def test_a_directory_of_something_else_is_refused(root: Path) -> None:
    root.mkdir(mode=0o700)
    (root / "holiday.jpg").write_bytes(b"")
    with pytest.raises(UnsafeStorage, match="holiday.jpg"):
        FilesystemTransport(root)
    assert os.listdir(root) == ["holiday.jpg"]

"""Finding the sockets of workers that were started in another environment."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine.control_search import Found, in_directory, of_process, of_user, worker_pid
from prefork.engine.control_socket import ControlError, RuntimeDirectoryError, require_peer, socket_path

Bind = Callable[..., str]

# No process has it, and no other run of these tests asks for it meanwhile: the kernel has one list for all.
NO_PROCESS = 4_000_000_000 + 2 * os.getpid()


@pytest.fixture
def bind(tmp_path: Path) -> Iterator[Bind]:
    """Binds sockets as workers do, in directories as they make them."""
    made: list[socket.socket] = []

    def make(node: str, pid: int, *, base: str = "runtime", below: str = "prefork") -> str:
        directory = tmp_path / base / below
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        end = socket.socket(socket.AF_UNIX)
        made.append(end)
        path = socket_path(str(directory), node, pid)
        end.bind(path)
        end.listen(1)
        return path

    yield make
    for end in made:
        end.close()


@pytest.mark.parametrize("below", ["prefork", "prefork-1000"])
def test_a_directory_may_be_the_runtime_directory_or_the_one_below_it(
    bind: Bind, tmp_path: Path, below: str
) -> None:
    path = bind("w@host", 7, below=below)
    (tmp_path / "runtime" / below / "notes.txt").write_text("no socket")
    given_path = tmp_path / "runtime" if below == "prefork" else tmp_path / "runtime" / below
    assert in_directory(str(given_path)) == [Found(path, uid=os.getuid())]


def test_a_directory_that_others_may_enter_is_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)
    with pytest.raises(RuntimeDirectoryError, match="mode 0700"):
        in_directory(str(tmp_path / "open"))


def test_a_link_below_the_directory_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "run").mkdir(mode=0o700)
    (tmp_path / "run" / "prefork").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RuntimeDirectoryError):
        in_directory(str(tmp_path / "run"))


def test_the_directory_of_another_user_is_for_root_alone(
    bind: Bind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bind("w@host", 7)
    owner = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert in_directory(str(tmp_path / "runtime")) == [Found(path, uid=owner)]
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    with pytest.raises(RuntimeDirectoryError, match=f"belongs to user {owner}; ask as that user, or as root"):
        in_directory(str(tmp_path / "runtime"))


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        in_directory(str(tmp_path / "gone"))


def test_a_process_is_found_wherever_its_socket_is(bind: Bind) -> None:
    first = bind("w@host", NO_PROCESS, base="one")
    second = bind("v@host", NO_PROCESS, base="two", below="prefork-1000")
    bind("u@host", NO_PROCESS + 1)
    found = [Found(first, pid=NO_PROCESS), Found(second, pid=NO_PROCESS)]
    assert of_process(NO_PROCESS) == sorted(found)


def test_the_workers_of_this_user_are_found_wherever_they_are(bind: Bind) -> None:
    paths = {bind("w@host", NO_PROCESS, base="one"), bind("v@host", NO_PROCESS + 1, base="two")}
    found = of_user()
    assert paths <= {one.path for one in found}
    assert {one.uid for one in found} == {os.getuid()}


def test_sockets_of_other_programs_and_of_other_places_are_left_out(bind: Bind, tmp_path: Path) -> None:
    # Given a list of the kernel with what else there may be in it
    here = bind("w@host", 7)
    other = bind("w@host", 7, below="somebody")
    head = "Num RefCount Protocol Flags Type St Inode Path\n"
    row = "0000000000000000: 00000002 00000000 00010000 0001 01 12345"
    gone = str(tmp_path / "prefork" / "gone-7.sock")
    texts = [here, here, other, gone, f"@{here}", "prefork/relative-7.sock", str(tmp_path / "prefork" / "x")]
    listing = tmp_path / "unix"
    listing.write_text(head + "".join(f"{row} {text}\n" for text in texts) + row + "\n")
    # Then only the worker's own is found, and once
    assert of_process(7, str(listing)) == [Found(here, pid=7)]
    assert of_user(str(listing)) == [Found(here, uid=os.getuid())]


def test_a_system_without_the_list_has_nothing_to_add(tmp_path: Path) -> None:
    assert of_user(str(tmp_path / "none")) == of_process(1, str(tmp_path / "none")) == []


@given(st.binary(max_size=300))
def test_any_list_of_the_kernel_is_survived(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    listing = tmp_path_factory.getbasetemp() / "any-list"
    listing.write_bytes(data)
    assert of_user(str(listing)) == []


def test_a_pid_file_names_a_process(tmp_path: Path) -> None:
    (tmp_path / "pid").write_text("123\n")
    assert worker_pid(str(tmp_path / "pid")) == 123


@given(st.binary(max_size=80).filter(lambda data: not data.strip().isdigit()))
def test_whatever_else_is_in_a_pid_file_is_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any-pid"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="contains no process number"):
        worker_pid(str(path))


def test_who_answers_is_checked_by_user_or_by_process() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        require_peer(ours, "p")
        require_peer(ours, "p", pid=os.getpid(), uid=os.getuid() + 1)
        with pytest.raises(ControlError, match=f"is answered by process {os.getpid()}, not by 1"):
            require_peer(ours, "p", pid=1)

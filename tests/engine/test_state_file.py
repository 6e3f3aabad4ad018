"""The state file of a worker (``--statedb``)."""

from __future__ import annotations

import json
import os
import shelve
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine.exceptions import ImproperlyConfigured
from prefork.engine.state_file import FILE_BYTES_MAX, FORMAT, ForeignStateFile, State, StateFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state"


def test_without_a_file_nothing_is_known(path: Path) -> None:
    assert StateFile(str(path), "w@h").load() == State()


def test_what_was_saved_is_loaded(path: Path) -> None:
    assert StateFile(str(path), "w@h").save(State(["a", "é\ud800"], 7))
    assert StateFile(str(path), "w@h").load() == State(("a", "é\ud800"), 7)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["state"]


def test_the_path_is_expanded(tmp_path: Path) -> None:
    file = StateFile(str(tmp_path / "%n-%h.state"), "w@host.domain")
    assert file.path == str(tmp_path / "w-host.domain.state")
    with pytest.raises(ImproperlyConfigured, match="statedb"):
        StateFile("%z", "w@h")


def test_it_is_written_only_when_other_ids_are_revoked(path: Path) -> None:
    file = StateFile(str(path), "w@h")
    assert file.save(State(["a"], 1))
    assert not file.save(State(["a"], 2))
    assert file.save(State(["a"], 2), anyway=True)
    assert file.save(State(["a", "b"], 2))
    assert json.loads(path.read_text()) == {"format": FORMAT, "clock": 2, "revoked": ["a", "b"]}


@pytest.mark.parametrize(
    "content",
    [
        b"\x13\x57\x9a\xce",
        b"{",
        b"[]",
        b'{"format": "another"}',
        json.dumps({"format": FORMAT, "revoked": "a", "clock": 1}).encode(),
        json.dumps({"format": FORMAT, "revoked": [1], "clock": 1}).encode(),
        json.dumps({"format": FORMAT, "revoked": [], "clock": True}).encode(),
        b"[" * 100_000,
    ],
)
def test_what_is_not_ours_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ForeignStateFile) as raised:
        StateFile(str(path), "w@h").load()
    assert raised.value.path == str(path)
    assert path.read_bytes() == content


def test_celerys_shelve_is_recognised_as_something_else(path: Path) -> None:
    with shelve.open(str(path)) as db:
        db["zrevoked"] = b"x"
    made = [one for one in path.parent.iterdir() if one.stat().st_size]
    assert made  # which files these are depends on the kind of database
    for one in made:
        with pytest.raises(ForeignStateFile, match="pickles"):
            StateFile(str(one), "w@h").load()


def test_an_empty_file_is_a_state_of_nothing(path: Path) -> None:
    path.write_bytes(b"")
    assert StateFile(str(path), "w@h").load() == State()


def test_a_link_or_a_pipe_is_not_followed(path: Path, tmp_path: Path) -> None:
    (tmp_path / "real").write_text("{}")
    path.symlink_to(tmp_path / "real")
    with pytest.raises(OSError):
        StateFile(str(path), "w@h").load()
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ForeignStateFile, match="not a file"):
        StateFile(str(path), "w@h").load()


def test_a_file_without_end_is_not_read(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(FILE_BYTES_MAX + 1)
    with pytest.raises(ForeignStateFile, match="at most"):
        StateFile(str(path), "w@h").load()


def test_a_failure_to_write_is_logged_once_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "later"
    file = StateFile(str(folder / "state"), "w@h")
    assert [file.save(State(["a"])), file.save(State(["a"]))] == [False, False]
    assert len([record for record in caplog.records if "cannot be written" in record.message]) == 1
    folder.mkdir()
    assert file.save(State(["a"]))


@given(st.lists(st.text(), max_size=20), st.integers(0, 2**53))
def test_every_state_survives(tmp_path_factory: pytest.TempPathFactory, ids: list[str], clock: int) -> None:
    path = tmp_path_factory.mktemp("state") / "state"
    StateFile(str(path), "w@h").save(State(ids, clock))
    assert StateFile(str(path), "w@h").load() == State(tuple(ids), clock)

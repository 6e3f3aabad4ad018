"""The boot specification: what is written is what is read, and nothing of it is on a command line."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine.boot import BootSpec, supervisor_command, write_spec

plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=8,
)


@given(st.text(), st.dictionaries(st.text(), plain, max_size=5), st.lists(st.text(), max_size=4))
def test_a_specification_comes_back_as_it_was(
    app: str, settings: dict[str, object], queues: list[str]
) -> None:
    spec = BootSpec(app=app, settings=settings, queues=queues, autoscale=[4, 1], watch_pid=12)
    assert BootSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize("text", ["[]", "{}", '{"app": "a", "nonsense": 1}', "null", '"app"'])
def test_what_is_no_specification_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a boot specification"):
        BootSpec.from_json(text)


@given(st.text(max_size=100))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        spec = BootSpec.from_json(text)
    except ValueError:
        return
    assert isinstance(spec, BootSpec)


def test_a_password_travels_in_an_anonymous_file_and_not_on_the_command_line() -> None:
    spec = BootSpec(app="a", settings={"broker_url": "redis://:hunter2@host"})
    fd = write_spec(spec)
    try:
        assert os.get_inheritable(fd)
        assert "hunter2" not in " ".join(supervisor_command(fd))
        with os.fdopen(os.dup(fd), encoding="utf-8") as file:
            assert BootSpec.from_json(file.read()) == spec
    finally:
        os.close(fd)


def test_a_large_specification_is_written_whole() -> None:
    spec = BootSpec(app="a", settings={"task_routes": {f"task{n}": "x" * 100 for n in range(20_000)}})
    fd = write_spec(spec)
    with os.fdopen(fd, encoding="utf-8") as file:
        assert json.load(file)["settings"] == spec.settings


def test_a_module_of_the_project_does_not_stand_in_for_one_that_the_supervisor_needs(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise RuntimeError('not this one')\n")
    fd = write_spec(BootSpec(app="there_is_no_such_app", workdir=str(tmp_path)))
    try:
        ran = subprocess.run(
            supervisor_command(fd), cwd=tmp_path, pass_fds=[fd], capture_output=True, text=True, timeout=60
        )
    finally:
        os.close(fd)
    assert ran.returncode == 2, ran.stderr
    assert "no module is called 'there_is_no_such_app'" in ran.stderr


@pytest.mark.parametrize("safe_path", ["", "1"])
def test_what_the_environment_puts_on_the_path_reaches_the_application(
    tmp_path: Path, safe_path: str
) -> None:
    # Given an application that only PYTHONPATH leads to
    (tmp_path / "only_here.py").write_text("raise RuntimeError('found it')\n")
    environ = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": safe_path}
    fd = write_spec(BootSpec(app="only_here", workdir="/"))
    # When a worker is started for it, whether the current directory is on the path or not
    try:
        ran = subprocess.run(
            supervisor_command(fd),
            cwd="/",
            env=environ,
            pass_fds=[fd],
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        os.close(fd)
    # Then it is imported
    assert "found it" in ran.stderr

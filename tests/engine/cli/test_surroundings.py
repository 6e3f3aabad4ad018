"""Where a command runs, and which configuration it finds there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from prefork.engine.cli.failures import CommandError, ExitCode
from prefork.engine.cli.options import GlobalOptions
from prefork.engine.cli.surroundings import CONFIG_FILE_VARIABLE, CONFIG_MODULE_VARIABLE, enter
from prefork.engine.config import sources


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (CONFIG_FILE_VARIABLE, CONFIG_MODULE_VARIABLE):
        monkeypatch.setenv(name, "before")


def test_the_variables_are_those_that_the_configuration_reads() -> None:
    assert (CONFIG_FILE_VARIABLE, CONFIG_MODULE_VARIABLE) == (sources.ENV_FILE, sources.ENV_MODULE)


def test_nothing_given_changes_nothing(tmp_path: Path) -> None:
    enter(GlobalOptions())
    assert Path.cwd() == tmp_path
    assert os.environ[CONFIG_FILE_VARIABLE] == os.environ[CONFIG_MODULE_VARIABLE] == "before"


def test_the_working_directory_is_entered(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    enter(GlobalOptions(workdir="w"))
    assert Path.cwd() == tmp_path / "w"


def test_a_directory_that_is_not_there_is_refused() -> None:
    with pytest.raises(CommandError, match="--workdir gone: No such file") as refused:
        enter(GlobalOptions(workdir="gone"))
    assert refused.value.code == ExitCode.USAGE


@pytest.mark.parametrize(
    ("config", "variable"),
    [("conf/prefork.toml", CONFIG_FILE_VARIABLE), ("celeryconfig", CONFIG_MODULE_VARIABLE)],
)
def test_a_configuration_is_named_to_this_process_and_its_children(config: str, variable: str) -> None:
    enter(GlobalOptions(config=config))
    assert os.environ[variable] == config

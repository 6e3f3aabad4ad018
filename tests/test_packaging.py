"""What is installed, and under which names."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from support.source_tree import FOLDERS, ROOT, SourceTree

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def installed() -> metadata.Distribution:
    """The installed distribution, not the build directory that an editable install leaves here."""
    found = [
        d for d in metadata.distributions(name="prefork") if Path(str(d.locate_file(""))).resolve() != ROOT
    ]
    assert found, "prefork is not installed: run the tests through tox"
    return found[0]


def test_the_list_of_packages_is_the_tree() -> None:
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == SourceTree().packages()


def test_packages_are_listed_once_and_in_order() -> None:
    listed = PYPROJECT["tool"]["setuptools"]["packages"]
    assert listed == sorted(set(listed))


def test_every_file_that_is_not_python_is_declared_as_data() -> None:
    declared = {
        path.relative_to(ROOT).as_posix()
        for package, patterns in PYPROJECT["tool"]["setuptools"]["package-data"].items()
        for pattern in patterns
        for path in (ROOT / Path(*package.split(".")[1:])).glob(pattern)
    }
    present = {
        path.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        # Who compiles a module just now, or was killed meanwhile, has a file of another name there.
        if path.is_file() and path.suffix != ".py" and path.parent.name != "__pycache__"
    }
    assert present == declared


@pytest.mark.parametrize("folder", FOLDERS)
def test_each_package_says_that_it_is_typed(folder: str) -> None:
    assert (ROOT / folder / "py.typed").is_file()


def test_prefork_is_a_namespace_without_an_init() -> None:
    program = "import prefork; print(getattr(prefork, '__file__', None))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd="/", timeout=30
    )
    assert done.stdout.strip() == "None", done.stderr


def test_the_version_is_stated_in_one_place(installed: metadata.Distribution) -> None:
    stated = re.search(
        r'__version__ = "([^"]+)"', (ROOT / "engine" / "version.py").read_text(encoding="utf-8")
    )
    assert stated is not None
    assert "version" not in PYPROJECT["project"]
    assert installed.version == stated.group(1)


def test_nothing_generic_is_installed(installed: metadata.Distribution) -> None:
    top = {str(file).split("/")[0] for file in installed.files or []}
    assert not top & {*FOLDERS, "tests", "docs"}
    probe = f"import importlib.util as u; print([n for n in {FOLDERS} if u.find_spec(n)])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, cwd="/", timeout=30)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_command_is_installed(installed: metadata.Distribution) -> None:
    names = {e.name: e.value for e in installed.entry_points if e.group == "console_scripts"}
    assert names["prefork"] == "prefork.engine.cli.main:main"


def test_the_licence_is_shipped(installed: metadata.Distribution) -> None:
    assert installed.metadata["License-Expression"] == "BSD-3-Clause"
    assert "License-File" in installed.metadata
    assert any(file.name == "LICENSE" for file in installed.files or [])


def test_test_tools_are_no_dependencies_of_the_product(installed: metadata.Distribution) -> None:
    wanted = {re.split(r"[ <>=!;\[]", line)[0].lower() for line in installed.requires or []}
    assert not wanted & {"celery", "pytest", "hypothesis", "mypy", "ruff", "tox", "pyright"}


def test_pytest_finds_the_fixtures_by_itself(installed: metadata.Distribution) -> None:
    found = [entry.value for entry in installed.entry_points if entry.group == "pytest11"]
    assert found == ["prefork.engine.testing.plugin"]

"""The parts into which tox.ini divides the suite hold all of it: a file in no part would never run."""

from __future__ import annotations

import configparser
import fnmatch
import re
import shlex
from pathlib import Path

import pytest

from support.side_by_side import commands

ROOT = Path(__file__).resolve().parent.parent
STRESS = "tests/stress"


def parts(name: str) -> list[list[str]]:
    """The commands of one kind."""
    ini = configparser.ConfigParser(comment_prefixes=(";",), interpolation=None)
    ini.read(ROOT / "tox.ini")
    return commands(shlex.split(ini["parts"][name].replace("\\\n", " ")))


def takes(command: list[str], path: str) -> bool:
    """Whether pytest would collect a file, by the folders and files that a command names."""
    named = [word for word in command if word.startswith("tests")]
    ignored = [word.partition("=")[2] for word in command if word.startswith("--ignore=")]
    globs = [word.partition("=")[2] for word in command if word.startswith("--ignore-glob=")]
    if any(path == one or path.startswith(f"{one}/") for one in ignored):
        return False
    if any(fnmatch.fnmatch(f"{ROOT}/{path}", glob) for glob in globs):
        return False
    within = [one for one in named if path == one or path.startswith(f"{one}/")]
    # pyproject.toml keeps pytest from entering it unless it is named.
    return any(one.startswith(STRESS) or not path.startswith(f"{STRESS}/") for one in within)


def files() -> list[str]:
    """Every file with tests that some part must take."""
    found = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "tests").rglob("test_*.py"))]
    return [path for path in found if not path.startswith(("tests/docs/", "tests/typing/"))]


def marked(path: str, name: str) -> bool:
    """Whether a file gives a test this mark."""
    text = (ROOT / path).read_text()
    return re.search(rf"^[^\"'#\n]*pytest\.mark\.{name}\b", text, re.MULTILINE) is not None


@pytest.mark.parametrize("kinds", [("everything",), ("slow", "faults")], ids=" and ".join)
def test_every_file_is_in_a_part(kinds: tuple[str, ...]) -> None:
    chosen = [command for kind in kinds for command in parts(kind)]
    wanted = [path for path in files() if path.startswith(STRESS) == (kinds != ("everything",))]
    wanted += [] if kinds == ("everything",) else [path for path in files() if marked(path, "slow")]
    assert len(wanted) > 20
    assert [path for path in wanted if not any(takes(command, path) for command in chosen)] == []


def test_what_measures_time_is_taken_by_no_part_but_its_own() -> None:
    measuring = [path for path in files() if marked(path, "serial")]
    assert measuring
    assert [path for path in measuring if not any(takes(command, path) for command in parts("serial"))] == []
    for kind in ("everything", "slow", "faults", "engine", "semantics"):
        for command in parts(kind):
            choice = command[command.index("-m") + 1]
            taken = [path for path in measuring if takes(command, path)]
            assert not taken or "not serial" in choice, (command, taken)

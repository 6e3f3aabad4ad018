"""The public API, as type checkers see it: a wrong argument to `.delay` is an error."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import prefork.engine
import prefork.serializers
import prefork.transports

HERE = Path(__file__).parent
MARK = "# refused"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed packages below one `prefork`, as checkers look for them, and the files to check."""
    root = tmp_path_factory.mktemp("typing")
    (root / "prefork").mkdir()
    for package in (prefork.engine, prefork.transports, prefork.serializers):
        (root / "prefork" / package.__name__.rpartition(".")[2]).symlink_to(next(iter(package.__path__)))
    for name in ("accepted.py", "refused.py"):
        shutil.copy(HERE / name, root / name)
    return root


def marked_lines() -> set[int]:
    lines = (HERE / "refused.py").read_text().splitlines()
    return {number for number, line in enumerate(lines, 1) if line.endswith(MARK)}


def mypy(tree: Path, name: str) -> subprocess.CompletedProcess[str]:
    options = ["--strict", "--namespace-packages", "--explicit-package-bases", "--follow-imports=silent"]
    command = [
        sys.executable,
        "-m",
        "mypy",
        *options,
        "--cache-dir",
        str(tree / "cache"),
        "--no-error-summary",
    ]
    return subprocess.run([*command, name], cwd=tree, capture_output=True, text=True, check=False)


def test_mypy_accepts_what_is_right(tree: Path) -> None:
    done = mypy(tree, "accepted.py")
    assert done.stdout + done.stderr == ""


def test_mypy_refuses_every_wrong_line_and_no_other(tree: Path) -> None:
    done = mypy(tree, "refused.py")
    assert {
        int(line) for line in re.findall(r"^refused\.py:(\d+): error:", done.stdout, re.M)
    } == marked_lines()


def pyright(tree: Path) -> list[tuple[str, int]]:
    """File and line of every error that pyright finds."""
    (tree / "pyrightconfig.json").write_text(
        json.dumps({"pythonVersion": "3.10", "typeCheckingMode": "standard"})
    )
    environment = {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    command = [sys.executable, "-m", "pyright", "--outputjson", "accepted.py", "refused.py"]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False, env=environment)
    found = json.loads(done.stdout[done.stdout.index("{") :])["generalDiagnostics"]
    errors = [item for item in found if item["severity"] == "error"]
    return [(Path(item["file"]).name, item["range"]["start"]["line"] + 1) for item in errors]


def test_pyright_agrees(tree: Path) -> None:
    errors = pyright(tree)
    assert [place for place in errors if place[0] == "accepted.py"] == []
    assert {line for name, line in errors if name == "refused.py"} == marked_lines()

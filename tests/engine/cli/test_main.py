"""The frame of the command line: finding the command, errors without tracebacks, exit codes."""

from __future__ import annotations

import argparse
import subprocess
import sys
import types

import pytest

from prefork.engine.cli import main as main_module
from prefork.engine.cli.failures import CommandError, ExitCode
from prefork.engine.cli.main import COMMANDS, main
from prefork.engine.version import __version__


def _provide(monkeypatch: pytest.MonkeyPatch, outcome: object) -> None:
    """Let the command `report` do `outcome`: return it, or raise it."""

    def run(arguments: argparse.Namespace, options: object) -> object:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    fake = types.SimpleNamespace(configure=lambda parser: None, run=run)
    monkeypatch.setattr(main_module.importlib, "import_module", lambda *_: fake)


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"prefork {__version__}\n"


def test_no_command_is_a_usage_error_that_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == ExitCode.USAGE
    shown = capsys.readouterr().err
    assert all(name in shown for name in COMMANDS)


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help"]) == ExitCode.OK
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)


def test_an_unknown_command_names_a_near_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["wroker"]) == ExitCode.USAGE
    assert main(["worke"]) == ExitCode.USAGE
    shown = capsys.readouterr().err
    assert "no command 'wroker'" in shown
    assert "did you mean 'worker'" in shown


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert "--app" in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_refuses_an_unknown_option(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--no-such-option"])
    assert ended.value.code == ExitCode.USAGE
    assert "usage:" in capsys.readouterr().err


def test_a_user_error_is_one_line_and_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _provide(monkeypatch, CommandError("queue 'x': no such queue", ExitCode.UNAVAILABLE))
    assert main(["report"]) == 69
    assert capsys.readouterr().err == "prefork: error: queue 'x': no such queue\n"


def test_an_interrupt_ends_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _provide(monkeypatch, KeyboardInterrupt())
    assert main(["report"]) == ExitCode.INTERRUPTED
    assert capsys.readouterr().err == ""


def test_the_exit_status_of_the_command_is_the_exit_status(monkeypatch: pytest.MonkeyPatch) -> None:
    _provide(monkeypatch, 7)
    assert main(["report"]) == 7


def test_a_reader_that_went_away_is_no_error() -> None:
    shell = f"{sys.executable} -m prefork.engine help | head -c 1"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, timeout=30, cwd="/")
    assert done.stderr == ""
    assert done.stdout == "u"


def test_the_module_runs_like_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prefork.engine", "--version"],
        capture_output=True,
        text=True,
        timeout=30,
        cwd="/",
    )
    assert (done.returncode, done.stdout) == (0, f"prefork {__version__}\n")


def test_asking_for_help_loads_neither_the_engine_nor_a_third_party() -> None:
    program = (
        "import sys\nfrom prefork.engine.cli.main import main\nmain(['help'])\n"
        "loaded = {m.split('.')[0] for m in sys.modules} - set(sys.stdlib_module_names)\n"
        "print(sorted(m for m in loaded if not m.startswith('__')), file=sys.stderr)\n"
        "print(sorted(m for m in sys.modules if m.startswith('prefork.engine.')), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], capture_output=True, text=True, timeout=30, cwd="/"
    )
    if "No module named 'prefork'" in done.stderr:  # -S hides site-packages; -I keeps them
        done = subprocess.run(
            [sys.executable, "-I", "-c", program], capture_output=True, text=True, timeout=30
        )
    third_party, ours = done.stderr.splitlines()[-2:]
    assert not {"msgspec", "kombu", "psutil", "billiard"} & set(eval(third_party))
    assert {m.split(".")[2] for m in eval(ours)} == {"cli", "version"}

"""Documentation pages as programs: their fenced blocks, and what runs them.

The word after the fence is the language; what follows it says what to do:

- ``python title="tasks.py"`` (any language) writes the file;
- ``python`` without a title runs as a script;
- ``pycon`` runs as an interactive session, its output compared;
- ``console`` runs every line that begins with ``$``, in a shell; lines below it are the expected
  output, ``...`` standing for anything;
- ``console terminal=2`` starts its one command in the background, waits for the output shown, and
  stops it (SIGTERM) at the end of the page;
- ``no-run`` leaves a block alone (commands for another machine, such as systemctl).

Any other language is text.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path

_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=indent)```\s*$", re.M | re.S)
COMMAND_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    language: str
    words: tuple[str, ...]
    body: str
    line: int

    def option(self, name: str) -> str | None:
        """The value of ``name=value`` or ``name="value"`` after the language."""
        for word in self.words:
            key, _, value = word.partition("=")
            if key == name:
                return value.strip('"')
        return None


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found = []
    for match in _FENCE.finditer(text):
        words = match["info"].split()
        found.append(
            Block(
                language=words[0] if words else "",
                words=tuple(words[1:]),
                body=textwrap.dedent(match["body"]),
                line=text.count("\n", 0, match.start()) + 1,
            )
        )
    return found


def matches(expected: str, shown: str) -> bool:
    """Whether output is what a page promises; ``...`` stands for anything."""
    pattern = r"(?s:.*)".join(re.escape(part.strip()) for part in expected.strip().split("..."))
    return re.fullmatch(pattern, shown.strip()) is not None


@dataclass
class PageRun:
    """Runs the blocks of one page in one directory, one after the other."""

    directory: Path
    background: list[tuple[subprocess.Popen[str], Path]] = field(default_factory=list)

    def run(self, block: Block) -> None:
        """Do what a block says; AssertionError when the outcome is not what it shows."""
        title = block.option("title")
        if "no-run" in block.words:
            return
        if title is not None:
            target = self.directory / title
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.body, encoding="utf-8")
        elif block.option("terminal") is not None:
            self._start(block)
        elif block.language == "console":
            self._console(block)
        elif block.language == "pycon":
            self._interactive(block)
        elif block.language == "python":
            self._check([sys.executable, "-c", block.body], "...", block)

    def close(self) -> None:
        """Stop what still runs; a background command must end by itself when told to."""
        for process, log in reversed(self.background):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(COMMAND_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise AssertionError(f"did not stop: {process.args!r}\n{log.read_text()}") from None

    def environment(self) -> dict[str, str]:
        """A home of its own, with the installed commands first on the path."""
        home = str(self.directory / "home")
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("PREFORK_", "CELERY_", "PYTEST_"))}
        path = os.pathsep.join([str(Path(sys.executable).parent), keep.get("PATH", os.defpath)])
        return keep | {
            "HOME": home,
            "XDG_STATE_HOME": f"{home}/state",
            "XDG_RUNTIME_DIR": f"{home}/run",
            "PATH": path,
            "PYTHONPATH": str(self.directory),
            "PYTHONUNBUFFERED": "1",
        }

    def prepare(self) -> None:
        """Make the home directory."""
        (self.directory / "home" / "run").mkdir(parents=True, mode=0o700)

    def _console(self, block: Block) -> None:
        for part in re.split(r"^\$ ", block.body, flags=re.M)[1:]:
            command, _, expected = part.partition("\n")
            self._check(["sh", "-c", command], expected or "...", block)

    def _interactive(self, block: Block) -> None:
        session = self.directory / "session.txt"
        session.write_text(block.body, encoding="utf-8")
        program = (
            "import doctest, sys\n"
            "flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL\n"
            "sys.exit(doctest.testfile('session.txt', module_relative=False, optionflags=flags).failed)\n"
        )
        runner = self.directory / "session_runner.py"
        runner.write_text(program, encoding="utf-8")
        self._check([sys.executable, str(runner)], "...", block)

    def _check(self, command: list[str], expected: str, block: Block) -> None:
        done = subprocess.run(
            command,
            cwd=self.directory,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
        )
        where = f"line {block.line}: {command[-1]}"
        if "exit" not in "".join(block.words):
            assert done.returncode == 0, (
                f"{where}: exit status {done.returncode}\n{done.stdout}{self._logs()}"
            )
        assert matches(expected, done.stdout), (
            f"{where}: expected\n{expected}\nbut got\n{done.stdout}{self._logs()}"
        )

    def _start(self, block: Block) -> None:
        command, _, expected = block.body.removeprefix("$ ").partition("\n")
        log = self.directory / f"background-{len(self.background)}.log"
        with log.open("w", encoding="utf-8") as stream:
            process = subprocess.Popen(
                ["sh", "-c", f"exec {command}"],
                cwd=self.directory,
                env=self.environment(),
                stdout=stream,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
            )
        self.background.append((process, log))
        deadline = time.monotonic() + COMMAND_TIMEOUT_S
        while not matches(expected.rstrip() + "...", log.read_text()):
            assert process.poll() is None, f"line {block.line}: {command} ended\n{log.read_text()}"
            assert time.monotonic() < deadline, (
                f"line {block.line}: expected\n{expected}\nbut got\n{log.read_text()}"
            )
            time.sleep(0.02)

    def _logs(self) -> str:
        return "".join(f"\n--- {log.name}\n{log.read_text()}" for _, log in self.background)

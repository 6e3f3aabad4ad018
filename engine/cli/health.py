"""`prefork health`: ask the workers of this host. Standard library only, no application.

It asks supervisors, which answer from what they know and wait for nobody, so the answer comes at
once or not at all.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
from typing import Any, NamedTuple

from ..control_search import Found, in_directory, of_process, of_user, worker_pid
from ..control_socket import SUFFIX, ControlError, find_sockets, request
from .failures import CommandError, ExitCode
from .options import GlobalOptions
from .output import as_json, complain, say, table

_TIMEOUT_S = 2.0


class Answer(NamedTuple):
    """What one worker said, or why it said nothing."""

    node: str
    pid: str
    healthy: bool
    reasons: list[str]
    details: dict[str, Any]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `health`."""
    parser.add_argument(
        "-n", "--hostname", metavar="NAME", help="only workers of this node name; * and ? may be used"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--runtime-dir", metavar="DIR", help="workers that were started with this XDG_RUNTIME_DIR"
    )
    where.add_argument(
        "--pidfile", metavar="FILE", help="the worker that wrote this pid file, in whatever environment"
    )
    parser.add_argument(
        "-t", "--timeout", type=float, default=_TIMEOUT_S, metavar="SECONDS", help="default 2"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace, options: GlobalOptions) -> int:
    """Exit 0 when every worker found is ready for work; 1 when one is not, or there is none."""
    try:
        found = _found(arguments)
    except (ControlError, OSError, ValueError) as error:
        raise CommandError(f"health: {error}") from error
    asked = [ask(one, arguments.timeout) for one in found]
    answers = [answer for answer in asked if answer is not None]
    if arguments.json:
        say(as_json([answer._asdict() for answer in answers]))
    elif answers:
        rows = [(a.node, a.pid, "ok" if a.healthy else "not ready", _why(a)) for a in answers]
        say(table(("node", "pid", "health", "why"), rows))
    else:
        complain(_nobody(arguments))
    return ExitCode.OK if answers and all(a.healthy for a in answers) else ExitCode.FAILED


def _found(arguments: argparse.Namespace) -> list[Found]:
    """The sockets of the workers that are meant."""
    if arguments.runtime_dir is not None:
        found = in_directory(arguments.runtime_dir)
    elif arguments.pidfile is not None:
        found = of_process(worker_pid(arguments.pidfile))
    else:
        found = [Found(path) for path in find_sockets()]
        if arguments.hostname and not any(_is_meant(one.path, arguments.hostname) for one in found):
            found = of_user()  # perhaps it was started in another environment
    return [one for one in found if _is_meant(one.path, arguments.hostname)]


def _nobody(arguments: argparse.Namespace) -> str:
    if arguments.pidfile is not None:
        return (
            f"no worker with the process number in {arguments.pidfile} can be asked: it does not run, or "
            "this user may not enter its runtime directory"
        )
    if arguments.hostname:
        return "no such worker runs here"
    if arguments.runtime_dir is not None:
        return f"no worker has a socket in {arguments.runtime_dir}"
    return "no worker of this user runs on this host with this XDG_RUNTIME_DIR"


def _why(answer: Answer) -> str:
    """Why it is not ready, or what is wrong although it is."""
    return "; ".join(answer.reasons or [str(note) for note in answer.details.get("notes", ())])


def ask(found: Found, timeout_s: float) -> Answer | None:
    """Ask one worker; None when its socket is what a killed one left behind."""
    path = found.path
    node, pid = _named(path)
    try:
        answer = request(path, {"op": "health"}, timeout_s, uid=found.uid, pid=found.pid)
    except ControlError as error:
        if isinstance(error.__cause__, ConnectionRefusedError | FileNotFoundError) and not _is_worker(pid):
            return None
        return Answer(node, pid, False, [str(error)], {})
    reasons = [str(reason) for reason in answer.get("reasons", ())]
    return Answer(str(answer.get("node", node)), pid, bool(answer.get("ready")), reasons, answer)


def _named(path: str) -> tuple[str, str]:
    """Node name and process id, as the name of the socket has them."""
    node, _, pid = os.path.basename(path).removesuffix(SUFFIX).rpartition("-")
    return node, pid


def _is_meant(path: str, pattern: str | None) -> bool:
    return pattern is None or fnmatch.fnmatchcase(_named(path)[0], pattern)


def _is_worker(pid: str) -> bool:
    """Whether the process of this number may be the worker. Numbers are given again, in containers soon."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as command:
            return command.read().startswith(b"prefork: ")
    except OSError:
        return False

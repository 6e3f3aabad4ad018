"""What `prefork inspect`, `control` and `status` have in common: commands to workers through their broker."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from .failures import CommandError, ExitCode
from .options import GlobalOptions
from .output import as_json, safe, safe_lines, say
from .session import session


class Parameter(NamedTuple):
    """One argument of a command on the command line.

    :param read: makes the value of the text.
    """

    name: str
    read: Callable[[str], Any] = str
    required: bool = False


class RemoteCommand(NamedTuple):
    """One command as people type it.

    :param variadic: the argument that takes what is left, as a list.
    :param answered: workers answer it.
    """

    summary: str
    parameters: Sequence[Parameter] = ()
    variadic: str | None = None
    answered: bool = True

    def signature(self) -> str:
        """Its arguments, for people."""
        shown = [f"<{one.name}>" if one.required else f"[{one.name}]" for one in self.parameters]
        return " ".join([*shown, *([f"[{self.variadic} ...]"] if self.variadic else [])])


_TIMEOUT_S: Final = 1.0
_INDENT: Final = " " * 4


def configure(parser: argparse.ArgumentParser, commands: Mapping[str, RemoteCommand] | None) -> None:
    """Add the options of remote control, and the name of the command, if there are several."""
    if commands is not None:
        listing = ", ".join(commands)
        parser.add_argument("command", nargs="?", metavar="COMMAND", help=f"one of: {listing}")
        parser.add_argument("arguments", nargs="*", metavar="ARGUMENT", help="of the command; see --list")
        parser.add_argument("--list", action="store_true", help="list the commands with their arguments")
    parser.add_argument(
        "-t",
        "--timeout",
        type=float,
        default=_TIMEOUT_S,
        metavar="SECONDS",
        help="how long answers are waited for (default 1)",
    )
    parser.add_argument("-d", "--destination", metavar="A,B", help="only the workers with these node names")
    parser.add_argument("-j", "--json", action="store_true", help="print JSON")


def run(
    kind: str, commands: Mapping[str, RemoteCommand], arguments: argparse.Namespace, options: GlobalOptions
) -> int:
    """Send a command and print what comes back; exits with 69 when nobody answers."""
    if arguments.list:
        _list(commands)
        return ExitCode.OK
    name = arguments.command
    if name is None:
        raise CommandError(f"{kind}: which command? --list shows them", ExitCode.USAGE)
    command = commands.get(name)
    if command is None:
        raise CommandError(f"{kind}: there is no command {name!r}; --list shows them", ExitCode.USAGE)
    compiled = compile_arguments(kind, name, command, arguments.arguments)
    replies = ask(name, compiled, arguments, options, answered=command.answered)
    if not command.answered:
        say(f"{name} was sent; workers do not answer it")
        return ExitCode.OK
    _print(replies, arguments, quiet=options.quiet)
    return ExitCode.OK


def ask(
    name: str,
    compiled: Mapping[str, Any],
    arguments: argparse.Namespace,
    options: GlobalOptions,
    *,
    answered: bool = True,
) -> dict[str, Any]:
    """The answers by node name.

    :raises CommandError: there was none.
    """
    nodes = [one.strip() for one in (arguments.destination or "").split(",") if one.strip()]
    with session(options) as app:
        replies = app.control.broadcast(
            name, compiled, destination=nodes or None, reply=answered, timeout=arguments.timeout
        )
    found = {node: answer for reply in replies or () for node, answer in reply.items()}
    if answered and not found:
        raise CommandError(
            f"no worker replied within {arguments.timeout:g} s (is one running on this broker, with "
            "worker_enable_remote_control, and this -d?)",
            ExitCode.UNAVAILABLE,
        )
    return found


def compile_arguments(kind: str, name: str, command: RemoteCommand, texts: Sequence[str]) -> dict[str, Any]:
    """The arguments of a command by name.

    :raises CommandError: there are too few or too many, or one cannot be read.
    """
    found: dict[str, Any] = {}
    for parameter, text in zip(command.parameters, texts, strict=False):
        try:
            found[parameter.name] = parameter.read(text)
        except ValueError as error:
            raise CommandError(f"{kind} {name}: {parameter.name} {text!r}: {error}", ExitCode.USAGE) from None
    missing = [one.name for one in command.parameters if one.required and one.name not in found]
    rest = list(texts[len(command.parameters) :])
    if missing or (rest and command.variadic is None):
        raise CommandError(f"{kind} {name} takes: {command.signature() or 'no arguments'}", ExitCode.USAGE)
    if command.variadic is not None:
        found[command.variadic] = rest
    return found


def _list(commands: Mapping[str, RemoteCommand]) -> None:
    shown = {f"{name} {command.signature()}".strip(): command.summary for name, command in commands.items()}
    width = max(map(len, shown))
    say("\n".join(f"{usage:<{width}}  {summary}" for usage, summary in shown.items()))


def _print(replies: Mapping[str, Any], arguments: argparse.Namespace, *, quiet: bool) -> None:
    if arguments.json:
        say(as_json(replies))
        return
    for node, answer in sorted(replies.items()):
        status, body = shown(answer)
        say(f"->  {safe(node)}: {status}")
        if body:
            say("\n".join(2 * _INDENT + line for line in safe_lines(body).split("\n")))
    if not quiet:
        count_nodes(len(replies))


def count_nodes(count: int) -> None:
    """Say how many workers there are."""
    say(f"\n{count} {'node' if count == 1 else 'nodes'} online.")


def shown(answer: Any) -> tuple[str, str]:
    """Whether an answer is one of success, and its text."""
    if isinstance(answer, dict) and "ok" in answer:
        return "OK", text_of(answer["ok"])
    if isinstance(answer, dict) and "error" in answer:
        return "ERROR", text_of(answer["error"])
    return "OK", text_of(answer)


def text_of(value: Any) -> str:
    """An answer for people."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        return "\n".join(f"* {_line(one)}" for one in value) if value else "- empty -"
    if isinstance(value, dict) and not value:
        return "- empty -"
    return json.dumps(value, indent=4, default=str, ensure_ascii=False)


def _line(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)

"""The template process: load the application, report, then fork children and the agent.

A fork is a double one: the intermediate process ends at once, so the new process is re-parented
to the supervisor (a child subreaper), which can wait for it. The template answers only when the
intermediate has been reaped, so the pid it reports is the supervisor's own child by then.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import traceback
from typing import Any, NoReturn

from ...transports.errors import TransportError
from ...transports.registry import preload
from ...transports.url import InvalidUrl, redact
from .. import orphans, signals
from ..broker_demands import refuse_unkept
from ..broker_options import publish_url
from ..exceptions import AppNotFound, ImproperlyConfigured
from ..linux import Linux
from ..loaded_app import Loaded, load
from ..process_link import PACKET_BYTES_MAX, ProcessLink, receive, send
from ..process_signals import leave_signals_to_supervisor, show_stacks_on_request
from . import roles
from .threads import unsafe_to_fork

# What the worker ends with, as docs/reference/cli.md says.
EXIT_NO_APP = 2
EXIT_BOOT_FAILED = 3
EXIT_CONFIG = 78
_STDERR = 2


def main(link: ProcessLink) -> None:
    """Run the template. Called by the supervisor in a process it has just forked."""
    # Collected garbage of the import would leave holes that children then fill one by one, each
    # unsharing a page; so nothing is collected before the freeze (CPython's gc.freeze notes).
    gc.disable()
    leave_signals_to_supervisor()
    show_stacks_on_request()
    try:
        loaded = load(link)
        # What agent and children would import each for themselves: shared, it is half of their memory.
        preload(
            publish_url(loaded.config),
            loaded.config.result_backend,
            broker_options=loaded.app.client.transport_options(),
            result_options=loaded.app.client.result_options(),
        )
        refuse_unkept(loaded.app, loaded.config, loaded.options["queues"])
    except (ImproperlyConfigured, TransportError, InvalidUrl) as error:
        # Said by ourselves, and meant for the operator: our frames above it would only be in the way.
        code = EXIT_NO_APP if isinstance(error, AppNotFound) else EXIT_CONFIG
        _say(link, {"op": "boot-failed", "traceback": _shortened(str(error)), "exit_code": code})
        os._exit(EXIT_BOOT_FAILED)
    except BaseException:
        # The lines of source in it may hold the URL of a broker.
        _say(link, {"op": "boot-failed", "traceback": _shortened(redact(traceback.format_exc()))})
        os._exit(EXIT_BOOT_FAILED)
    # From here on it has children to clear up after when the supervisor dies.
    Linux().outlive_parent()
    reasons = _reasons_against_forking(link, loaded)
    _say(link, {"op": "ready", "options": loaded.options, "fresh": bool(reasons), "reasons": reasons})
    if reasons:
        os._exit(0)
    gc.freeze()
    Template(link, loaded).serve()


def _reasons_against_forking(link: ProcessLink, loaded: Loaded) -> list[str]:
    method = loaded.options["start_method"]
    if method == "fresh":
        return ["worker_start_method = fresh"]
    reasons = unsafe_to_fork([link.channel.fileno(), *link.other_sockets()])
    if reasons and method == "template":
        # Asked for by name: obeyed, and said.
        loaded.options["warnings"].append(f"worker_start_method = template in spite of {', '.join(reasons)}")
        return []
    return reasons


def _shortened(text: str) -> str:
    # A control character takes six bytes in a packet.
    return text[-(PACKET_BYTES_MAX // 8) :]


def _say(link: ProcessLink, message: dict[str, Any]) -> None:
    try:
        send(link.channel, message)
    except OSError:
        _abandoned(link)


def _abandoned(link: ProcessLink) -> NoReturn:
    """The channel ended without a word: the supervisor died."""
    orphans.clear_up_after(link.supervisor_pidfd, link.scoreboard)
    os._exit(1)


class Template:
    """Forks on request until the supervisor says so or dies."""

    def __init__(self, link: ProcessLink, loaded: Loaded) -> None:
        self._link = link
        self._loaded = loaded

    def serve(self) -> NoReturn:
        """Answer requests for ever."""
        poller = select.poll()
        poller.register(self._link.channel.fileno(), select.POLLIN)
        poller.register(self._link.supervisor_pidfd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poller.poll()}
            if self._link.supervisor_pidfd in ready:
                orphans.kill_process_groups(self._link.scoreboard)
                os._exit(1)
            message, fds = receive(self._link.channel)
            if message is None:
                _abandoned(self._link)
            if message["op"] == "exit":
                os._exit(0)
            if message["op"] == "fork":
                self._fork(message, fds)

    def _fork(self, message: dict[str, Any], fds: list[int]) -> None:
        answer: dict[str, Any] = {
            "kind": message["kind"],
            "slot": message.get("slot"),
            "generation": message.get("generation"),
        }
        if message["kind"] == "child":
            signals.worker_before_create_process.send(self._loaded.sender)
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            answer |= {"op": "forked", "pid": self._fork_twice(message, fds)}
        except OSError as error:
            answer |= {"op": "fork-failed", "error": str(error)}
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            for fd in fds:
                os.close(fd)
        _say(self._link, answer)

    def _fork_twice(self, message: dict[str, Any], fds: list[int]) -> int:
        """Make the new process; returns its pid once it is the supervisor's child.

        :raises OSError: it could not be made.
        """
        reading, writing = os.pipe()
        try:
            try:
                intermediate = os.fork()
                if intermediate == 0:
                    self._become(message, fds, reading, writing)
            finally:
                os.close(writing)
            data = os.read(reading, 64)
            os.waitpid(intermediate, 0)
        finally:
            os.close(reading)
        if data.startswith(b"!"):
            raise OSError(data[1:].decode("utf-8", "replace"))
        if not data:
            raise OSError("the intermediate process died")
        return int(data)

    def _become(self, message: dict[str, Any], fds: list[int], reading: int, writing: int) -> NoReturn:
        """Runs in the intermediate process and in the new one, and never gets back to the template."""
        try:
            os.close(reading)
            self._intermediate(message, fds, writing)
        except BaseException:
            # In one piece, so that nothing else gets between its lines.
            os.write(_STDERR, redact(traceback.format_exc()).encode("utf-8", "backslashreplace"))
        finally:
            os._exit(1)

    def _intermediate(self, message: dict[str, Any], fds: list[int], writing: int) -> NoReturn:
        try:
            pid = os.fork()
        except OSError as error:
            _answer(writing, b"!" + str(error).encode()[:60])
            os._exit(1)
        if pid:
            _answer(writing, str(pid).encode())
            os._exit(0)
        os.close(writing)
        self._link.channel.close()
        if message["kind"] == "agent":
            channel = socket.socket(fileno=fds[0])
            roles.run_agent(self._link, self._loaded, channel)
        roles.run_child(self._link, self._loaded, message["slot"], message["generation"])


def _answer(writing: int, data: bytes) -> None:
    try:
        os.write(writing, data)
    except BrokenPipeError:
        os._exit(1)  # the template was killed meanwhile: the supervisor sees to what it has not heard of

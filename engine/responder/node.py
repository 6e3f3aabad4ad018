"""Listens for requests of remote control and answers them, in a thread of its own.

Nothing that the worker does keeps it from answering, and nothing that it waits for keeps the worker from
its duties. Whatever a request holds, the worst that comes of it is an answer that says so.
"""

from __future__ import annotations

import logging
import os
import select
import threading
from collections.abc import Callable
from typing import Any, Final

from ...serializers.base import EncodeError
from ...transports.base import Message
from ...transports.errors import TransportError
from ...transports.mailbox import Controls, Mailbox, reply_exchange
from ..clock import wall_s
from ..control.addressing import is_addressed
from ..control.collecting import Asker, controls_of
from ..control.wire import (
    MalformedControl,
    Reply,
    Request,
    control_table,
    decode_request,
    encode_reply,
    queue_of,
)
from .cancelling import revoked_ids, tellable
from .panel import COMMANDS, perform
from .side import WorkerSide

_log = logging.getLogger("prefork.control")

# Only `receive` notices that a silent server has gone.
_LOOK_S: Final = 2.0
_RETRY_S: Final = 1.0
_START_S: Final = 0.5
_MINGLE_S: Final = 1.0
_LEAVE_S: Final = 2.0
_SAID_MAX: Final = 1000
# Clocks of hosts differ: a client whose clock is behind must not be taken for one that has gone.
_SKEW_S: Final = 5.0


class Node:
    """One worker's end of remote control.

    :param mingle: ask the other workers at the start what they know.
    """

    def __init__(self, side: WorkerSide, *, mingle: bool = True) -> None:
        config = side.loaded.config
        self._side = side
        self._controls: Controls = controls_of(side.storage.transport)
        self._exchange: str = config.control_exchange
        self._reply_exchange = reply_exchange(self._exchange)
        self._queue = queue_of(config)
        self._serializer: str = config.task_serializer
        self._table = control_table(config)
        if "pickle" in config.accept_content:
            self._table.allow_unpickling()  # the configuration trusts whoever can reach the broker
        self._stop_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)  # written by who closes
        self._stopped = threading.Event()
        self._listening = threading.Event()
        # Written by the thread from now on.
        self._mingle = mingle
        self._mailbox: Mailbox | None = None
        self._said: set[str] = set()
        self._away = False
        self._thread = threading.Thread(target=self._run, name="prefork-control", daemon=True)

    def start(self) -> None:
        """Listen from now on, unless the broker keeps us waiting: then as soon as it is there."""
        self._thread.start()
        self._listening.wait(_START_S)

    def close(self) -> None:
        """Stop listening; a command that is being carried out is waited for, but not for long.

        Safe to call twice.
        """
        if self._stop_fd < 0:
            return
        self._stopped.set()
        os.eventfd_write(self._stop_fd, 1)
        if self._thread.is_alive():
            self._thread.join(_LEAVE_S)
        if not self._thread.is_alive():
            fd, self._stop_fd = self._stop_fd, -1
            os.close(fd)

    # --- listening --------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                self._turn()
        finally:
            self._forget_mailbox()

    def _forget_mailbox(self) -> None:
        mailbox, self._mailbox = self._mailbox, None
        try:
            if mailbox is not None:
                mailbox.close()
        except (TransportError, OSError) as error:
            _log.warning("remote control: what was listened at is left to its end: %s", error)

    def _turn(self) -> None:
        try:
            mailbox = self._mailbox
            if mailbox is None:
                mailbox = self._mailbox = self._controls.mailbox(self._exchange, self._side.node, self._queue)
                self._listening.set()
                if self._mingle:
                    self._mingle = False
                    # Beside the answers to others, which must not wait for it.
                    threading.Thread(target=self._greet, name="prefork-mingle", daemon=True).start()
            self._wait(mailbox.fileno(), _LOOK_S)
            messages = [] if self._stopped.is_set() else mailbox.receive()
        except (TransportError, OSError) as error:
            if not self._away:
                _log.error("remote control: %s; trying again", error)
            self._away = True
            self._wait(-1, _RETRY_S)
            return
        except Exception:  # noqa: BLE001 - a thread that ended would leave the worker deaf for ever
            self._side.count("unheard")
            if not self._away:
                _log.exception("remote control has failed; listening anew")
            self._away = True
            self._forget_mailbox()
            self._wait(-1, _RETRY_S)
            return
        if self._away:
            self._away = False
            _log.warning("remote control is heard again")
        for message in messages:
            self.take(message)

    def _wait(self, fd: int, timeout_s: float) -> None:
        poller = select.poll()
        for one in (self._stop_fd, fd):
            if one >= 0:
                poller.register(one, select.POLLIN)
        poller.poll(timeout_s * 1000)

    def _greet(self) -> None:
        """Learn from the other workers what is revoked, if there are any."""
        side = self._side
        asker = Asker(lambda: side.storage.transport, side.loaded.config, side.clock)
        hello = Request("hello", {"from_node": side.node, "revoked": tellable(side.revoker.revoked())})
        try:
            replies = asker.ask(hello, _MINGLE_S)
        except TransportError as error:
            _log.warning("nothing is known of what other workers have revoked: %s", error)
            return
        for reply in replies:
            if reply.node != side.node and isinstance(reply.answer, dict):
                side.revoker.load(revoked_ids(reply.answer.get("revoked")))
                side.clock.adjust(reply.answer.get("clock"))

    # --- one request ------------------------------------------------------------------------------

    def take(self, message: Message) -> None:
        """Carry out what a message asks for, if it is for this worker, and answer it. Never raises."""
        try:
            request = decode_request(message, self._table)
            self._side.clock.adjust(request.clock)
            addressed = is_addressed(self._side.node, request.destination, request.pattern, request.matcher)
        except ValueError as error:
            # Whoever asked so gets no answer: nobody knows whom it was meant for.
            self._side.count("malformed" if isinstance(error, MalformedControl) else "misaddressed")
            self._say_once("malformed", "a request of remote control is left out: %s", error)
            return
        except Exception:  # noqa: BLE001 - what nobody thought of must not end the thread that answers
            self._side.count("malformed")
            _log.exception("a request of remote control could not be read")
            return
        if addressed and not self._is_too_late(request):
            self._answer(request)

    def _is_too_late(self, request: Request) -> bool:
        command = COMMANDS.get(request.method)
        if request.expires_wall_s is None or (command is not None and command.changes):
            return False
        late = wall_s() > request.expires_wall_s + _SKEW_S
        if late:
            self._side.count("expired")
        return late

    def _answer(self, request: Request) -> None:
        side = self._side
        side.count("answered")
        answer = perform(side, request.method, request.arguments)
        command = COMMANDS.get(request.method)
        if isinstance(answer, dict) and "error" in answer:
            self._say_error(request.method[:100], str(answer["error"]))
        elif command is not None and command.changes and answer is not None:
            _log.info("%s, on request: %s", request.method, answer)
        if request.reply_to is None or (command is not None and command.silent):
            return
        if request.reply_to.exchange != self._reply_exchange:
            # Where tasks are, a reply has no business; on Redis it would give their list an end.
            side.count("misdirected")
            error = ValueError(f"{request.reply_to.exchange!r} is no exchange for replies")
            self._say_once("misdirected", "an answer of remote control is not sent: %s", error)
            return
        reply = Reply(side.node, answer, request.ticket, side.clock.forward())
        try:
            self._controls.reply(*request.reply_to, self._encoded(reply))
        except Exception as error:  # noqa: BLE001 - a reply that cannot be sent is the asker's loss alone
            side.count("unanswered")
            self._say_once("unanswered", "an answer of remote control could not be sent: %s", error)

    def _encoded(self, reply: Reply) -> Message:
        try:
            return encode_reply(reply, self._table, self._serializer)
        except EncodeError as error:
            return encode_reply(reply._replace(answer={"error": repr(error)}), self._table, self._serializer)

    def _say_error(self, method: str, error: str) -> None:
        """Log an error once: monitors ask the same again every few seconds."""
        what = f"{method}: {error}"
        level = logging.DEBUG if what in self._said else logging.WARNING
        if len(self._said) < _SAID_MAX:
            self._said.add(what)
        _log.log(level, "%s", what)

    def _say_once(self, what: str, text: str, error: Exception) -> None:
        if what not in self._said:
            self._said.add(what)
            _log.warning(text, error)


def start_node(side: WorkerSide, *, mingle: bool, on_none: Callable[[str], Any] = _log.info) -> Node | None:
    """Listen, if the configuration wants it and the broker can carry it.

    :param on_none: told why nobody listens.
    """
    if not side.loaded.config.worker_enable_remote_control:
        on_none("remote control is off (worker_enable_remote_control)")
        return None
    if not isinstance(side.storage.transport, Controls):
        on_none("this transport carries no remote control; `prefork health` asks the workers of a host")
        return None
    node = Node(side, mingle=mingle)
    node.start()
    return node

"""One connection to a Redis server: commands, transactions and scripts.

Whatever goes wrong, everything is thrown away and the next call connects anew from the settings alone.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import hiredis

from ..errors import TransportError
from .connect import open_wire
from .faults import HANGS_UP, RECONNECT, ServerError, from_reply, unreachable
from .settings import RedisSettings
from .wire import Arg, Wire, pack

__all__ = ["Arg", "Link", "Script", "Wire", "script"]

logger = logging.getLogger(__name__)

# A connection that was idle for longer is looked at before it is used: one that the server has closed
# meanwhile then costs a connect, and not a command of unknown outcome.
_IDLE_S = 0.005
# After a connection broke, how long to look for a reply that came before that.
_LAST_WORD_S = 0.1
# Replies that nobody waits for are read at the latest when there are so many: the server would have to
# keep them, however long a task goes on to report its progress.
_UNREAD_MAX = 500


def _hangs_up(reply: Any) -> bool:
    return isinstance(reply, ServerError) and reply.text.startswith(HANGS_UP)


class Script(NamedTuple):
    """A Lua script of ours.

    :param sha: of its text, in hexadecimal.
    """

    name: str
    text: bytes
    sha: str


def script(name: str, text: bytes) -> Script:
    """A script with the checksum by which the server knows it."""
    return Script(name, text, hashlib.sha1(text, usedforsecurity=False).hexdigest())


def _named(command: Arg) -> str:
    return command.decode(errors="replace") if isinstance(command, bytes) else str(command)


class Link:
    """One connection, opened on first use. For one thread at a time.

    Used in another process than the one that connected, it drops the connection without a good-bye and
    opens its own.

    :param name: shown by ``CLIENT LIST``.
    """

    def __init__(self, settings: RedisSettings, *, name: str = "") -> None:
        self.settings = settings
        self.home: object = None  # the pool that it belongs to, in its present life; written by that pool
        self._name = "-".join((name or settings.client_name or "prefork").split())
        self._wire: Wire | None = None
        self._pid = 0
        self._used_mono_s = 0.0
        self._first = 0  # the address tried first: the one that worked last
        self._ends_mono_s = 0.0  # of the whole operation; 0.0 is none
        self._unread: list[str] = []  # scripts sent whose replies were not read yet
        self._known: set[str] = set()  # scripts that this connection has seen the server load
        self._warned: set[str] = set()

    # -- commands -----------------------------------------------------------------------------

    def call(self, *args: Arg, timeout_s: float | None = None) -> Any:
        """Run one command and return its reply.

        :param timeout_s: how long the answer may take; None means ``socket_timeout_s``. A command that
            blocks in the server needs more than what it is told to wait.
        :raises BrokerUnavailable: no connection, or no answer (`outcome_unknown` says which).
        :raises TransportError: the server refused (see `faults`).
        """
        return self._checked(self._exchange(pack(args), 1, timeout_s)[0], _named(args[0]))

    def many(
        self, commands: Sequence[Sequence[Arg]], *, atomic: bool = False, tolerant: bool = False
    ) -> list[Any]:
        """Run several commands in one round trip and return their replies.

        :param atomic: in one transaction: all or none.
        :param tolerant: return a refusal in the place of its reply instead of raising the first.
        :raises BrokerUnavailable: as in `call`; without `atomic` some may have been executed.
        """
        if not commands:
            return []
        packed = [pack(command) for command in commands]
        if atomic:
            return self._transaction(commands, packed)
        replies = self._exchange(b"".join(packed), len(packed), None, first_bytes=len(packed[0]))
        return self._all_checked(replies, [_named(command[0]) for command in commands], tolerant)

    def _transaction(self, commands: Sequence[Sequence[Arg]], packed: list[bytes]) -> list[Any]:
        data = b"".join([pack(("MULTI",)), *packed, pack(("EXEC",))])
        replies = self._exchange(data, len(packed) + 2, None)
        names = ["MULTI", *(_named(command[0]) for command in commands), "EXEC"]
        # Refused while it was queued: that says more than the EXECABORT which follows from it.
        self._all_checked(replies, names, False)
        done: list[Any] = replies[-1]
        return self._all_checked(done, names[1:-1], False)

    # -- scripts ------------------------------------------------------------------------------

    def run(
        self, script: Script, keys: Sequence[Arg], args: Sequence[Arg], *, timeout_s: float | None = None
    ) -> Any:
        """Run a script; one that the server does not know (any more) is loaded first.

        :raises TransportError: as in `call`.
        """
        data = pack(["EVALSHA", script.sha, len(keys), *keys, *args])
        reply = self._exchange(data, 1, timeout_s)[0]
        if isinstance(reply, ServerError) and reply.word == "NOSCRIPT":
            loading = pack(("SCRIPT", "LOAD", script.text))
            loaded, reply = self._exchange(loading + data, 2, timeout_s, first_bytes=len(loading) + len(data))
            self._checked(loaded, "SCRIPT LOAD")
        self._known.add(script.sha)
        return self._checked(reply, script.name)

    def send_only(
        self, script: Script, keys: Sequence[Arg], args: Sequence[Arg], *, more: bool = False
    ) -> None:
        """Send a script and do not wait: its reply is read before the next one, and only logged.

        It is lost when the connection breaks, or when the server forgot the script just now.

        :param more: other commands follow soon: it may leave with them, or after at most 200 ms.
        :raises BrokerUnavailable: it could not be sent.
        """
        data = pack(["EVALSHA", script.sha, len(keys), *keys, *args])
        wire = self._ready(None)
        if len(self._unread) >= _UNREAD_MAX:
            self._catch_up(wire)
        expected = [script.name]
        if script.sha not in self._known:
            data = pack(("SCRIPT", "LOAD", script.text)) + data
            expected.insert(0, "SCRIPT LOAD")
            self._known.add(script.sha)
        try:
            wire.write(data, more=more)
        except (OSError, hiredis.HiredisError) as error:
            raise self._broken(error, unknown=wire.sent_bytes >= len(data)) from None
        except BaseException:
            self.close()
            raise
        self._unread += expected

    # -- the connection -----------------------------------------------------------------------

    def connection(self, *, protocol: int = 3, name: str = "") -> Wire:
        """Connect once more, for somebody who waits for push messages; the caller closes it.

        :raises BrokerUnavailable: the server cannot be reached.
        """
        return self._connect(self._limit_s(None), protocol, name or self._name)

    def close(self) -> None:
        """Drop the connection. Safe to call twice; a further call of anything else connects again."""
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()
        self._unread.clear()
        self._known.clear()

    @property
    def connected(self) -> bool:
        """Whether a connection of this process is held (it may be dead without our knowing)."""
        return self._wire is not None and self._pid == os.getpid()

    def bound(self, ends_mono_s: float) -> None:
        """Until further notice everything ends by this time of the monotonic clock; 0.0 lifts it."""
        self._ends_mono_s = ends_mono_s

    def _limit_s(self, timeout_s: float | None) -> float:
        limit_s = self.settings.socket_timeout_s if timeout_s is None else timeout_s
        if self._ends_mono_s:
            left_s = self._ends_mono_s - time.monotonic()
            if left_s <= 0.0:
                raise unreachable(self.settings.shown, "the time for the whole operation is over")
            limit_s = min(limit_s, left_s)
        return limit_s

    def _connect(self, limit_s: float, protocol: int, name: str) -> Wire:
        try:
            return open_wire(self.settings, name=name, first=self._first, limit_s=limit_s, protocol=protocol)
        except TransportError:
            self._first = (self._first + 1) % len(self.settings.endpoints)
            raise

    def _ready(self, timeout_s: float | None) -> Wire:
        wire = self._wire
        if wire is not None:
            now_mono_s = time.monotonic()
            idle = now_mono_s - self._used_mono_s > _IDLE_S
            if self._pid != os.getpid() or (idle and not self._unread and wire.can_read()):
                self.close()
                wire = None
            self._used_mono_s = now_mono_s
        limit_s = self._limit_s(timeout_s)
        if wire is None:
            wire = self._connect(min(limit_s, self._connect_limit_s()), 2, self._name)
            self._wire = wire
            self._pid = os.getpid()
            self._used_mono_s = time.monotonic()
            limit_s = self._limit_s(timeout_s)
        wire.begin(limit_s)
        return wire

    def _connect_limit_s(self) -> float:
        # Every address of a failover list gets its chance, unless a deadline forbids.
        return self.settings.connect_timeout_s * len(self.settings.endpoints)

    def _exchange(
        self, data: bytes, count: int, timeout_s: float | None, *, first_bytes: int = 0
    ) -> list[Any]:
        """Send, then read `count` replies. What fails here has broken the connection.

        :param first_bytes: from how many sent bytes on something may have been executed; 0 means all.
        """
        wire = self._ready(timeout_s)
        sent = False
        replies: list[Any] = []
        try:
            wire.write(data)
            sent = True
            if self._unread:
                self._read_unread(wire)
            if count == 1:
                return [wire.read()]
            for _ in range(count):
                replies.append(wire.read())
            return replies
        except (OSError, hiredis.HiredisError) as error:
            if refusal := self._refusal(wire, error, replies):
                raise refusal from None
            unknown = sent or wire.sent_bytes >= (first_bytes or len(data))
            raise self._broken(error, unknown=unknown) from None
        except BaseException:
            self.close()
            raise

    def _broken(self, error: Exception, *, unknown: bool) -> TransportError:
        where = self._wire.where if self._wire is not None else self.settings.shown
        self.close()
        return unreachable(where, error, outcome_unknown=unknown)

    def _catch_up(self, wire: Wire) -> None:
        try:
            self._read_unread(wire)
        except (OSError, hiredis.HiredisError) as error:
            raise self._broken(error, unknown=False) from None
        except BaseException:
            self.close()
            raise

    def _refusal(self, wire: Wire, error: Exception, replies: list[Any]) -> TransportError | None:
        """What the server said before it hung up: it does not wait for the end of what is too large."""
        try:
            while not (isinstance(error, TimeoutError) or (replies and _hangs_up(replies[-1]))):
                replies.append(wire.read_response(_LAST_WORD_S))
        except (OSError, hiredis.HiredisError):
            return None  # it said nothing: the first error tells more
        if not replies or not _hangs_up(replies[-1]):
            return None
        refusal = self._error(replies[-1], "a command")
        self.close()
        return refusal

    def _read_unread(self, wire: Wire) -> None:
        names, self._unread = self._unread, []
        for name in names:
            reply = wire.read()
            if not isinstance(reply, ServerError):
                continue
            if reply.word == "NOSCRIPT":
                self._known.clear()
            if name + reply.word not in self._warned:
                self._warned.add(name + reply.word)
                logger.warning("%s", self._error(reply, name))

    def _error(self, reply: ServerError, command: str) -> TransportError:
        where = self._wire.where if self._wire is not None else self.settings.shown
        return from_reply(reply, where=where, user=self.settings.user, command=command)

    def _checked(self, reply: Any, command: str) -> Any:
        if isinstance(reply, ServerError):
            error = self._error(reply, command)
            if reply.word in RECONNECT or _hangs_up(reply):
                self.close()
                self._first = (self._first + 1) % len(self.settings.endpoints)
            raise error
        return reply

    def _all_checked(self, replies: list[Any], names: Sequence[str], tolerant: bool) -> list[Any]:
        refused = [index for index, reply in enumerate(replies) if isinstance(reply, ServerError)]
        for index in refused:
            try:
                self._checked(replies[index], names[index])
            except TransportError as error:
                if not tolerant:
                    raise
                replies[index] = error
        return replies

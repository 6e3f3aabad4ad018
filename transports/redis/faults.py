"""What goes wrong with a Redis server, as the errors of the port.

Three sources: the system (refused, reset, timed out), the server's error replies, and our own scripts,
which raise ``PREFORK <WORD> <detail>``. No message ever holds a password.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from ..errors import BrokerFull, BrokerUnavailable, TransportError, Unacceptable

# What Redis 6.2 makes of an error that a command inside a script met; later versions send it as it is.
_WRAPPED = re.compile(
    r"(?:ERR Error running script .*?)?@user_script: ?\d+: (?:@user_script: ?\d+: )?-?(?P<said>.*)", re.S
)
# A missing right inside a script, in the words of 6.2 and 7, of 8 and of Valkey.
_NO_RIGHT = re.compile(r"(?:ERR )?(?:The user executing the script can't|ACL failure in script)")


class ServerError(Exception):
    """An error reply. Never leaves this package."""

    @property
    def text(self) -> str:
        """The whole line, such as ``NOSCRIPT No matching script.``, as recent servers would say it."""
        said = str(self.args[0]) if self.args else ""
        wrapped = _WRAPPED.match(said)
        if wrapped is not None:
            said = wrapped[1]
        return f"NOPERM {said}" if _NO_RIGHT.match(said) else said

    @property
    def word(self) -> str:
        """Its first word in capitals, which says what kind it is."""
        return self.text.partition(" ")[0].upper()


class WrongKeyType(TransportError):
    """A key holds something else than this transport keeps there; only its own queue is affected.

    :param key: the key, as the server names it; empty where the server did not say.
    """

    def __init__(self, key: str, message: str) -> None:
        super().__init__(key, message)
        self.key = key
        self.message = message

    def __str__(self) -> str:
        return self.message


class DamagedOwner(TransportError):
    """The entry of an owner cannot be read, so nobody knows where what it holds came from.

    :param owner: its name.
    """

    def __init__(self, owner: str, message: str) -> None:
        super().__init__(owner, message)
        self.owner = owner
        self.message = message

    def __str__(self) -> str:
        return self.message


class CommandRefused(TransportError):
    """The server refused a command for what it says: a fault of this program or of the server's version.

    :param word: the first word of the server's answer.
    """

    def __init__(self, word: str, message: str) -> None:
        super().__init__(word, message)
        self.word = word
        self.message = message

    def __str__(self) -> str:
        return self.message


class ScriptError(TransportError):
    """A script of this transport refused, with ``PREFORK <WORD> <detail>``, before it wrote anything."""

    def __init__(self, word: str, detail: str, message: str) -> None:
        super().__init__(word, detail, message)
        self.word = word
        self.detail = detail
        self.message = message

    def __str__(self) -> str:
        return self.message


RECONNECT: frozenset[str] = frozenset(
    {"READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "NOAUTH", "WRONGPASS", "NOREPLICAS", "UNBLOCKED"}
)
"""After these the next command goes over a new connection: the old one leads to the wrong server."""

HANGS_UP = "ERR Protocol error"
"""How the server begins when it takes a command for none, and ends the connection."""

_TOO_LARGE = ("invalid bulk length", "invalid multibulk length", "exceeds maximum allowed size")

_REMEDY: Mapping[str, str] = MappingProxyType(
    {
        "LOADING": "it still loads its data; it answers once that is done",
        "READONLY": "it is a replica now (failover); the address must lead to the primary",
        "MASTERDOWN": "it is a replica that lost its primary; see replica-serve-stale-data",
        "MISCONF": "it cannot save to disk and refuses writes; see its log, free its disk, or set "
        "stop-writes-on-bgsave-error no",
        "NOREPLICAS": "too few replicas follow it; see min-replicas-to-write",
        "CLUSTERDOWN": "its cluster is down",
        "TRYAGAIN": "its cluster moves these keys just now",
        "MOVED": "it is part of a Redis Cluster, which is not supported; use one primary",
        "CROSSSLOT": "it is part of a Redis Cluster, which is not supported; use one primary",
        "BUSY": "it is busy with a script; see SCRIPT KILL",
        "UNBLOCKED": "the wait was ended by the server",
        "NOAUTH": "it asks for a password; put one into the URL",
        "WRONGPASS": "user name and password do not belong together, or the user is disabled",
        "ERR AUTH": "correct user name and password in the URL",
        "NOPERM": "grant the user what docs name for this transport (ACL SETUSER)",
        "ERR max": "raise its maxclients, or run fewer processes",
    }
)


def from_reply(error: ServerError, *, where: str, user: str | None, command: str) -> TransportError:
    """The error that an error reply stands for.

    :param where: the server, without secrets.
    :param command: name of the command or script that was refused.
    """
    word, text = error.word, error.text
    if word == "PREFORK":
        return _from_script(text, where=where, command=command)
    if word == "WRONGTYPE" or "WRONGTYPE" in text:
        return WrongKeyType("", f"redis at {where} refused {command}: {text}")
    if word == "OOM" or "-OOM " in text or "OOM command not allowed" in text:
        return BrokerFull(
            f"redis at {where} is out of memory and refused {command}; raise its maxmemory, or drain its "
            "queues"
        )
    if word in ("NOPERM", "NOAUTH", "WRONGPASS"):
        who = f"user {user!r}" if user else "the default user"
        return BrokerUnavailable(f"redis at {where} refused {command} to {who} ({word}): {_REMEDY[word]}")
    for start in (word, "ERR AUTH", "ERR max"):
        if start in _REMEDY and text.upper().startswith(start.upper()):
            return BrokerUnavailable(f"redis at {where} refused {command} ({word}): {_REMEDY[start]}")
    if any(complaint in text for complaint in _TOO_LARGE):
        return Unacceptable(
            f"redis at {where} refused {command}: {text}. It takes nothing larger than its "
            "proto-max-bulk-len: keep large data elsewhere and pass on where they are, or raise that"
        )
    if word == "EXECABORT":
        return CommandRefused(word, f"redis at {where} refused a transaction: {text}")
    return CommandRefused(word, f"redis at {where} refused {command}: {text}")


def _from_script(text: str, *, where: str, command: str) -> TransportError:
    _prefork, _space, rest = text.partition(" ")
    word, _space, detail = rest.partition(" ")
    if word == "WRONGTYPE":
        return WrongKeyType(
            detail,
            f"the key {detail!r} in redis at {where} is not of the type that prefork keeps there; "
            f"{command} changed nothing. Rename or delete the key",
        )
    return ScriptError(word, detail, f"{command} refused in redis at {where}: {word} {detail}".rstrip())


def refused_to_publish(where: str, user: str | None) -> str:
    """What an operator is told whose user may store results, and announce none."""
    return (
        f"results or broadcasts were not announced: redis at {where} does not let the user "
        f"{user or 'default'!r} publish them, so nobody who waits is told; grant it PUBLISH and the channels "
        "(ACL SETUSER)"
    )


def unreachable(where: str, why: object, *, outcome_unknown: bool = False) -> BrokerUnavailable:
    """The server did not take or answer a command.

    :param why: what the system said.
    :param outcome_unknown: whether the command may have been executed.
    """
    said = str(why) or type(why).__name__
    if outcome_unknown:
        said += "; the command was sent and may have been executed"
    return BrokerUnavailable(f"redis at {where} is unavailable: {said}", outcome_unknown=outcome_unknown)


def pause_before_reconnect_s(
    failed: int, jitter: float, *, first_s: float = 0.05, cap_s: float = 1.0
) -> float:
    """How long to wait before attempt number `failed` + 1 to connect: doubling, spread, capped.

    The cap keeps the promise that consumption goes on within 5 s of the server's return.

    :param failed: attempts that failed in a row; 0 waits not at all.
    :param jitter: in 0..1, a fresh random number; the pause lies between half and the whole of its step.
    """
    if failed <= 0:
        return 0.0
    step_s = min(cap_s, first_s * 2.0 ** min(failed - 1, 30))
    return step_s * (0.5 + 0.5 * jitter)

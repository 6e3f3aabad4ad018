"""Broker and result store URLs: parsed once, shown without their secrets.

A `Url` never shows its password or a secret-looking query value in ``str`` or ``repr``; whoever needs
the whole text asks for it by name (`Url.with_secrets`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, unquote

MASK = "**"

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*\Z")
_SECRET_KEY = re.compile(r"pass|pwd|secret|token|key|signature|credential|auth", re.IGNORECASE)
_UNSAFE = re.compile(r"[\x00-\x20\x7f]")

# Greedy up to the last "@" before the next URL begins: a password with a raw "/" or "@" in it must
# be hidden as well, at the price of hiding a harmless "@" further right.
_USERINFO = re.compile(
    r"(?P<head>[A-Za-z][A-Za-z0-9+.\-]*://)(?P<info>(?:(?![;,]?[A-Za-z][\w+.\-]*://)\S)*)@"
)
_QUERY_VALUE = re.compile(r"(?P<lead>[?&;])(?P<key>[^=&;?\s]+)=(?P<value>[^&;\s'\"<>]*)")


class InvalidUrl(ValueError):
    """A text is not the URL of a broker or a result store.

    :param shown: the text without its secrets.
    :param why: what is wrong and what to write instead.
    """

    def __init__(self, shown: str, why: str) -> None:
        super().__init__(shown, why)
        self.shown = shown
        self.why = why

    def __str__(self) -> str:
        return f"{self.shown!r} is not a usable URL: {self.why}"


@dataclass(frozen=True, slots=True, repr=False)
class Url:
    """One broker or result store address. All parts are decoded.

    :param host: as written; the name of a memory broker is case-sensitive.
    :param path: with its leading slash, or empty.
    :param query: pairs in the order given; a key may repeat.
    """

    scheme: str
    user: str | None = None
    password: str | None = None
    host: str = ""
    port: int | None = None
    path: str = ""
    query: tuple[tuple[str, str], ...] = ()

    @property
    def options(self) -> Mapping[str, str]:
        """The query as a mapping; the last of a repeated key wins."""
        return dict(self.query)

    def with_secrets(self) -> str:
        """The whole URL, passwords included. Never log it."""
        return self._text(masked=False)

    def _text(self, *, masked: bool) -> str:
        return f"{self.scheme}://{self._authority(masked)}{quote(self.path, safe='/')}{self._query(masked)}"

    def _authority(self, masked: bool) -> str:
        info = ""
        if self.user is not None or self.password is not None:
            info = quote(self.user or "", safe="")
            if self.password is not None:
                info += ":" + (MASK if masked else quote(self.password, safe=""))
            info += "@"
        host = f"[{self.host}]" if ":" in self.host else quote(self.host, safe="")
        port = "" if self.port is None else f":{self.port}"
        return f"{info}{host}{port}"

    def _query(self, masked: bool) -> str:
        if not self.query:
            return ""
        pairs = []
        for key, value in self.query:
            shown = MASK if masked and _SECRET_KEY.search(key) else quote(value, safe="/")
            pairs.append(f"{quote(key, safe='')}={shown}")
        return "?" + "&".join(pairs)

    def __str__(self) -> str:
        return self._text(masked=True)

    def __repr__(self) -> str:
        return f"Url({self._text(masked=True)!r})"


def parse(text: str) -> Url:
    """Read one URL: ``scheme://[user[:password]@][host][:port][/path][?key=value&...]``.

    ``scheme:`` and ``scheme:/path`` are taken as well. Parts are percent-decoded.

    :raises InvalidUrl: for anything else; the error shows the text without its secrets.
    """
    shown = redact(text)
    scheme, colon, rest = text.partition(":")
    if "@" in rest and not rest.startswith("//"):
        # The slashes were forgotten: what stands before the last @ may be a password all the same.
        shown = redact(f"{scheme}:{MASK}@{rest.rpartition('@')[2]}")
    if not colon or not _SCHEME.match(scheme):
        raise InvalidUrl(shown, "it must begin with a scheme, such as filesystem:// or redis://")
    if ";" in rest.partition("?")[0]:
        raise InvalidUrl(shown, "it names several servers; write %3B for a semicolon that is meant as such")
    if _UNSAFE.search(rest):
        raise InvalidUrl(shown, "it holds a space or a control character; percent-encode it")
    authority = ""
    if rest.startswith("//"):
        rest, query = _split(rest[2:], "?")
        authority, path = _split_authority(rest)
    else:
        path, query = _split(rest, "?")
        if path and not path.startswith("/"):
            # Neither a host nor a path: `redis:localhost` is one of them only to whoever wrote it.
            raise InvalidUrl(shown, "write :// and a host after the scheme, or :/// and a path")
    if authority and "@" not in authority and "@" in path + query:
        raise InvalidUrl(shown, "write %2F and %3F for / and ? in a password, %40 for @ in a path or query")
    user, password, server = _split_userinfo(authority)
    host, port = _split_port(server, shown)
    return Url(
        scheme=scheme.lower(),
        user=user,
        password=password,
        host=unquote(host),
        port=port,
        path=unquote(path),
        query=tuple(_pairs(query)),
    )


def parse_failover(text: str) -> tuple[Url, ...]:
    """Read a failover list: URLs separated by ``;``, as kombu writes them.

    :raises InvalidUrl: for a URL that cannot be read, and for a list of different schemes.
    """
    parts = [part for part in text.split(";") if part]
    if not parts:
        raise InvalidUrl(redact(text), "it is empty")
    urls = tuple(parse(part) for part in parts)
    schemes = sorted({url.scheme for url in urls})
    if len(schemes) > 1:
        raise InvalidUrl(redact(text), f"a failover list must have one scheme, not {' and '.join(schemes)}")
    return urls


def redact(text: str) -> str:
    """Mask the passwords and secret-looking query values of every URL in a text. Never raises."""
    return _QUERY_VALUE.sub(_mask_query, _USERINFO.sub(_mask_userinfo, text))


def _mask_userinfo(match: re.Match[str]) -> str:
    user, colon, _password = match["info"].partition(":")
    return f"{match['head']}{user}{colon}{MASK if colon else ''}@"


def _mask_query(match: re.Match[str]) -> str:
    key = unquote(match["key"])
    value = MASK if _SECRET_KEY.search(key) else match["value"]
    return f"{match['lead']}{match['key']}={value}"


def _split(text: str, mark: str) -> tuple[str, str]:
    head, _mark, tail = text.partition(mark)
    return head, tail


def _split_authority(text: str) -> tuple[str, str]:
    authority, slash, path = text.partition("/")
    return authority, slash + path


def _split_userinfo(authority: str) -> tuple[str | None, str | None, str]:
    info, at, server = authority.rpartition("@")
    if not at:
        return None, None, server
    user, colon, password = info.partition(":")
    return unquote(user) or None, unquote(password) if colon else None, server


def _split_port(server: str, shown: str) -> tuple[str, int | None]:
    if server.startswith("["):
        host, bracket, tail = server[1:].partition("]")
        if not bracket or (tail and not tail.startswith(":")):
            raise InvalidUrl(shown, "an IPv6 address must stand in brackets: [::1]:6379")
        port = tail[1:]
    else:
        host, _colon, port = server.partition(":")
    if not port:
        return host, None
    if not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise InvalidUrl(shown, "the port is not a number up to 65535")
    return host, int(port)


def _pairs(query: str) -> list[tuple[str, str]]:
    pairs = []
    for item in query.split("&"):
        if item:
            key, _equals, value = item.partition("=")
            pairs.append((unquote(key), unquote(value)))
    return pairs

"""Where a Redis server is: the addresses that a broker or result URL names.

Forms: ``redis://[user:password@]host[:6379][/db]``, ``rediss://`` (TLS), ``redis+socket:///path?virtual_host=db``,
``sentinel://host:26379/db``; several of them, separated by ``;``, are a failover list (interop §5.10).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..url import InvalidUrl, Url, parse_failover

SCHEMES = ("redis", "rediss", "redis+socket", "sentinel")
_PORTS = {"redis": 6379, "rediss": 6379, "sentinel": 26379}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One place to connect to.

    :param host: name or address; empty for a Unix socket.
    :param path: of the Unix socket; empty for TCP.
    """

    host: str = ""
    port: int = 0
    path: str = ""
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        """The place without user and password, for messages."""
        if self.path:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Address:
    """What one URL, or a failover list of them, says.

    :param shown: the URLs without their secrets.
    :param db: number of the database; the last of the list that names one wins.
    :param query: options in the query, of all URLs; the last of a repeated one wins.
    """

    scheme: str
    endpoints: tuple[Endpoint, ...]
    db: int
    query: dict[str, str] = field(repr=False)
    shown: str


def parse_address(text: str) -> Address:
    """Read the URL of a Redis broker or result store, or a failover list.

    :raises InvalidUrl: it is none; the error shows it without its secrets.
    """
    urls = parse_failover(text)
    if urls[0].scheme not in SCHEMES:
        raise InvalidUrl(str(urls[0]), f"its scheme must be one of {', '.join(SCHEMES)}")
    query: dict[str, str] = {}
    db = 0
    for url in urls:
        query.update(url.options)
        named = _database(url)
        db = db if named is None else named
    return Address(
        scheme=urls[0].scheme,
        endpoints=tuple(_endpoint(url) for url in urls),
        db=db,
        query=query,
        shown=";".join(str(url) for url in urls),
    )


def _endpoint(url: Url) -> Endpoint:
    if url.scheme == "redis+socket":
        path = ("/" + url.host if url.host else "") + url.path
        if not path.strip("/"):
            raise InvalidUrl(str(url), "it names no socket; write redis+socket:///path/of/redis.sock")
        return Endpoint(path=path, user=url.user, password=url.password)
    port = url.port if url.port is not None else _PORTS[url.scheme]
    return Endpoint(host=url.host or "localhost", port=port, user=url.user, password=url.password)


def _database(url: Url) -> int | None:
    if url.scheme == "redis+socket":
        text = url.options.get("virtual_host") or url.options.get("db") or ""
    else:
        text = url.path.strip("/") or url.options.get("db", "")
    text = text.strip("/")
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        raise InvalidUrl(str(url), f"the database must be a number, not {text!r}; write redis://host/0")
    return int(text)

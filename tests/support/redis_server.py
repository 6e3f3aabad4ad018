"""Private Redis servers for tests: on a free port or a socket, ended by the one who started them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from support.ports import free_port
from support.servers import servers
from support.tls_front import TlsFront
from support.waiting import eventually

PLACES = "/usr/local/bin:/usr/bin:/usr/sbin:/opt/redis/bin"


def redis_binary(name: str = "redis-server") -> str:
    """Where the server program is."""
    for candidate in (name, name.replace("redis", "valkey")):
        found = shutil.which(candidate, path=os.environ.get("PATH", "") + ":" + PLACES)
        if found:
            return found
    raise AssertionError(
        f"{name} is not installed; run tests/support/provide_brokers.py as root, or install redis 6.2"
    )


def speaks_tls() -> bool:
    """Whether the server program was built with TLS: it says which line it does not know."""
    config = b"tls-port 0\nport 99999999\n"
    done = subprocess.run([redis_binary(), "-"], input=config, capture_output=True, timeout=20, check=False)
    return b">>> 'tls-port" not in done.stdout + done.stderr


class RedisServer:
    """One server process in its own directory, with nothing on disk unless asked.

    :param config: settings as in redis.conf.
    :param tls: serve TLS with the files ``ca.crt``, ``server.crt``, ``server.key`` of this directory.
    :param kind: ``server`` or ``sentinel``.
    """

    def __init__(
        self,
        config: Mapping[str, str | int | Sequence[str]] | None = None,
        *,
        unix: bool = False,
        tls: Path | None = None,
        password: str | None = None,
        users: Sequence[str] = (),
        kind: str = "server",
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="prefork-redis-"))
        self.port = 0 if unix else free_port()
        self.path = self.directory / "redis.sock" if unix else None
        self.tls = tls
        self._plain_port = 0 if tls is None or speaks_tls() else free_port()
        self._front = TlsFront(self.port, self._plain_port, tls) if tls and self._plain_port else None
        self.password = password
        self._config = dict(config or {})
        self._users = list(users)
        self._kind = kind
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    # -- addresses ----------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Its URL, database 0."""
        return self.url_of(0)

    def url_of(self, db: int = 0, *, user: str = "", password: str | None = None) -> str:
        """Its URL for a database and a user."""
        word = password if password is not None else self.password
        login = f"{user}:{word}@" if word is not None else ""
        if self.path is not None:
            return f"redis+socket://{login}{self.path}?virtual_host={db}"
        if self.tls is not None:
            return f"rediss://{login}localhost:{self.port}/{db}?ssl_ca_certs={self.tls / 'ca.crt'}"
        return f"redis://{login}127.0.0.1:{self.port}/{db}"

    @property
    def _asked_port(self) -> int:
        """Where this process itself asks."""
        return self._plain_port or self.port

    # -- life ---------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """Of the running server."""
        assert self._process is not None
        return self._process.pid

    def start(self, *, loaded: bool = True) -> None:
        """Start it and wait until it answers.

        :param loaded: False is content with a server that still loads its data.
        """
        assert self._process is None, "it runs already"
        config = self.directory / "redis.conf"
        config.write_text("\n".join(self._lines()) + "\n")
        command = [redis_binary(), str(config)]
        if self._kind == "sentinel":
            command.append("--sentinel")
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        servers().add(self._process.pid)
        eventually(lambda: self._answers(loaded), deadline_s=20.0)

    def _lines(self) -> list[str]:
        lines = [f"dir {self.directory}", "bind 127.0.0.1", "daemonize no"]
        if self._kind == "server":
            lines += ['save ""', "appendonly no"]
        if self.path is not None:
            lines += [f"unixsocket {self.path}", "port 0"]
        elif self._plain_port:
            lines.append(f"port {self._plain_port}")
        elif self.tls is not None:
            lines += ["port 0", f"tls-port {self.port}", "tls-auth-clients no"]
            lines += [f"tls-ca-cert-file {self.tls / 'ca.crt'}", f"tls-cert-file {self.tls / 'server.crt'}"]
            lines += [f"tls-key-file {self.tls / 'server.key'}"]
        else:
            lines.append(f"port {self.port}")
        if self.password is not None:
            lines.append(f"requirepass {self.password}")
        lines += [f"user {user}" for user in self._users]
        for name, value in self._config.items():
            values = value if isinstance(value, (list, tuple)) else [value]
            lines += [f"{name} {one}" for one in values]
        return lines

    def _answers(self, loaded: bool) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError("redis-server ended: " + (self.directory / "log").read_text()[-800:])
        if self.tls is not None:
            return self._accepts()
        try:
            answer = self.ask(b"PING\r\n")
        except OSError:
            return False
        others = (b"-NOAUTH", b"-NOPERM", b"-MASTERDOWN", *([] if loaded else [b"-LOADING"]))
        return answer.startswith((b"+PONG", *others))

    def _accepts(self) -> bool:
        try:
            self._connect().close()
        except OSError:
            return False
        return True

    def _connect(self) -> socket.socket:
        if self.path is not None:
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(2.0)
            try:
                sock.connect(str(self.path))
            except OSError:
                sock.close()
                raise
            return sock
        return socket.create_connection(("127.0.0.1", self._asked_port), timeout=2.0)

    def ask(self, inline: bytes) -> bytes:
        """Send one inline command over a connection of its own, and return what comes first."""
        with self._connect() as sock:
            sock.sendall(inline)
            return sock.recv(65536)

    def cli(self, *args: str) -> str:
        """Run redis-cli against it."""
        where = (
            ["-s", str(self.path)] if self.path is not None else ["-p", str(self._plain_port or self.port)]
        )
        if self.tls is not None and not self._plain_port:
            where += ["--tls", "--cacert", str(self.tls / "ca.crt")]
        login = ["--no-auth-warning", "-a", self.password] if self.password is not None else []
        command = [redis_binary("redis-cli"), *where, *login, *args]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        return (done.stdout + done.stderr).strip()

    def stop(self) -> None:
        """Freeze it: connections stay open, nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def cont(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(20)
            servers().discard(process.pid)

    def restart(self) -> None:
        """Crash it and start it again on the same address, empty."""
        self.kill()
        self.start()

    def close(self) -> None:
        """End it and remove its directory. Safe to call twice."""
        self.kill()
        if self._front is not None:
            self._front.close()
        shutil.rmtree(self.directory, ignore_errors=True)


@contextmanager
def running_redis(
    config: Mapping[str, str | int | Sequence[str]] | None = None,
    *,
    unix: bool = False,
    tls: Path | None = None,
    password: str | None = None,
    users: Sequence[str] = (),
    kind: str = "server",
) -> Iterator[RedisServer]:
    """A private server for as long as the block lasts."""
    server = RedisServer(config, unix=unix, tls=tls, password=password, users=users, kind=kind)
    try:
        yield server
    finally:
        server.close()


def make_certificates(
    directory: Path, *, name: str = "localhost", valid: tuple[str, str] | None = None
) -> Path:
    """A throw-away authority (``ca.crt``) and a server certificate for `name`, made by openssl.

    :param valid: from when until when, as ``YYYYMMDDHHMMSSZ``; else two days from now.
    """
    directory.mkdir(parents=True, exist_ok=True)

    def openssl(*args: str) -> None:
        command = [redis_binary("openssl"), *args]
        subprocess.run(command, cwd=directory, check=True, capture_output=True, timeout=60)

    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl(
        "req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.crt", "-days", "2", "-subj", "/CN=test CA"
    )
    openssl("req", *new_key, "-keyout", "server.key", "-out", "server.csr", "-subj", f"/CN={name}")
    kind = "IP" if name[0].isdigit() else "DNS"
    (directory / "extensions").write_text(f"subjectAltName={kind}:{name}\n")
    (directory / "index").write_text("")
    (directory / "ca.conf").write_text(
        "[ca]\ndefault_ca=it\n[it]\ndatabase=index\nrand_serial=yes\nnew_certs_dir=.\n"
        "default_md=sha256\ndefault_days=2\npolicy=any\n[any]\ncommonName=supplied\n"
    )
    dates = ("-startdate", valid[0], "-enddate", valid[1]) if valid else ()
    openssl(
        *("ca", "-batch", "-notext", "-config", "ca.conf", "-cert", "ca.crt", "-keyfile", "ca.key", *dates),
        *("-in", "server.csr", "-out", "server.crt", "-extfile", "extensions"),
    )
    return directory


def wait_until_gone(pid: int, deadline_s: float = 5.0) -> None:
    """Wait for a process to end."""
    end_mono_s = time.monotonic() + deadline_s
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < end_mono_s
        time.sleep(0.005)

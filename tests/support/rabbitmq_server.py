"""A private RabbitMQ for tests: own node name, ports, directories and epmd; ended by its pid.

One server serves a whole test session, because it takes some seconds to start: `shared` starts it
on first use. Tests keep apart by virtual hosts or by names that nobody else uses.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from prefork.transports.url import parse
from support.ports import free_port
from support.servers import servers

MORE_CONFIG = "TESTS_RABBITMQ_CONFIG"
"""Lines for the server's configuration, from the environment; see `support.rabbitmq_versions`."""

START_S = 90.0
CONTROL_S = 60.0


class NoRabbitMQ(RuntimeError):
    """RabbitMQ is not installed here, or does not start."""


def _programs() -> Path:
    """Where the server's own scripts are: the one on the path may be a wrapper that changes user."""
    found = shutil.which("rabbitmq-server")
    if found is None:
        raise NoRabbitMQ("rabbitmq-server is not on the path: install the package rabbitmq-server")
    return Path(found).resolve().parent


class RabbitMQ:
    """One server on 127.0.0.1.

    :ivar url: where it listens; virtual host ``/``, user guest.
    """

    def __init__(self, scratch: Path, *, config: str = "") -> None:
        self._scratch = scratch
        self._programs = _programs()
        self.port = free_port()
        self._config = config
        self._environment = self._make_environment()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address of the default virtual host."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    @property
    def pid(self) -> int:
        """The process id of the server."""
        assert self._process is not None, "the server has not been started"
        return self._process.pid

    def vhost_url(self) -> str:
        """The address of a new, empty virtual host."""
        name = f"v{uuid.uuid4().hex[:12]}"
        self.control(
            "eval",
            f'rabbit_vhost:add(<<"{name}">>, <<"tests">>), rabbit_auth_backend_internal:'
            f'set_permissions(<<"guest">>, <<"{name}">>, <<".*">>, <<".*">>, <<".*">>, <<"tests">>).',
        )
        return f"amqp://guest:guest@127.0.0.1:{self.port}/{name}"

    def start(self) -> None:
        """Start, and wait until it accepts connections and commands."""
        log = (self._scratch / "output.log").open("ab")
        self._process = subprocess.Popen(
            [str(self._programs / "rabbitmq-server")],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        servers().add(self._process.pid)
        log.close()
        end_mono_s = time.monotonic() + START_S
        while not self._accepts():
            if self._process.poll() is not None or time.monotonic() > end_mono_s:
                said = (self._scratch / "output.log").read_text(errors="replace")[-2000:]
                raise NoRabbitMQ(f"rabbitmq-server did not start: {said}")
            time.sleep(0.1)

    def control(self, *arguments: str) -> str:
        """Run rabbitmqctl; returns what it printed."""
        done = subprocess.run(
            [str(self._programs / "rabbitmqctl"), "--quiet", *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=CONTROL_S,
        )
        if done.returncode:
            raise RuntimeError(f"rabbitmqctl {arguments}: {done.stdout.decode()} {done.stderr.decode()}")
        return done.stdout.decode()

    @contextmanager
    def alarm(self) -> Iterator[None]:
        """Take no messages while the block lasts; every connection was told so before it begins."""
        self._limit_memory("0.0000001")
        try:
            yield
        finally:
            self._limit_memory("0.6")

    def _limit_memory(self, share: str) -> None:
        # Who is told the alarms is told after all connections.
        limited = f"vm_memory_monitor:set_vm_memory_high_watermark({share})"
        self.control("eval", f"{limited}, rabbit_alarm:get_alarms().")

    def stop(self) -> None:
        """End the server and its epmd."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10.0)
        if process is not None:
            servers().discard(process.pid)
        epmd = shutil.which("epmd") or str(next(Path("/usr/lib/erlang").glob("erts-*/bin/epmd"), "epmd"))
        for _ in range(50):
            done = subprocess.run([epmd, "-kill"], env=self._environment, capture_output=True, timeout=10.0)
            if b"Killing not allowed" not in done.stdout + done.stderr:
                return
            time.sleep(0.1)  # it has not noticed yet that the node is gone

    def _accepts(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1.0) as probe:
                probe.settimeout(2.0)
                probe.sendall(b"AMQP\x00\x00\x09\x01")
                return probe.recv(7)[:1] == b"\x01"
        except OSError:
            return False

    def _make_environment(self) -> dict[str, str]:
        base = self._scratch
        for name in ("home", "mnesia", "log"):
            (base / name).mkdir(parents=True, exist_ok=True)
        config = base / "rabbitmq.conf"
        config.write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            "vm_memory_high_watermark.relative = 0.6\ndisk_free_limit.absolute = 1MB\n"
            "log.file.level = warning\nlog.console = false\n" + self._config + os.environ.get(MORE_CONFIG, "")
        )
        plugins = base / "enabled_plugins"
        plugins.write_text("[].\n")
        return {
            "PATH": os.environ.get("PATH", ""),
            "LANG": "C.UTF-8",
            "HOME": str(base / "home"),
            "RUNNING_UNDER_SYSTEMD": "1",  # the script becomes the server: its pid is ours to end
            "ERL_EPMD_PORT": str(free_port()),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"t{uuid.uuid4().hex[:10]}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_CONFIG_FILE": str(config),
            "RABBITMQ_CONF_ENV_FILE": str(base / "no-such-env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
            "RABBITMQ_MNESIA_BASE": str(base / "mnesia"),
            "RABBITMQ_LOG_BASE": str(base / "log"),
            "RABBITMQ_PID_FILE": str(base / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2",
        }


@lru_cache(maxsize=1)
def shared() -> RabbitMQ:
    """The server of this test session, started on first use."""
    scratch = Path(tempfile.mkdtemp(prefix="rabbitmq-"))
    server = RabbitMQ(scratch)
    owner_pid = os.getpid()

    def end() -> None:
        if os.getpid() == owner_pid:  # not in a fork
            server.stop()
            shutil.rmtree(scratch, ignore_errors=True)

    atexit.register(end)
    server.start()
    return server


def shared_url(extra: str = "") -> str:
    """The address of the shared server, with a query."""
    url = shared().url
    assert parse(url).scheme == "amqp"
    return url + extra

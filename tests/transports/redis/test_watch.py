"""A watch over lists: told by the server, rebuilt after anything, and polling where it must."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Iterator

import pytest

from prefork.transports.base import Counts, Outgoing, QueueDeclaration, Watch
from prefork.transports.redis import open_transport
from prefork.transports.redis.keys import Keys
from prefork.transports.redis.link import Link
from prefork.transports.redis.settings import read_settings
from prefork.transports.redis.transport import RedisTransport
from prefork.transports.redis.watch import RedisWatch
from prefork.transports.timer import Timer
from support.redis_server import RedisServer, running_redis
from support.tcp_proxy import Mode, tcp_proxy
from support.waiting import Background, eventually, readable


class Scene:
    """A watch over the queues q and r, and somebody else's connection."""

    def __init__(self, url: str, prefix: str = "", **options: object) -> None:
        self.settings = read_settings(url, {"global_keyprefix": prefix, **options})
        self.keys = Keys(self.settings)
        self.other = Link(self.settings)
        weakref.finalize(self, self.other.close)
        self.lists = [self.keys.list_of(queue, step) for queue in "qr" for step in self.keys.steps]
        self.watch = RedisWatch(self.settings, self.lists, [self.keys.due("q"), self.keys.due("r")])

    def fired(self, timeout_s: float = 2.0) -> bool:
        return readable(self.watch.fileno(), timeout_s)

    def quiet(self) -> bool:
        return not readable(self.watch.fileno(), 0.05)

    def push(self, queue: str = "q", priority: int = 0) -> None:
        self.other.call("LPUSH", self.keys.list_of(queue, priority), "m")

    def until_tracking(self) -> None:
        def attempt() -> bool:
            if readable(self.watch.fileno(), 0.2):
                self.watch.drain()
            return self.watch.tracks

        assert eventually(attempt)


@pytest.fixture
def scene(shared_redis: RedisServer, prefix: str) -> Iterator[Scene]:
    made = Scene(shared_redis.url, prefix)
    yield made
    made.watch.close()


def test_it_is_a_watch_that_counts(scene: Scene) -> None:
    assert isinstance(scene.watch, Watch) and isinstance(scene.watch, Counts)


@pytest.mark.parametrize(("queue", "priority"), [("q", 0), ("r", 9), ("q", 5)])
def test_it_fires_once_for_a_message_of_anybody(scene: Scene, queue: str, priority: int) -> None:
    assert scene.quiet() and scene.watch.waiting() == 0
    scene.push(queue, priority)
    assert scene.fired()
    assert scene.watch.waiting() is None
    scene.watch.drain()
    assert scene.watch.waiting() == 1
    assert scene.quiet() and scene.watch.waiting() == 1


def test_it_fires_again_for_every_change_after_it_was_drained(scene: Scene) -> None:
    for number in range(20):
        scene.push()
        assert scene.fired()
        scene.watch.drain()
        assert scene.watch.waiting() == number + 1


def test_it_fires_for_a_message_that_was_put_off(scene: Scene) -> None:
    scene.other.call("ZADD", scene.keys.due("r"), time.time() + 1, "u:0:0\nm")
    assert scene.fired()
    scene.watch.drain()
    assert scene.watch.waiting() == 0


def test_it_fires_for_a_message_that_a_script_restored(scene: Scene) -> None:
    scene.other.call("EVAL", "return redis.call('RPUSH', KEYS[1], 'm')", 1, scene.lists[0])
    assert scene.fired()


def test_other_keys_cost_nothing(scene: Scene) -> None:
    for number in range(200):
        scene.other.call("SET", scene.keys.list_of(f"q-task-meta-{number}", 0), "result")
    assert scene.quiet()


def test_a_flood_of_changes_is_never_lost(scene: Scene) -> None:
    def flood() -> None:
        for _ in range(2000):
            scene.push()

    writer = Background(flood)
    while scene.watch.waiting() != 2000:
        assert scene.fired()
        scene.watch.drain()
    writer.result()


def test_keys_of_another_type_are_not_counted(scene: Scene) -> None:
    scene.other.call("SET", scene.lists[0], "mine")
    scene.push("r")
    assert scene.fired()
    scene.watch.drain()
    assert scene.watch.waiting() == 1


def test_a_check_that_finds_messages_counts_them(scene: Scene) -> None:
    """A change that was not told is found when the connection is looked after."""
    scene.push()
    assert scene.fired()
    scene.watch._timer.after(0.0)
    assert eventually(lambda: readable(scene.watch._timer.fileno()))
    scene.watch.drain()
    assert scene.watch.waiting() == 1


def test_a_watch_over_nothing_is_quiet(shared_redis: RedisServer) -> None:
    watch = RedisWatch(read_settings(shared_redis.url), [])
    assert not readable(watch.fileno(), 0.05) and watch.waiting() == 0
    watch.close()


def test_it_can_be_closed_twice_and_drained_afterwards(scene: Scene) -> None:
    scene.watch.close()
    scene.watch.close()
    scene.watch.drain()


# --- losing the server --------------------------------------------------------------------------


def test_it_comes_back_with_the_server_and_says_what_waits(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene(own_redis.url)
    own_redis.kill()
    assert scene.fired()
    for _ in range(3):
        scene.watch.drain()
        assert not scene.watch.tracks and scene.watch.waiting() is None
        assert scene.fired(3.0)
    own_redis.start()
    scene.push()
    scene.until_tracking()
    assert scene.watch.waiting() == 1
    assert caplog.text.count("cannot watch queues") == 1
    assert caplog.text.count("watched again") == 1
    scene.watch.close()


def test_it_opens_without_a_server() -> None:
    with running_redis() as server:
        url = server.url
    scene = Scene(url)
    assert scene.fired(3.0) and not scene.watch.tracks
    scene.watch.close()


@pytest.mark.parametrize("mode", [Mode.RESET, Mode.BLACK_HOLE])
def test_a_broken_connection_is_replaced(
    own_redis: RedisServer, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefork.transports.redis.watch.HEALTH_S", 0.2)
    with tcp_proxy(own_redis.port) as proxy:
        scene = Scene(f"redis://127.0.0.1:{proxy.port}", socket_timeout=0.3)
        scene.other = Link(read_settings(own_redis.url))
        proxy.set(mode)
        scene.push()
        began = time.monotonic()
        while scene.watch.tracks:
            assert scene.fired(3.0)
            scene.watch.drain()
        assert time.monotonic() - began < 3.0
        proxy.set(Mode.PASS)
        scene.until_tracking()
        assert scene.watch.waiting() == 1
        scene.watch.close()


def test_a_server_that_stands_still_is_noticed(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefork.transports.redis.watch.HEALTH_S", 0.1)
    scene = Scene(own_redis.url, socket_timeout=0.3)
    own_redis.stop()
    try:
        assert scene.fired()
        scene.watch.drain()
        assert not scene.watch.tracks
    finally:
        own_redis.cont()
    scene.until_tracking()
    scene.watch.close()


def test_a_connection_that_the_server_ends_is_replaced(own_redis: RedisServer) -> None:
    scene = Scene(own_redis.url)
    own_redis.cli("CLIENT", "KILL", "TYPE", "normal")
    assert scene.fired()
    scene.watch.drain()
    scene.until_tracking()
    scene.watch.close()


# --- where tracking is refused ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "config"),
    [
        ("worker on >word ~* &* +@all -client", {}),
        # In the words of 6.2, which cannot take a single sub-command away.
        ("worker on >word ~* &* +@all -client +client|id +client|setname", {}),
        ("worker on >word ~* &* +@all", {"rename-command": 'HELLO ""'}),
    ],
)
def test_where_tracking_is_refused_it_polls_and_says_so_once(
    user: str, config: dict[str, str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_redis(config, users=[user]) as server, caplog.at_level(logging.WARNING):
        scene = Scene(server.url_of(0, user="worker", password="word"))
        scene.other = Link(read_settings(server.url))
        pauses: list[float] = []
        real = Timer.after
        monkeypatch.setattr(Timer, "after", lambda timer, s: (pauses.append(s), real(timer, s))[1])
        for _ in range(5):
            assert scene.fired()
            scene.watch.drain()
            assert not scene.watch.tracks and scene.watch.waiting() is None
        assert pauses[-1] > 2 * pauses[0]
        scene.push()
        assert scene.fired()
        scene.watch.drain()
        scene.watch.close()
    assert caplog.text.count("polled instead") == 1


def test_a_refused_look_is_tried_again(own_redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene(own_redis.url)
    own_redis.cli("ACL", "SETUSER", "default", "-exists")
    scene.push()
    assert scene.fired()
    scene.watch.drain()
    assert not scene.watch.tracks and "refused to look at queues" in caplog.text
    own_redis.cli("ACL", "SETUSER", "default", "+exists")
    scene.until_tracking()
    scene.watch.close()


# --- the transport's own ------------------------------------------------------------------------


@pytest.fixture
def transport(shared_redis: RedisServer, prefix: str) -> Iterator[RedisTransport]:
    made = open_transport(shared_redis.url, {"global_keyprefix": prefix})
    yield made
    made.close()


def test_a_watch_of_the_transport_fires_for_what_it_sends(transport: RedisTransport) -> None:
    watch = transport.watch(["q"])
    transport.send([Outgoing("q", b"m")])
    assert readable(watch.fileno())
    watch.drain()
    assert isinstance(watch, RedisWatch) and watch.waiting() == 1


def test_an_idle_watch_exchanges_one_command_per_check(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While others store results under names that begin like its queue."""
    monkeypatch.setattr("prefork.transports.redis.watch.HEALTH_S", 0.1)
    transport = open_transport(own_redis.url, {"declarations": {"celery": QueueDeclaration("celery")}})
    watch = transport.watch(["celery", "a", "b"])
    other = Link(read_settings(own_redis.url))
    own_redis.cli("CONFIG", "RESETSTAT")
    checks = 0
    while checks < 5:
        other.many([("SET", f"celery-task-meta-{number}", "x") for number in range(1000)])
        if readable(watch.fileno(), 0.0):
            watch.drain()
            checks += 1
    stats = own_redis.cli("INFO", "commandstats")
    assert "cmdstat_exists:calls=5," in stats
    assert "cmdstat_llen" not in stats
    transport.close()

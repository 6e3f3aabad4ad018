"""Strays on a real RabbitMQ: whatever lies among them, the others are brought home."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import amqp
import pytest

from prefork.transports.amqp import ladder
from prefork.transports.amqp import strays as strays_module
from prefork.transports.amqp.codec import short_text
from prefork.transports.amqp.frames import publish_frames
from prefork.transports.amqp.ladder import STRAYS_QUEUE
from prefork.transports.amqp.parcels import Parcel
from prefork.transports.amqp.publisher import Publisher
from prefork.transports.amqp.settings import AmqpSettings, read_settings
from prefork.transports.amqp.strays import Strays
from prefork.transports.base import QueueDeclaration
from prefork.transports.url import parse
from support.rabbitmq_server import RabbitMQ
from support.waiting import eventually

CLASHING = "clashing.x"


class Scene:
    """A virtual host with strays that a test puts there, and a clock that it sets."""

    def __init__(self, rabbitmq: RabbitMQ) -> None:
        url = rabbitmq.vhost_url()
        clash = QueueDeclaration("clashing", CLASHING, "topic", "k")
        options = {"native_delayed_delivery_queue_type": "classic", "declarations": {"clashing": clash}}
        self.settings: AmqpSettings = read_settings(url, options)
        self.publisher = Publisher(self.settings)
        self.now_s = 0.0
        self.strays = Strays(self.publisher, self.settings, self.mono)
        self.connection = amqp.Connection(
            f"127.0.0.1:{rabbitmq.port}", virtual_host=parse(url).path[1:], frame_max=131_072
        )
        self.connection.connect()
        self.channel = self.connection.channel()
        self.publisher.declare(lambda topology, channel: topology.consumed(channel, "home"))
        self.tick_s = 0.0

    def mono(self) -> float:
        self.now_s += self.tick_s
        return self.now_s

    def stray(self, target: str, **properties: Any) -> None:
        """Put one there, as the ladder does."""
        _first, key = ladder.address(0.008, target)
        self.publisher.publish([Parcel(ladder.STRAYS_EXCHANGE, key, properties, b"stray")])

    def stray_with(self, properties: bytes, target: str) -> None:
        """Put one there that nothing of ours would send."""
        _first, key = ladder.address(0.008, target)
        before = self.depth(STRAYS_QUEUE)
        frames = publish_frames(
            self.channel.channel_id, ladder.STRAYS_EXCHANGE, key, properties, b"odd", 4096, mandatory=False
        )
        self.connection.transport.write(b"".join(frames))
        eventually(lambda: self.depth(STRAYS_QUEUE) == before + 1)

    def depth(self, queue: str) -> int:
        return int(self.channel.queue_declare(queue, passive=True).message_count)

    def close(self) -> None:
        self.publisher.close()
        self.connection.close()


@pytest.fixture
def scene(rabbitmq: RabbitMQ) -> Iterator[Scene]:
    made = Scene(rabbitmq)
    yield made
    made.close()


def at_no_time_that_a_calendar_has(scene: Scene) -> None:
    entry = short_text("when") + b"T" + struct.pack(">Q", 1 << 63)
    scene.stray_with(struct.pack(">HI", 1 << 13, len(entry)) + entry, ladder.to_queue("home"))


def with_a_value_that_has_no_form(scene: Scene) -> None:
    entry = short_text("cost") + b"D" + struct.pack(">Bi", 2, -(1 << 31))
    scene.stray_with(struct.pack(">HI", 1 << 13, len(entry)) + entry, ladder.to_queue("home"))


def for_a_queue_that_is_full(scene: Scene) -> None:
    limits = {"x-max-length": 1, "x-overflow": "reject-publish"}
    scene.channel.queue_declare("full", durable=True, auto_delete=False, arguments=limits)
    scene.publisher.publish([Parcel("", "full", {}, b"first")])
    scene.stray(ladder.to_queue("full"))


def for_an_exchange_that_is_another_kind(scene: Scene) -> None:
    scene.channel.exchange_declare(CLASHING, "direct", durable=True, auto_delete=False)
    scene.stray(ladder.via_exchange(CLASHING, "k"))


def for_a_name_that_is_no_text(scene: Scene) -> None:
    scene.stray(ladder.to_queue("\udcff"))


def for_no_name(scene: Scene) -> None:
    scene.stray(ladder.to_queue(""))


ODD: list[Callable[[Scene], None]] = [
    at_no_time_that_a_calendar_has,
    with_a_value_that_has_no_form,
    for_a_queue_that_is_full,
    for_an_exchange_that_is_another_kind,
    for_a_name_that_is_no_text,
    for_no_name,
]


@pytest.mark.parametrize("many", [False, True], ids=["few", "many"])
@pytest.mark.parametrize("odd", ODD)
def test_a_message_that_cannot_be_brought_home_keeps_no_other_from_it(
    scene: Scene,
    odd: Callable[[Scene], None],
    many: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if many:
        monkeypatch.setattr(strays_module, "_AT_ONCE", 1)
    odd(scene)
    scene.stray(ladder.to_queue("home"))
    assert scene.strays.bring_home() == 1
    scene.now_s += 60.0
    assert scene.strays.bring_home() == 0
    assert "prefork.strays" in caplog.text
    eventually(lambda: (scene.depth("home"), scene.depth(STRAYS_QUEUE)) == (1, 1))


def test_those_that_nothing_wants_keep_no_other_from_being_looked_at(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strays_module, "_AT_ONCE", 2)
    for number in range(8):
        scene.stray(ladder.to_queue(f"gone.{number}"))
    scene.stray(ladder.to_queue("home"))
    scene.tick_s = strays_module._LASTS_S / 4  # there is time for four of them at a time
    looks = 0
    while not scene.strays.bring_home():
        scene.now_s += 60.0
        looks += 1
        assert looks < 5
    assert looks > 0
    eventually(lambda: (scene.depth("home"), scene.depth(STRAYS_QUEUE)) == (1, 8))


def test_what_is_moved_among_the_strays_goes_home_as_it_was(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strays_module, "_AT_ONCE", 0)
    headers = {"id": "i", "x-prefork-starts": 2, "x-prefork-causes": ["a", "b"], "cost": Decimal("1.5")}
    scene.stray(ladder.to_queue("later"), headers=headers, priority=3, correlation_id="i")
    assert scene.strays.bring_home() == 0
    scene.channel.queue_declare("later", durable=True, auto_delete=False)
    scene.now_s += 60.0
    assert scene.strays.bring_home() == 1
    found = eventually(lambda: scene.channel.basic_get("later", no_ack=True))
    assert found.properties == {"application_headers": headers, "priority": 3, "correlation_id": "i"}
    assert found.body == b"stray"


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """What the log has got since this was asked."""
    lines = [(one.levelname, one.getMessage()) for one in caplog.records if one.levelname != "DEBUG"]
    caplog.clear()
    return lines


def looks(scene: Scene, seconds: int) -> tuple[list[int], int]:
    """In which of the next so many seconds it looks, and how many are brought home by that."""
    at, sent = [], 0
    for second in range(1, seconds + 1):
        scene.now_s += 1.0
        before = scene.strays._next_mono_s
        sent += scene.strays.bring_home()
        if scene.strays._next_mono_s != before:
            at.append(second)
    return at, sent


def test_the_log_names_a_few_of_the_queues_that_are_missing_at_the_second_look(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for number in range(8):
        scene.stray(ladder.to_queue(f"gone.{number}"))
    scene.strays.bring_home()
    assert not told(caplog), "who consumes them may be about to declare them"
    scene.now_s += 5.0
    scene.strays.bring_home()
    ((level, line),) = told(caplog)
    assert level == "ERROR"
    assert line.startswith("queue 'prefork.strays' holds delayed messages (8)")
    assert line.count("queue 'gone.") == 5
    assert "and 3 others" in line
    looks(scene, 60)
    assert not told(caplog), "it was said"


def test_what_finds_its_queue_at_the_second_look_was_never_missing(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a worker that looks before its children have declared what they consume,
    caplog.set_level("INFO")
    scene.stray(ladder.to_queue("late"))
    assert scene.strays.bring_home() == 0
    scene.channel.queue_declare("late", durable=True, auto_delete=False)
    # then the next look comes soon, and nothing is said.
    assert looks(scene, 5) == ([5], 1)
    looks(scene, 20)
    assert not told(caplog)


def test_what_is_missing_for_long_is_looked_for_less_often_until_something_else_is(scene: Scene) -> None:
    scene.stray(ladder.to_queue("gone"))
    assert looks(scene, 66) == ([1, 6, 36, 66], 0)
    scene.stray(ladder.to_queue("new"))
    assert looks(scene, 66) == ([30, 35, 65], 0)


def test_that_nothing_is_missing_any_more_is_said_once(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    scene.stray(ladder.to_queue("gone"))
    scene.stray(ladder.to_queue("back"))
    looks(scene, 6)
    ((level, _line),) = told(caplog)
    assert level == "ERROR"
    scene.channel.queue_declare("back", durable=True, auto_delete=False)
    # One look finds nothing for it, and so does another: not merely because somebody else looks just then.
    assert looks(scene, 30)[1] == 1
    assert not told(caplog)
    looks(scene, 60)
    assert told(caplog) == [
        ("INFO", "queue 'prefork.strays' holds no delayed messages for queue 'back' any more")
    ]
    scene.channel.queue_purge(STRAYS_QUEUE)
    looks(scene, 60)
    assert told(caplog) == [
        ("INFO", "queue 'prefork.strays' holds no delayed messages for queue 'gone' any more")
    ]
    # What is missing once more is told once more.
    scene.stray(ladder.to_queue("gone"))
    looks(scene, 60)
    assert [level for level, _line in told(caplog)] == ["ERROR"]


def test_looks_that_see_only_a_part_tell_of_each_queue_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(strays_module, "_AT_ONCE", 2)
    for number in range(8):
        scene.stray(ladder.to_queue(f"gone.{number}"))
    scene.tick_s = strays_module._LASTS_S / 4  # there is time for four of them at a time
    for _ in range(12):
        scene.now_s += 60.0
        scene.strays.bring_home()
    lines = told(caplog)
    assert {level for level, _line in lines} == {"ERROR"}
    text = "\n".join(line for _level, line in lines)
    assert [text.count(f"queue 'gone.{number}'") for number in range(8)] == [1] * 8


def test_a_look_that_is_refused_leaves_no_channel_open(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(channel: Any, queue: str) -> bool:
        raise amqp.exceptions.AccessRefused("no right to look")

    monkeypatch.setattr(strays_module, "_exists", fail)
    scene.stray(ladder.to_queue("home"))
    wire = scene.publisher.link.current()
    assert wire is not None
    before = set(wire.channels)
    assert scene.strays.bring_home() == 0
    assert "no right to look" in caplog.text
    assert scene.publisher.link.current() is wire
    assert set(wire.channels) == before

"""Remote control on Redis is kombu's pidbox, command by command, and survives the loss of its connections."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import kombu
import pytest
import redis
from kombu.pidbox import Mailbox as PidboxMailbox

from prefork.transports.base import Message
from prefork.transports.envelope import decode
from prefork.transports.errors import BrokerUnavailable, Unacceptable
from prefork.transports.redis.mailbox import MESSAGE_BYTES_MAX
from prefork.transports.registry import open_transport
from support.redis_server import RedisServer, running_redis
from support.tcp_proxy import Mode, tcp_proxy
from support.waiting import eventually, readable

NS = "celery"


def message(body: bytes = b"{}", **headers: Any) -> Message:
    return Message(body, "application/json", "utf-8", dict(headers), {"delivery_mode": 2, "priority": 0})


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running_redis() as running:
        yield running


@pytest.fixture
def client(server: RedisServer) -> Iterator[Any]:
    with redis.Redis.from_url(server.url) as made:
        made.flushall()
        yield made


@pytest.fixture
def transport(server: RedisServer, client: Any) -> Iterator[Any]:
    opened: Any = open_transport(server.url, {})
    yield opened
    opened.close()


def receive(mailbox: Any, count: int = 1) -> list[Message]:
    found: list[Message] = []

    def look() -> bool:
        try:
            found.extend(mailbox.receive(0.05))
        except BrokerUnavailable:
            return False
        return len(found) >= count

    eventually(look)
    return found


def test_a_request_goes_to_the_channel_of_pidbox(transport: Any, client: Any) -> None:
    with client.pubsub() as listener:
        listener.psubscribe("*")
        listener.get_message(timeout=5)
        transport.broadcast(NS, message(b'{"method": "ping"}', clock=1, expires=0))
        heard = eventually(lambda: listener.get_message(timeout=1))
    assert heard["channel"] == b"/0.celery.pidbox"
    envelope = json.loads(heard["data"])
    assert envelope["headers"] == {"clock": 1, "expires": 0}
    assert envelope["properties"]["delivery_info"] == {"exchange": "celery.pidbox", "routing_key": ""}
    assert envelope["properties"]["delivery_mode"] == 2
    assert envelope["properties"]["delivery_tag"]


def test_prefixes_and_databases_are_those_of_the_options(server: RedisServer, client: Any) -> None:
    options = {"global_keyprefix": "app:", "fanout_prefix": "/of.{db}."}
    transport: Any = open_transport(server.url_of(3), options)
    mailbox = transport.mailbox(NS, "w@h")
    assert client.execute_command("PUBSUB", "NUMPAT") == 1
    with client.pubsub() as listener:
        listener.psubscribe("*")
        listener.get_message(timeout=5)
        transport.broadcast(NS, message())
        heard = eventually(lambda: listener.get_message(timeout=1))
    assert heard["channel"] == b"app:/of.3.celery.pidbox"
    assert [one.body for one in receive(mailbox)] == [b"{}"]
    replies = transport.replies(NS, "me")
    with redis.Redis.from_url(server.url_of(3)) as there:
        assert there.smembers("app:_kombu.binding.reply.celery.pidbox") == {
            b"me\x06\x16\x06\x16me.reply.celery.pidbox"
        }
        transport.reply("reply.celery.pidbox", "me", message())
        assert there.llen("app:me.reply.celery.pidbox") == 1
        assert 0 < there.pttl("app:me.reply.celery.pidbox") <= 10_000
    for one in (mailbox, replies, transport):
        one.close()


def test_a_client_binds_its_list_as_kombu_does_and_leaves_nothing(transport: Any, client: Any) -> None:
    replies = transport.replies(NS, "me")
    assert client.smembers("_kombu.binding.reply.celery.pidbox") == {
        b"me\x06\x16\x06\x16me.reply.celery.pidbox"
    }
    assert client.zscore("_kombu.binding_deadlines", "reply.celery.pidbox") > 0
    transport.reply("reply.celery.pidbox", "me", message())
    replies.close()
    assert client.keys("*reply.celery.pidbox") == []


def test_a_reply_to_a_queue_of_another_name_follows_its_binding(transport: Any, client: Any) -> None:
    client.sadd("_kombu.binding.reply.celery.pidbox", "key\x06\x16\x06\x16a queue of somebody")
    transport.reply("reply.celery.pidbox", "key", message(b"answer", ticket="t"))
    found = decode(client.rpop("a queue of somebody")).message()
    assert (found.body, found.headers) == (b"answer", {"ticket": "t"})


def test_kombus_own_client_is_heard_and_answered(server: RedisServer, transport: Any) -> None:
    node = transport.mailbox(NS, "w@h")
    with kombu.Connection(server.url) as connection:
        pidbox = PidboxMailbox(NS, type="fanout", connection=connection, accept=["json"])
        reply_queue = pidbox.get_reply_queue()
        with connection.channel() as channel:
            reply_queue(channel).declare()
            pidbox._publish("ping", {}, reply_ticket="t", channel=channel)
            (request,) = receive(node)
            asked = json.loads(request.body)
            assert asked["method"] == "ping"
            transport.reply(
                asked["reply_to"]["exchange"],
                asked["reply_to"]["routing_key"],
                message(b'{"w@h": {"ok": "pong"}}', ticket=asked["ticket"]),
            )
            got: list[Any] = []
            with connection.Consumer(
                [reply_queue], channel=channel, no_ack=True, callbacks=[lambda body, _: got.append(body)]
            ):
                eventually(lambda: connection.drain_events(timeout=1) or got)
    assert got == [{"w@h": {"ok": "pong"}}]
    node.close()


def test_what_is_no_message_is_dropped_and_logged_once(
    transport: Any, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    node, replies = transport.mailbox(NS, "w@h"), transport.replies(NS, "me")
    for junk in (b"", b"\xff", b"[]", b'{"body": 1}'):
        client.publish("/0.celery.pidbox", junk)
        client.lpush("me.reply.celery.pidbox", junk)
    transport.broadcast(NS, message(b"good"))
    transport.reply("reply.celery.pidbox", "me", message(b"good"))
    assert [one.body for one in receive(node)] == [b"good"]
    assert [one.body for one in receive(replies)] == [b"good"]
    assert len([record for record in caplog.records if "no message" in record.message]) == 2
    node.close()
    replies.close()


def test_what_is_too_large_is_refused_by_the_sender(transport: Any) -> None:
    with pytest.raises(Unacceptable):
        transport.broadcast(NS, message(b"x" * MESSAGE_BYTES_MAX))
    with pytest.raises(Unacceptable):
        transport.reply("reply.celery.pidbox", "me", message(b"x" * MESSAGE_BYTES_MAX))


def test_a_killed_connection_is_made_anew(transport: Any, client: Any) -> None:
    node = transport.mailbox(NS, "w@h")
    for _ in range(3):
        for one in client.client_list():
            if one["name"].endswith("-control"):
                client.client_kill(one["addr"])
        assert readable(node.fileno())

        def heard() -> bool:
            transport.broadcast(NS, message())
            try:
                return bool(node.receive(0.05))
            except BrokerUnavailable:
                return False

        eventually(heard)
    node.close()


def test_while_the_server_is_away_it_says_so_and_pauses_between_attempts() -> None:
    with running_redis() as server:
        transport: Any = open_transport(server.url, {"socket_timeout": 1.0})
        node = transport.mailbox(NS, "w@h")
        server.kill()
        eventually(lambda: _raises(node))
        assert _raises(node)
        server.start()
        eventually(lambda: not _raises(node))
        transport.broadcast(NS, message(b"back"))
        assert [one.body for one in receive(node)] == [b"back"]
        node.close()
        transport.close()


def _raises(node: Any) -> bool:
    try:
        node.receive(0.02)
    except BrokerUnavailable:
        return True
    return False


def test_a_server_that_falls_silent_is_noticed(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    # Which is also how long it may take to answer: longer than machines stand still.
    monkeypatch.setattr("prefork.transports.redis.mailbox._HEALTH_S", 1.0)
    with tcp_proxy(server.port) as proxy:
        transport: Any = open_transport(f"redis://127.0.0.1:{proxy.port}/0", {"socket_timeout": 2.0})
        node = transport.mailbox(NS, "w@h")
        opened_mono_s = node._checked_mono_s

        def asked_and_answered() -> bool:
            assert node.receive(0.05) == []
            return node._checked_mono_s > opened_mono_s and not node._asked_mono_s

        eventually(asked_and_answered)
        proxy.set(Mode.BLACK_HOLE)
        eventually(lambda: _raises(node))
        proxy.set(Mode.PASS)
        eventually(lambda: not _raises(node))
        node.close()
        transport.close()


def test_a_user_who_may_not_listen_is_told(server: RedisServer, client: Any) -> None:
    client.acl_setuser(
        "deaf", enabled=True, passwords=["+pw"], categories=["+@all"], commands=["-psubscribe"]
    )
    url = server.url.replace("redis://", "redis://deaf:pw@")
    transport: Any = open_transport(url, {})
    with pytest.raises(BrokerUnavailable, match="PSUBSCRIBE"):
        transport.mailbox(NS, "w@h")
    transport.close()


def test_a_mailbox_without_a_server_is_no_mailbox() -> None:
    transport: Any = open_transport("redis://127.0.0.1:1/0", {"socket_connect_timeout": 0.5})
    with pytest.raises(BrokerUnavailable):
        transport.mailbox(NS, "w@h")
    with pytest.raises(BrokerUnavailable):
        transport.replies(NS, "me")
    with pytest.raises(BrokerUnavailable):
        transport.broadcast(NS, message())
    transport.close()

"""Every script, when a key holds something else, when memory is full, when the scripts are gone.

The whole keyspace is compared: whatever happens, each document is still somewhere, and what belongs
to others is as they left it.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import redis

from prefork.transports.base import Outcome, Outgoing, StoredResult, Verdict
from prefork.transports.errors import BrokerFull, TransportError
from prefork.transports.redis import RedisTransport, open_transport
from prefork.transports.redis.faults import WrongKeyType
from prefork.transports.redis.keys import Keys
from prefork.transports.redis.owners import read_tag
from prefork.transports.redis.settings import read_settings
from support.redis_server import RedisServer
from support.waiting import eventually

FAR_WALL_S = 4_000_000_000.0
FOREIGN = b"what somebody else keeps here"
RESULT = b'{"status": "SUCCESS"}'


class World:
    """Two queues, two owners of one worker, and messages in every state."""

    def __init__(self, server: RedisServer) -> None:
        self.prefix = f"w{uuid.uuid4().hex[:10]}:"
        self.server = redis.Redis(host="127.0.0.1", port=server.port)
        options = {"global_keyprefix": self.prefix}
        self.transport: RedisTransport = open_transport(server.url, options)
        self.keys = Keys(read_settings(server.url, options))
        self.consumer = self.transport.consumer(["q", "other"], "owner", "worker")
        self.dying = self.transport.consumer(["q", "other"], "dying", "lapsed")
        self._send("q", b"letter", b"crashed", b"suspected", b"held1", b"held2", b"held3", b"held4", b"ready")
        (letter,) = self.consumer.reserve(1)
        self.consumer.settle([Outcome(letter.tag, Verdict.DEAD, reason="test")])
        (crashed,) = self.consumer.reserve(1)
        self.consumer.settle([Outcome(crashed.tag, Verdict.REQUEUE, crashed=True, causes=("signal 9",))])
        self.marked = self.dying.reserve(1)
        assert [one.document for one in self.marked] == [b"crashed"]
        self.dying_held = self.dying.reserve(2)
        self.held = self.consumer.reserve(3)
        self.transport.send([Outgoing("q", b"due", 0, time.time() - 5)])
        self.transport.send([Outgoing("q", b"later", 3, FAR_WALL_S)])
        self.transport.lock("lock", "value", 600.0)
        self.transport.take_tokens("bucket", 0.001, 5, 2)
        self.transport.take_slot("slots", 2, "worker", "owner/1")
        self.transport.revoke(["revoked"], 600.0)

    def _send(self, queue: str, *documents: bytes) -> None:
        self.transport.send([Outgoing(queue, document) for document in documents])

    def spoil(self, key: bytes) -> None:
        """Let somebody else use a key, for a value of another kind."""
        kind = self.server.type(key)
        self.server.delete(key)
        if kind == b"string":
            self.server.rpush(key, FOREIGN)
        else:
            self.server.set(key, FOREIGN)

    def is_spoilt(self, key: bytes) -> bool:
        """Whether a key is as somebody else left it."""
        return self._value(key) in (FOREIGN, [FOREIGN])

    def names(self) -> list[bytes]:
        return sorted(self.server.scan_iter(match=self.prefix.encode() + b"*", count=1000))

    def dump(self) -> dict[bytes, object]:
        """The whole keyspace of this world."""
        return {name: self._value(name) for name in self.names()}

    def _value(self, name: bytes) -> object:
        kind = self.server.type(name)
        if kind == b"list":
            return self.server.lrange(name, 0, -1)
        if kind == b"hash":
            return self.server.hgetall(name)
        if kind == b"set":
            return self.server.smembers(name)
        if kind == b"zset":
            return self.server.zrange(name, 0, -1, withscores=True)
        if kind == b"stream":
            return self.server.xrange(name)
        return self.server.get(name)

    def documents(self) -> Counter[bytes]:
        """Every message, wherever it is."""
        found: Counter[bytes] = Counter()
        for name, value in self.dump().items():
            if isinstance(value, list) and self.server.type(name) == b"list":
                recorded = name.startswith(self.keys.marked_lists + b":")
                found.update(entry.partition(b"\n")[2] if recorded else entry for entry in value)
            elif isinstance(value, list) and self.server.type(name) == b"zset" and b"due:" in name:
                found.update(member.partition(b"\n")[2] for member, _score in value)
            elif isinstance(value, list) and self.server.type(name) == b"stream":
                found.update(entry[b"document"] for _key, entry in value)
            elif isinstance(value, dict) and b"held:" in name:
                found.update(document for field, document in value.items() if read_tag(field))
        return found

    def lapse(self) -> None:
        self.transport.heartbeat("lapsed", 0.001)
        time.sleep(0.002)

    def close(self) -> None:
        self.transport.close()
        self.server.close()


Operation = Callable[[World], object]


def _settle(verdict: Verdict, **more: object) -> Operation:
    def operation(world: World) -> object:
        outcome = Outcome(
            world.held[0].tag,
            verdict,
            due_wall_s=FAR_WALL_S if verdict is Verdict.DEFER else None,
            follow_ups=(Outgoing("q", b"follow-up"), Outgoing("q", b"delayed", due_wall_s=FAR_WALL_S)),
            results=(StoredResult(f"{world.prefix}task", RESULT),),
            **more,  # type: ignore[arg-type]
        )
        return world.consumer.settle([outcome])

    return operation


OPERATIONS: dict[str, Operation] = {
    "reserve": lambda world: world.consumer.reserve(10),
    "acknowledge": lambda world: world.consumer.settle([Outcome(world.held[0].tag)]),
    "acknowledge marked": lambda world: world.dying.settle([Outcome(world.marked[0].tag)]),
    "settle": _settle(Verdict.ACK),
    "requeue": _settle(Verdict.REQUEUE),
    "requeue crashed": _settle(Verdict.REQUEUE, crashed=True, causes=("again",)),
    "defer": _settle(Verdict.DEFER),
    "bury": _settle(Verdict.DEAD, reason="test"),
    "inform": lambda world: world.consumer.inform(
        world.held[0].tag, (StoredResult(f"{world.prefix}task", RESULT),)
    ),
    "give back": lambda world: world.consumer.give_back([one.tag for one in world.held]),
    "give back marked": lambda world: world.dying.give_back([world.marked[0].tag]),
    "mark started": lambda world: world.dying.mark_started(world.marked[0].tag),
    "fetch": lambda world: world.consumer.fetch(world.held[0].tag),
    "attach": lambda world: world.transport.attach("dying").give_back([one.tag for one in world.dying_held]),
    "recover": lambda world: world.transport.recover(
        "dying", running=world.dying_held[0].tag, cause="signal 9", max_crashes=1
    ),
    "recover lapsed": lambda world: (world.lapse(), world.transport.recover_lapsed(max_crashes=2)),
    "promote": lambda world: world.transport.promote(),
    "heartbeat": lambda world: world.transport.heartbeat("worker", 30.0),
    "register": lambda world: world.transport.consumer(["q", "other"], "another", "worker").close(),
    "unregister": lambda world: world.transport.unregister("lapsed"),
    "close": lambda world: world.dying.close(),
    "replay": lambda world: [world.transport.dead_replay(one.key) for one in world.transport.dead_letters()],
    "take tokens": lambda world: world.transport.take_tokens("bucket", 0.001, 5, 1),
    "take a slot": lambda world: world.transport.take_slot("slots", 2, "worker", "owner/2"),
    "find no slot": lambda world: world.transport.take_slot("slots", 1, "worker", "owner/2"),
    "free a slot": lambda world: world.transport.free_slot("slots", "owner/1"),
    "free the slots": lambda world: world.transport.free_slots_of("owner"),
    "lock": lambda world: world.transport.lock("lock", "value", 600.0),
    "lock by force": lambda world: world.transport.relock("lock", "another", 600.0),
    "prolong a lock": lambda world: world.transport.prolong("lock", "value", 600.0),
    "unlock": lambda world: world.transport.unlock("lock", "value"),
    "read a lock": lambda world: world.transport.locked("lock"),
    "revoke": lambda world: world.transport.revoke(["revoked", "more"], 600.0),
    "read what is revoked": lambda world: world.transport.revoked(),
    "read the mark of that": lambda world: world.transport.revoked_mark(),
    "maintain": lambda world: world.transport.maintain(),
    "send": lambda world: world.transport.send([Outgoing("q", b"new"), Outgoing("q", b"new", 9, FAR_WALL_S)]),
}

# Documents that an operation may make, or end.
NEW = Counter({b"new": 2, b"follow-up": 1, b"delayed": 1})
ENDED = {
    "acknowledge": Counter({b"held2": 1}),
    "acknowledge marked": Counter({b"crashed": 1}),
    "settle": Counter({b"held2": 1}),
}

KEYS: dict[str, Callable[[Keys], bytes]] = {
    "owners": lambda keys: keys.owners,
    "workers": lambda keys: keys.workers,
    "owners of the worker": lambda keys: keys.worker("worker"),
    "owners of the lapsed": lambda keys: keys.worker("lapsed"),
    "held": lambda keys: keys.held("owner"),
    "held by the dying": lambda keys: keys.held("dying"),
    "held by the other": lambda keys: keys.held("another"),
    "marked lists": lambda keys: keys.marked_lists,
    "schedules": lambda keys: keys.due_queues,
    "queues": lambda keys: keys.queues,
    "dead": lambda keys: keys.dead,
    "bucket": lambda keys: keys.bucket("bucket"),
    "slots": lambda keys: keys.slots("slots"),
    "names of slots": lambda keys: keys.slot_names,
    "lock": lambda keys: keys.lock("lock"),
    "revoked": lambda keys: keys.revoked,
    "ends of revocations": lambda keys: keys.revoked_ends,
    "list": lambda keys: keys.list_of("q", 0),
    "list of a step": lambda keys: keys.list_of("q", 3),
    "marked": lambda keys: keys.marked(keys.list_of("q", 0)),
    "schedule": lambda keys: keys.due("q"),
}
OF_ONE_QUEUE = ("list", "list of a step", "marked", "schedule")


@pytest.fixture
def world(shared_redis: RedisServer) -> Iterator[World]:
    world = World(shared_redis)
    yield world
    world.close()


def assert_all_accounted(world: World, before: Counter[bytes], operation: str) -> None:
    after = world.documents()
    lost = before - after - ENDED.get(operation, Counter())
    assert not lost, f"lost: {lost}"
    doubled = after - before - NEW
    assert not doubled, f"doubled: {doubled}"


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_key_of_the_wrong_type_loses_nothing_and_is_left_alone(
    world: World, operation: str, key: str
) -> None:
    name = KEYS[key](world.keys)
    world.spoil(name)
    before, dumped = world.documents(), world.dump()
    try:
        OPERATIONS[operation](world)
    except TransportError as error:
        assert isinstance(error, WrongKeyType), error
        if error.key and operation not in ("recover", "recover lapsed", "unregister", "close", "register"):
            assert error.key.encode() == name
            assert world.dump() == dumped, "something was written before it was refused"
    assert world.is_spoilt(name)
    assert_all_accounted(world, before, operation)


@pytest.mark.parametrize("key", OF_ONE_QUEUE)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_other_queues_go_on_while_a_key_of_one_is_wrong(world: World, operation: str, key: str) -> None:
    world.spoil(KEYS[key](world.keys))
    try:
        OPERATIONS[operation](world)
    except WrongKeyType:
        pass
    world.transport.send([Outgoing("other", b"unharmed")])
    consumer = world.transport.consumer(["q", "other"], "after", "worker")
    found = eventually(lambda: [one for one in consumer.reserve(20) if one.queue == "other"])
    assert [one.document for one in found] == [b"unharmed"]
    assert consumer.settle([Outcome(found[0].tag)]) == [True]
    consumer.close()


@pytest.fixture
def full_redis(own_redis: RedisServer) -> Iterator[Callable[[bool], None]]:
    def fill(full: bool) -> None:
        own_redis.cli("config", "set", "maxmemory", "1" if full else "0")

    own_redis.cli("config", "set", "maxmemory-policy", "noeviction")
    yield fill
    fill(False)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_full_server_is_drained_and_refuses_new_messages_only(
    own_redis: RedisServer, full_redis: Callable[[bool], None], operation: str
) -> None:
    world = World(own_redis)
    before, dumped = world.documents(), world.dump()
    full_redis(True)
    if operation == "send":
        with pytest.raises(BrokerFull):
            OPERATIONS[operation](world)
        assert world.dump() == dumped
    else:
        OPERATIONS[operation](world)
    assert_all_accounted(world, before, operation)
    world.close()


@pytest.mark.parametrize("operation", OPERATIONS)
def test_scripts_that_the_server_forgot_are_loaded_again(own_redis: RedisServer, operation: str) -> None:
    world = World(own_redis)
    OPERATIONS["fetch"](world)
    before = world.documents()
    own_redis.cli("script", "flush")
    OPERATIONS[operation](world)
    assert_all_accounted(world, before, operation)
    world.close()


def test_a_follow_up_for_a_key_of_the_wrong_type_becomes_a_dead_letter(world: World) -> None:
    world.spoil(world.keys.list_of("elsewhere", 0))
    outcome = Outcome(world.held[0].tag, follow_ups=(Outgoing("elsewhere", b"stray"),))
    assert world.consumer.settle([outcome]) == [True]
    (letter,) = [one for one in world.transport.dead_letters() if one.document == b"stray"]
    assert (letter.reason, letter.queue) == ("wrong-key-type", "elsewhere")
    assert world.prefix in letter.causes[0]


def test_a_deferred_message_whose_schedule_is_spoiled_becomes_a_dead_letter(world: World) -> None:
    world.spoil(world.keys.due("q"))
    outcome = Outcome(world.held[0].tag, Verdict.DEFER, due_wall_s=FAR_WALL_S)
    assert world.consumer.settle([outcome]) == [True]
    (letter,) = [one for one in world.transport.dead_letters() if one.document == world.held[0].document]
    assert letter.reason == "wrong-key-type"


def test_a_worker_can_begin_to_drain_a_full_server(
    own_redis: RedisServer, full_redis: Callable[[bool], None]
) -> None:
    transport = open_transport(own_redis.url, {})
    transport.send([Outgoing("q", b"m")])
    full_redis(True)
    starting = open_transport(own_redis.url, {})
    consumer = starting.consumer(["q", "new"], "owner", "worker")
    (held,) = consumer.reserve(5)
    results = (StoredResult("id", RESULT),)
    assert consumer.settle([Outcome(held.tag, follow_ups=(Outgoing("new", b"n"),), results=results)]) == [
        True
    ]
    assert [one.document for one in consumer.reserve(5)] == [b"n"]
    consumer.close()
    starting.close()
    transport.close()

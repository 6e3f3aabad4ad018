"""The wire, held against the real peer: Celery writes and we read, we write and Celery reads."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import celery
import kombu.utils.json as kombu_json
import pytest
from celery.worker.request import Request
from kombu.serialization import prepare_accept_content
from kombu.transport.virtual import Message as KombuMessage

from prefork.engine.message import TaskDraft, TaskMessage, encode_task, parse, retry_of
from prefork.serializers.iso8601 import unix
from prefork.serializers.registry import SerializerTable

NAMES = ("json", "msgpack", "pickle")
ACCEPT = prepare_accept_content(list(NAMES))


class Peer:
    """A Celery app on kombu's memory transport, which makes the documents that Redis would hold."""

    def __init__(self, **conf: Any) -> None:
        self.app = celery.Celery("peer", broker="memory://", backend="cache+memory://", set_as_current=False)
        self.app.conf.update(accept_content=list(NAMES), **conf)

        @self.app.task(name="proj.add")
        def add(*args: Any, **kwargs: Any) -> None:
            """Never runs."""

        self.add = add
        self.queue = f"q-{uuid.uuid4().hex}"
        self.connection = self.app.connection()
        self.channel = self.connection.default_channel

    def sends(self, *args: Any, **options: Any) -> bytes:
        """The document of one call."""
        self.add.apply_async(*args, queue=self.queue, connection=self.connection, **options)
        return str(kombu_json.dumps(self.channel._get(self.queue))).encode()

    def reads(self, document: bytes) -> KombuMessage:
        """A document as kombu's consumer hands it on."""
        return KombuMessage(kombu_json.loads(document), channel=self.channel, accept=ACCEPT)

    def request(self, document: bytes) -> Request:
        """A document as Celery's worker sees it."""
        return Request(self.reads(document), app=self.app, task=self.add)

    def close(self) -> None:
        self.connection.release()
        self.app.close()


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.close()


@pytest.fixture
def table() -> SerializerTable:
    made = SerializerTable(NAMES, NAMES)
    made.allow_unpickling()
    return made


def test_a_plain_call_by_celery_is_read_whole(peer: Peer, table: SerializerTable) -> None:
    message = parse(peer.sends((2, 3), {"x": "é"}, task_id="t-1"), table)
    args, kwargs, embed = message.payload(table)
    assert (message.id, message.task, args, kwargs) == ("t-1", "proj.add", [2, 3], {"x": "é"})
    assert (message.root_id, message.parent_id, message.correlation_id) == ("t-1", None, "t-1")
    assert (message.retries, message.eta_wall_s, message.expires_wall_s) == (0, None, None)
    assert (message.exchange, message.routing_key, message.priority) == ("", peer.queue, 0)
    assert (message.ignore_result, message.protocol, message.headers) == (False, 2, None)
    assert message.argsrepr == "(2, 3)"
    assert (embed.callbacks, embed.errbacks, embed.chain, embed.chord) == (None, None, None, None)


def test_every_option_of_a_call_by_celery_arrives(peer: Peer, table: SerializerTable) -> None:
    eta = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=timezone.utc)
    document = peer.sends(
        (1,),
        eta=eta,
        expires=eta + timedelta(seconds=50),
        priority=6,
        time_limit=30,
        soft_time_limit=20,
        shadow="sh",
        retries=3,
        group_id="g",
        group_index=4,
        root_id="r",
        parent_id="p",
        reply_to="back",
        headers={"mine": [1, Decimal("1.5")]},
        compression="zlib",
        ignore_result=True,
        replaced_task_nesting=2,
        link=peer.add.si(7),
        link_error=peer.add.si(8),
        chain=[peer.add.si(9)],
        chord=peer.add.si(10),
    )
    message = parse(document, table)
    args, _, embed = message.payload(table)
    assert args == [1]
    assert message.eta_wall_s == unix(eta)
    assert message.expires_wall_s == unix(eta) + 50
    assert (message.priority, message.time_limit_s, message.soft_time_limit_s) == (6, 30.0, 20.0)
    assert (message.shadow, message.retries, message.group, message.group_index) == ("sh", 3, "g", 4)
    assert (message.root_id, message.parent_id, message.reply_to) == ("r", "p", "back")
    assert (message.ignore_result, message.replaced_task_nesting) == (True, 2)
    assert message.headers == {"mine": [1, Decimal("1.5")]}
    assert message.compression == "application/x-gzip"
    assert embed.callbacks is not None and embed.callbacks[0]["args"] == [7]
    assert embed.errbacks is not None and embed.errbacks[0]["args"] == [8]
    assert embed.chain is not None and embed.chain[0]["args"] == [9]
    assert embed.chord is not None and embed.chord["args"] == [10]


@pytest.mark.parametrize("name", NAMES)
def test_every_serializer_of_celery_is_read(peer: Peer, table: SerializerTable, name: str) -> None:
    message = parse(peer.sends(([1, "x"],), {"k": 1.5}, serializer=name), table)
    args, kwargs, _ = message.payload(table)
    assert (args, kwargs, message.protocol) == ([[1, "x"]], {"k": 1.5}, 2)


def test_protocol_1_of_celery_is_read(table: SerializerTable) -> None:
    peer = Peer(task_protocol=1)
    document = peer.sends((2, 2), {"k": 1}, task_id="t1", countdown=10, group_id="g", link=peer.add.si(7))
    message = parse(document, table)
    args, kwargs, embed = message.payload(table)
    assert (message.protocol, message.hybrid, message.task, message.id) == (1, False, "proj.add", "t1")
    assert (args, kwargs, message.group, message.retries) == ([2, 2], {"k": 1}, "g", 0)
    assert message.eta_wall_s is not None
    assert embed.callbacks is not None and embed.callbacks[0]["args"] == [7]
    peer.close()


def test_stamps_of_celery_are_read(peer: Peer, table: SerializerTable) -> None:
    signature = peer.add.si(1)
    signature.stamp(foo="bar")
    signature.apply_async(queue=peer.queue, connection=peer.connection)
    document = str(kombu_json.dumps(peer.channel._get(peer.queue))).encode()
    message = parse(document, table)
    assert message.stamped_headers == ["foo"]
    assert message.stamps is not None and message.stamps["foo"] in ("bar", ["bar"])
    assert message.headers is None


def _full_draft(**changes: Any) -> TaskDraft:
    draft = TaskDraft(
        task="proj.add",
        id="t-2",
        args=(1, b"\xff", Decimal("1.5"), uuid.UUID(int=5), datetime(2024, 1, 2, tzinfo=timezone.utc)),
        kwargs={"k": "é"},
        queue="orders",
        retries=2,
        eta_wall_s=1_900_000_000.25,
        expires_wall_s=1_900_000_060.0,
        time_limit_s=30.0,
        soft_time_limit_s=20.0,
        root_id="r",
        parent_id="p",
        group="g",
        group_index=1,
        shadow="sh",
        ignore_result=True,
        argsrepr="(…)",
        kwargsrepr="{…}",
        origin="gen1@host",
        replaced_task_nesting=1,
        callbacks=[{"task": "proj.add", "args": [7], "kwargs": {}}],
        reply_to="back",
        priority=6,
    )
    for name, value in changes.items():
        setattr(draft, name, value)
    return draft


def test_celery_reads_every_field_that_we_write(peer: Peer, table: SerializerTable) -> None:
    draft = _full_draft()
    request = peer.request(encode_task(draft, table, now_wall_s=1_900_000_000.0))
    assert (request.id, request.request_dict["task"], request.name) == ("t-2", "proj.add", "sh")
    assert (list(request.args), request.kwargs) == (list(draft.args), {"k": "é"})
    assert request.eta is not None and unix(request.eta) == draft.eta_wall_s
    assert request.expires is not None and unix(request.expires) == draft.expires_wall_s
    assert tuple(request.time_limits) == (30.0, 20.0)
    assert (request.root_id, request.parent_id, request.ignore_result) == ("r", "p", True)
    assert (request.group, request.group_index, request.argsrepr) == ("g", 1, "(…)")
    assert (request.correlation_id, request.reply_to) == ("t-2", "back")
    info = request.delivery_info
    assert (info["exchange"], info["routing_key"], info["priority"]) == ("", "orders", 6)
    assert request.request_dict["retries"] == 2
    assert request.request_dict["replaced_task_nesting"] == 1
    assert request.message.properties["expiration"] == "60000"
    assert request.message.properties["delivery_mode"] == 2
    assert request.request_dict["origin"] == "gen1@host"


def test_we_write_the_headers_that_celery_writes(peer: Peer, table: SerializerTable) -> None:
    ours = kombu_json.loads(encode_task(TaskDraft(task="proj.add", id="1"), table))
    theirs = kombu_json.loads(peer.sends((), task_id="1"))
    assert list(ours["headers"]) == list(theirs["headers"])
    assert set(ours["properties"]) == set(theirs["properties"])
    assert set(ours) == set(theirs)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("compression", [None, "zlib", "bzip2", "xz"])
def test_celery_reads_every_serializer_and_compression(
    peer: Peer, table: SerializerTable, name: str, compression: str | None
) -> None:
    draft = TaskDraft(
        task="proj.add", id="1", args=([1, "é"],), kwargs={"k": 1.5}, serializer=name, compression=compression
    )
    request = peer.request(encode_task(draft, table))
    assert (list(request.args), request.kwargs) == ([[1, "é"]], {"k": 1.5})


def test_celery_reads_custom_headers_and_stamps_that_we_write(peer: Peer, table: SerializerTable) -> None:
    draft = _full_draft(headers={"mine": Decimal("2.5")}, stamped_headers=["foo"], stamps={"foo": "bar"})
    request = peer.request(encode_task(draft, table))
    assert request.request_dict["mine"] == Decimal("2.5")
    assert (request.stamped_headers, request.stamps) == (["foo"], {"foo": "bar"})


def test_celery_reads_protocol_1_that_we_write(peer: Peer, table: SerializerTable) -> None:
    message = peer.reads(encode_task(_full_draft(protocol=1), table))
    body = message.decode()
    assert message.headers == {}
    assert (body["task"], body["id"], body["retries"], body["group"]) == ("proj.add", "t-2", 2, "g")
    assert (body["timelimit"], body["taskset"], body["utc"]) == ([30.0, 20.0], "g", True)
    assert body["callbacks"] == [{"task": "proj.add", "args": [7], "kwargs": {}}]


def test_a_task_of_celery_that_we_retry_is_read_by_celery(peer: Peer, table: SerializerTable) -> None:
    document = peer.sends((1, 2), headers={"mine": "hdr"}, task_id="t", link=peer.add.si(7), priority=3)
    message = parse(document, table)
    again = retry_of(message, table, eta_wall_s=1_900_000_000.0)
    request = peer.request(again)
    assert (request.id, list(request.args), request.request_dict["retries"]) == ("t", [1, 2], 1)
    assert request.request_dict["mine"] == "hdr"
    assert request.eta is not None and unix(request.eta) == 1_900_000_000.0
    assert request.delivery_info["priority"] == 3
    before, after = _fields(message), _fields(parse(again, table))
    assert {name for name in before if before[name] != after[name]} == {"retries", "eta_wall_s"}


def _fields(message: TaskMessage) -> dict[str, Any]:
    names = set(TaskMessage.__struct_fields__) - {"envelope", "decoded", "more_headers"}
    return {name: getattr(message, name) for name in names}

"""The worker's end of remote control, against a mailbox that a test fills by hand."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefork.engine import App
from prefork.engine.control.lamport import LamportClock
from prefork.engine.responder.cancelling import IDS_MAX, TOLD_LENGTH_MAX, revoked_ids, tellable
from prefork.engine.responder.node import Node, start_node
from prefork.engine.responder.side import WorkerSide
from prefork.engine.scoreboard import Scoreboard
from prefork.transports.base import Message
from prefork.transports.errors import BrokerUnavailable
from prefork.transports.registry import open_transport
from support.waiting import eventually


class Revoker:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.known: list[str] = []
        self.loaded = threading.Event()

    def revoke(self, ids: Any, *, terminate: bool = False, signal: Any = None) -> Any:
        self.known += ids
        return SimpleNamespace(flagged=ids, ended=list(ids) if terminate else [])

    def revoke_by_stamped_headers(self, headers: Any, *, terminate: bool = False, signal: Any = None) -> Any:
        return SimpleNamespace(flagged=list(headers), ended=[])

    def load(self, ids: Any) -> None:
        self.known += ids
        self.loaded.set()

    def revoked(self) -> list[str]:
        return list(self.known)


class Controls:
    """A broker that keeps replies, and loses the connection when it is told to."""

    def __init__(self) -> None:
        self.inner: Any = open_transport(f"memory://{id(self)}", {})
        self.capabilities = self.inner.capabilities
        self.replied: list[tuple[str, str, Message]] = []
        self.away = False

    def mailbox(self, exchange: str, node: str, queue: Any = None) -> Any:
        self._check()
        return self.inner.mailbox(exchange, node)

    def replies(self, exchange: str, address: str, queue: Any = None) -> Any:
        self._check()
        return self.inner.replies(exchange, address)

    def broadcast(self, exchange: str, message: Message) -> None:
        self._check()
        self.inner.broadcast(exchange, message)

    def reply(self, exchange: str, address: str, message: Message) -> None:
        self._check()
        self.replied.append((exchange, address, message))
        self.inner.reply(exchange, address, message)

    def _check(self) -> None:
        if self.away:
            raise BrokerUnavailable("gone")


@pytest.fixture
def controls() -> Controls:
    return Controls()


@pytest.fixture
def side(controls: Controls) -> WorkerSide:
    app = App("shop", broker="memory://", set_as_current=False)
    loaded: Any = SimpleNamespace(
        app=app, config=app.config, node="w@h", options={"queues": ["celery"], "autoscale": None}
    )
    return WorkerSide(
        loaded=loaded,
        storage=SimpleNamespace(transport=controls, table=app.client.table),  # type: ignore[arg-type]
        scoreboard=Scoreboard(),
        worker_id="w@h-1",
        clock=LamportClock(),
        revoker=Revoker(),
        rates=None,
        supervisor=None,
        started_mono_s=time.monotonic(),
        stop=lambda: None,
    )


@pytest.fixture
def node(side: WorkerSide) -> Iterator[Node]:
    with closing(Node(side, mingle=False)) as made:
        yield made


def request(
    method: str = "ping", *, reply: bool = True, expires: Any = 0, clock: Any = 1, **body: Any
) -> Message:
    document: dict[str, Any] = {"method": method, "arguments": {}, "destination": None, **body}
    if reply:
        document |= {"ticket": "t", "reply_to": {"exchange": "reply.celery.pidbox", "routing_key": "me"}}
    headers = {"clock": clock, "expires": expires}
    return Message(json.dumps(document).encode(), "application/json", "utf-8", headers, {})


def answered(controls: Controls) -> Any:
    """The only answer there was."""
    ((exchange, address, message),) = controls.replied
    assert (exchange, address, message.headers["ticket"]) == ("reply.celery.pidbox", "me", "t")
    (value,) = json.loads(message.body).values()
    return value


def test_a_request_is_answered_where_it_says(node: Node, controls: Controls) -> None:
    node.take(request())
    assert answered(controls) == {"ok": "pong"}


def test_a_cast_is_carried_out_and_not_answered(node: Node, controls: Controls, side: WorkerSide) -> None:
    node.take(request("revoke", reply=False, arguments={"task_id": ["a", "b"]}))
    assert side.revoker.revoked() == ["a", "b"]
    assert controls.replied == []


def test_the_clock_is_later_than_the_clients(node: Node, controls: Controls) -> None:
    node.take(request(clock=500))
    ((_, _, message),) = controls.replied
    assert message.headers["clock"] > 500


def test_a_question_that_nobody_waits_for_is_left_out(
    node: Node, controls: Controls, side: WorkerSide
) -> None:
    node.take(request(expires=time.time() - 60))
    assert controls.replied == []
    assert side.counts == {"expired": 1}


def test_a_clock_that_is_a_little_behind_costs_no_answer(node: Node, controls: Controls) -> None:
    node.take(request(expires=time.time() - 2))
    assert answered(controls) == {"ok": "pong"}


def test_a_command_is_carried_out_although_nobody_waits(node: Node, side: WorkerSide) -> None:
    node.take(request("revoke", expires=time.time() - 60, arguments={"task_id": "late"}))
    assert side.revoker.revoked() == ["late"]


def test_hello_from_itself_tells_nothing(node: Node, controls: Controls) -> None:
    node.take(request("hello", arguments={"from_node": "w@h", "revoked": ["x"]}))
    assert answered(controls) is None


@pytest.mark.parametrize("revoked", [["a", 1, "b"], {"a": [1.0, "a"], "b": [2.0, "b"]}])
def test_hello_takes_both_forms_that_workers_send(
    node: Node, controls: Controls, side: WorkerSide, revoked: Any
) -> None:
    node.take(request("hello", arguments={"from_node": "o@h", "revoked": revoked}))
    assert side.revoker.revoked() == ["a", "b"]
    assert answered(controls)["revoked"] == ["a", "b"]


def test_what_others_send_and_what_they_are_told_is_bounded() -> None:
    assert len(revoked_ids([str(n) for n in range(IDS_MAX + 10)])) == IDS_MAX
    assert revoked_ids("abc") == []
    told = tellable([f"{n:0200}" for n in range(50_000)])
    assert sum(map(len, told)) <= TOLD_LENGTH_MAX
    assert told[-1] == f"{49_999:0200}"
    assert told == sorted(told)


def test_an_answer_that_cannot_be_written_is_an_error(
    node: Node, controls: Controls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node._side.revoker, "revoked", lambda: [object()])
    node.take(request("revoked"))
    assert "EncodeError" in answered(controls)["error"]


def test_a_broker_that_takes_no_answer_does_no_harm(
    node: Node, controls: Controls, side: WorkerSide, caplog: pytest.LogCaptureFixture
) -> None:
    controls.away = True
    for _ in range(3):
        node.take(request())
    controls.away = False
    assert side.counts["unanswered"] == 3
    assert caplog.text.count("could not be sent") == 1
    node.take(request())
    assert answered(controls) == {"ok": "pong"}


def test_what_cannot_be_read_is_counted_and_logged_once(
    node: Node, side: WorkerSide, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        node.take(Message(b"junk", "application/json", "utf-8", {}, {}))
    assert side.counts == {"malformed": 3}
    assert caplog.text.count("left out") == 1


VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
COMMANDS = st.sampled_from(
    ["ping", "revoke", "terminate", "revoke_by_stamped_headers", "rate_limit", "time_limit", "hello", "conf"]
    + [
        "registered",
        "query_task",
        "active",
        "reserved",
        "clock",
        "pool_grow",
        "shutdown",
        "revoked",
        "nothing",
    ]
)
NAMES = st.sampled_from(
    ["task_id", "terminate", "signal", "headers", "task_name", "rate_limit", "soft", "hard", "from_node"]
    + ["revoked", "with_defaults", "taskinfoitems", "builtins", "ids", "safe", "n", "self", "side", "x"]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(method=COMMANDS, arguments=st.dictionaries(NAMES, VALUES, max_size=4))
def test_no_arguments_of_any_command_do_harm(
    node: Node, controls: Controls, side: WorkerSide, method: str, arguments: dict[str, Any]
) -> None:
    controls.replied.clear()
    node.take(request(method, arguments=arguments))
    assert len(controls.replied) == (0 if method == "shutdown" else 1)
    assert "malformed" not in side.counts
    controls.replied.clear()
    node.take(request())
    assert answered(controls) == {"ok": "pong"}


def test_it_listens_and_mingles_beside_its_answers(side: WorkerSide, controls: Controls) -> None:
    side.revoker.load(["mine"])
    other: Any = controls.inner.mailbox("celery", "o@h")
    with closing(Node(side, mingle=True)) as node:
        node.start()
        (hello,) = eventually(lambda: other.receive(0.1))
        asked = json.loads(hello.body)
        assert asked["method"] == "hello"
        assert asked["arguments"] == {"from_node": "w@h", "revoked": ["mine"]}
        answer = Message(
            b'{"o@h": {"revoked": ["theirs"], "clock": 70}}', "application/json", "utf-8", {}, {}
        )
        answer.headers["ticket"] = asked["ticket"]
        side.revoker.loaded.clear()  # type: ignore[attr-defined]
        controls.inner.reply(asked["reply_to"]["exchange"], asked["reply_to"]["routing_key"], answer)
        assert side.revoker.loaded.wait(5)  # type: ignore[attr-defined]
        assert side.revoker.revoked()[-1] == "theirs"
        eventually(lambda: side.clock.value > 70)
        controls.inner.broadcast("celery", request())
        eventually(lambda: any(message.headers.get("ticket") == "t" for _, _, message in controls.replied))
    other.close()


def test_it_waits_for_a_broker_that_is_away(
    side: WorkerSide, controls: Controls, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefork.engine.responder.node._RETRY_S", 0.02)
    monkeypatch.setattr("prefork.engine.responder.node._START_S", 0.1)
    caplog.set_level(logging.WARNING)
    controls.away = True
    with closing(Node(side, mingle=False)) as node:
        node.start()
        eventually(lambda: "trying again" in caplog.text)
        controls.away = False

        def heard() -> bool:
            controls.broadcast("celery", request())
            return bool(controls.replied)

        eventually(heard)
        eventually(lambda: "heard again" in caplog.text)
    assert caplog.text.count("trying again") == 1


class Unsound:
    """A mailbox that fails as nobody thought of, and cannot even be closed."""

    def fileno(self) -> int:
        return -1

    def receive(self, timeout_s: float = 0.0) -> list[Message]:
        raise RuntimeError("not thought of")

    def close(self) -> None:
        raise BrokerUnavailable("gone, too")


def test_a_failure_that_nobody_thought_of_leaves_no_worker_deaf(
    side: WorkerSide, controls: Controls, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefork.engine.responder.node._LOOK_S", 0.02)
    monkeypatch.setattr("prefork.engine.responder.node._RETRY_S", 0.02)
    opened: list[Any] = [Unsound(), Unsound()]

    def mailbox(exchange: str, node: str, queue: Any = None) -> Any:
        return opened.pop() if opened else controls.inner.mailbox(exchange, node)

    monkeypatch.setattr(controls, "mailbox", mailbox)
    with closing(Node(side, mingle=False)) as node:
        node.start()

        def heard() -> bool:
            controls.broadcast("celery", request())
            return bool(controls.replied)

        eventually(heard)
    assert side.counts["unheard"] == 2
    assert caplog.text.count("listening anew") == 1
    assert "gone, too" in caplog.text
    assert "heard again" in caplog.text


def test_it_may_be_closed_twice(side: WorkerSide) -> None:
    node = Node(side, mingle=False)
    node.start()
    node.close()
    node.close()
    assert node._stop_fd == -1


def test_nobody_listens_when_the_configuration_or_the_broker_says_no(side: WorkerSide) -> None:
    said: list[str] = []
    side.loaded.config = SimpleNamespace(worker_enable_remote_control=False)
    assert start_node(side, mingle=False, on_none=said.append) is None
    side.loaded.config = SimpleNamespace(worker_enable_remote_control=True)
    side.storage.transport = object()  # type: ignore[assignment]
    assert start_node(side, mingle=False, on_none=said.append) is None
    assert "worker_enable_remote_control" in said[0]
    assert "no remote control" in said[1]


def test_a_monitor_that_asks_the_same_again_and_again_fills_no_log(
    node: Node, controls: Controls, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        node.take(request("enable_events"))
    answers = [json.loads(message.body)["w@h"] for _, _, message in controls.replied]
    assert answers == [{"error": "event dispatcher unavailable"}] * 5
    assert caplog.text.count("event dispatcher unavailable") == 1


@pytest.mark.parametrize("exchange", ["celery", "reply.other.pidbox", "amq.direct"])
def test_no_answer_goes_where_tasks_may_be(
    node: Node, controls: Controls, side: WorkerSide, exchange: str
) -> None:
    reply_to = {"exchange": exchange, "routing_key": "celery"}
    node.take(request(reply=False, reply_to=reply_to, ticket="t"))
    assert controls.replied == []
    assert side.counts["misdirected"] == 1
    node.take(request())
    assert len(controls.replied) == 1

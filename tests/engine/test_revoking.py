"""Revoking from a client, by whatever the broker and the result store can do."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prefork.engine import revoking
from prefork.engine.app import App
from prefork.engine.control import silent_workers
from prefork.engine.control.collecting import Asker
from prefork.engine.control.wire import Request
from prefork.engine.exceptions import ImproperlyConfigured
from prefork.engine.revocations import BEACON
from prefork.engine.revoked_keys import stamp_keys, task_key
from prefork.engine.terminating import SOFT, signal_of
from prefork.transports.errors import BrokerUnavailable, TransportError
from support.apps import memory_app


class Transport:
    """A broker that remembers nothing and carries no control, such as those behind the bridge."""

    class capabilities:
        routes = False
        shares_queues = False

    def close(self) -> None:
        """Nothing to close."""


class Remembering(Transport):
    """One that remembers, and no more."""

    def __init__(self) -> None:
        self.known: list[tuple[list[str], float]] = []

    def revoke(self, keys: list[str], lifetime_s: float) -> None:
        self.known.append((keys, lifetime_s))

    def _unused(self, *_: Any) -> Any:
        raise AssertionError("only revocations are asked about")

    take_tokens = take_slot = keep_slots = free_slot = free_slots_of = revoked = revoked_mark = _unused
    lock = relock = unlock = locked = prolong = _unused


@pytest.fixture
def app() -> Iterator[App]:
    with memory_app() as made:
        yield made


def on(app: App, transport: Transport, *, results: bool = True) -> App:
    store = app.client.results if results else None
    if not results:
        app.conf.result_backend = None
    app.client.adopt(transport, store)  # type: ignore[arg-type]
    return app


def test_where_only_the_result_store_remembers_workers_are_told_by_its_beacon(app: App) -> None:
    result = on(app, Transport()).AsyncResult("id")
    assert result.revoke() is None
    assert result.state == "REVOKED"
    assert app.client.results.get([BEACON]) != [None]


def test_where_only_the_broker_remembers_no_results_are_needed(app: App) -> None:
    broker = Remembering()
    on(app, broker, results=False).AsyncResult("id").revoke()
    assert broker.known == [([task_key("id")], app.config.worker_revoke_expires)]


def test_where_nobody_would_remember_it_is_refused_with_the_remedy(app: App) -> None:
    with pytest.raises(ImproperlyConfigured, match="set result_backend"):
        on(app, Transport(), results=False).AsyncResult("id").revoke()


@pytest.mark.parametrize("broker", [Transport(), Remembering()])
def test_to_end_what_runs_is_refused_where_nobody_can_be_told(app: App, broker: Transport) -> None:
    result = on(app, broker).AsyncResult("id")
    with pytest.raises(ImproperlyConfigured, match="time limit"):
        result.revoke(terminate=True)
    assert result.state == "PENDING"


def test_a_wrong_signal_is_refused_before_anything_is_done(app: App) -> None:
    result = app.AsyncResult("id")
    with pytest.raises(ValueError, match="no such signal"):
        result.revoke(terminate=True, signal="SIGNONSENSE")
    assert result.state == "PENDING"


@pytest.mark.parametrize("given", [999, "SIGNONSENSE", "SIGSTOP", object()])
@pytest.mark.parametrize("command", ["revoke", "terminate", "revoke_by_stamped_headers"])
def test_a_wrong_signal_is_refused_where_it_is_given(app: App, command: str, given: Any) -> None:
    what: Any = {"tenant": "a"} if "stamped" in command else "id"
    with pytest.raises(ValueError, match="no such signal: |SIGSTOP ends no process"):
        getattr(app.control, command)(what, signal=given)
    transport: Any = app.client.transport
    assert transport.revoked() == []


def test_what_is_stamped_is_revoked_through_any_result(app: App) -> None:
    broker = Remembering()
    result = on(app, broker, results=False).AsyncResult("id")
    result.revoke_by_stamped_headers({"tenant": ["a", "b"]})
    result.revoke_by_stamped_headers(["tenant=c"])
    lifetime_s = app.config.worker_revoke_expires
    assert broker.known == [
        (stamp_keys({"tenant": ["a", "b"]}), lifetime_s),
        (stamp_keys(["tenant=c"]), lifetime_s),
    ]


def test_stamps_that_nobody_would_remember_are_refused(app: App) -> None:
    result = on(app, Transport()).AsyncResult("id")
    with pytest.raises(ImproperlyConfigured, match="which stamps"):
        result.revoke_by_stamped_headers({"tenant": "a"})
    with pytest.raises(ImproperlyConfigured, match="time limit"):
        result.revoke_by_stamped_headers({"tenant": "a"}, terminate=True)


@pytest.mark.parametrize("broker", [None, Remembering()])
def test_what_is_no_stamped_header_is_refused(app: App, broker: Transport | None) -> None:
    result = app.AsyncResult("id") if broker is None else on(app, broker).AsyncResult("id")
    with pytest.raises(ValueError, match="write header=value"):
        result.revoke_by_stamped_headers(["tenant"])


@pytest.mark.parametrize(
    ("number", "state"), [(None, "REVOKED"), ("KILL", "REVOKED"), ("SIGUSR1", "PENDING")]
)
def test_only_a_task_that_cannot_say_it_itself_is_revoked_in_advance(
    app: App, number: str | None, state: str
) -> None:
    result = app.AsyncResult("id")
    result.revoke(terminate=True, signal=number)
    assert result.state == state


def test_whoever_waits_gets_the_answers_of_the_workers_there_are(app: App) -> None:
    assert app.AsyncResult("id").revoke(wait=True, timeout=0.05) in (None, [])


@pytest.mark.parametrize("how", ["result", "cast", "asked"])
def test_while_a_worker_does_not_answer_nobody_says_that_a_task_will_not_run(app: App, how: str) -> None:
    transport: Any = app.client.transport
    transport.heartbeat("silent", 600.0)
    if how == "result":
        app.AsyncResult("id").revoke()
    else:
        app.control.revoke("id", **({"reply": True, "timeout": 0.05} if how == "asked" else {}))
    assert app.AsyncResult("id").state == "PENDING"
    assert transport.revoked() == [task_key("id")]
    transport.unregister("silent")
    app.AsyncResult("id").revoke()
    assert app.AsyncResult("id").state == "REVOKED"


def test_a_worker_that_does_not_answer_is_waited_for_once_and_not_with_every_call(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s, asked, told = [1_000.0], [0], [0]
    cast = Asker.cast

    def ask(self: Asker, request: Request, *args: Any, **options: Any) -> list[Any]:
        asked[0] += 1
        cast(self, request)
        return []

    def count(self: Asker, request: Request) -> None:
        told[0] += 1
        cast(self, request)

    monkeypatch.setattr(silent_workers, "mono_s", lambda: now_s[0])
    monkeypatch.setattr(Asker, "ask", ask)
    monkeypatch.setattr(Asker, "cast", count)
    transport: Any = app.client.transport
    transport.heartbeat("silent", 600.0)
    # Given many calls, the first waits, and the others tell the workers all the same.
    for number in range(100):
        app.AsyncResult(f"id-{number}").revoke()
    assert (asked[0], told[0]) == (1, 99)
    assert len(transport.revoked()) == 100
    # A worker more does not make it worth waiting for the silent one.
    transport.heartbeat("another", 600.0)
    app.control.revoke("more")
    assert (asked[0], told[0]) == (1, 100)
    # After a while it is asked again: it may have been busy.
    now_s[0] += silent_workers.SILENT_S
    app.control.revoke("later")
    app.control.revoke("latest")
    assert (asked[0], told[0]) == (2, 101)
    # Once it has gone the others are asked.
    transport.unregister("silent")
    transport.unregister("another")
    transport.heartbeat("third", 600.0)
    app.control.revoke("last")
    assert (asked[0], told[0]) == (3, 101)
    assert app.AsyncResult("last").state == "PENDING"


CALLS: dict[str, Callable[[App], Any]] = {
    "control.revoke": lambda app: app.control.revoke("id"),
    "control.revoke, reply": lambda app: app.control.revoke("id", reply=True, timeout=0.05),
    "control.terminate": lambda app: app.control.terminate("id"),
    "result.revoke": lambda app: app.AsyncResult("id").revoke(),
    "control, stamped": lambda app: app.control.revoke_by_stamped_headers({"tenant": "a"}),
    "result, stamped": lambda app: app.AsyncResult("id").revoke_by_stamped_headers({"tenant": "a"}),
}


class Flaw:
    """Has a broker's revocations fail, and notes which commands workers are told."""

    def __init__(self, transport: Any, patch: pytest.MonkeyPatch) -> None:
        self.failures: list[TransportError] = []
        self.told: list[str] = []
        remembers, cast = transport.revoke, Asker.cast

        def revoke(keys: Sequence[str], lifetime_s: float) -> None:
            if self.failures:
                raise self.failures.pop(0)
            remembers(keys, lifetime_s)

        def note(asker: Asker, request: Request) -> None:
            self.told.append(request.method)
            cast(asker, request)

        patch.setattr(transport, "revoke", revoke)
        patch.setattr(Asker, "cast", note)


@pytest.fixture
def flaw(app: App, monkeypatch: pytest.MonkeyPatch) -> Flaw:
    return Flaw(app.client.transport, monkeypatch)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_connection_that_was_lost_meanwhile_does_not_keep_a_task_from_being_revoked(
    app: App, flaw: Flaw, call: Callable[[App], Any]
) -> None:
    flaw.failures = [BrokerUnavailable("lost", outcome_unknown=True)]
    call(app)
    transport: Any = app.client.transport
    assert len(transport.revoked()) == 1
    assert len(flaw.told) == 1


@pytest.mark.parametrize("failure", [BrokerUnavailable, TransportError])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_what_the_broker_does_not_remember_is_told_to_the_workers_before_it_is_raised(
    app: App, flaw: Flaw, call: Callable[[App], Any], failure: type[TransportError]
) -> None:
    flaw.failures = [failure(f"away {number}") for number in range(1000)]
    with pytest.raises(failure, match="away"):
        call(app)
    assert len(flaw.told) == 1
    assert app.AsyncResult("id").state == "PENDING"


def test_the_error_is_that_of_remembering_also_where_the_workers_are_not_told_either(
    app: App, flaw: Flaw, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(asker: Asker, request: Request) -> None:
        raise BrokerUnavailable("and not told")

    monkeypatch.setattr(Asker, "cast", fail)
    flaw.failures = [TransportError("not remembered")]
    with pytest.raises(TransportError, match="not remembered"):
        app.control.revoke("id")


@pytest.mark.parametrize("stamped", [False, True])
def test_without_remote_control_it_is_tried_again_as_well(app: App, stamped: bool) -> None:
    broker = Remembering()
    revoke, failures = broker.revoke, [BrokerUnavailable("lost")]

    def fails_once(keys: list[str], lifetime_s: float) -> None:
        if failures:
            raise failures.pop()
        revoke(keys, lifetime_s)

    broker.revoke = fails_once  # type: ignore[method-assign]
    result = on(app, broker, results=False).AsyncResult("id")
    if stamped:
        result.revoke_by_stamped_headers({"tenant": "a"})
    else:
        result.revoke()
    assert len(broker.known) == 1


@pytest.mark.parametrize("limited", [{"destination": ["a@b"]}, {"pattern": "a*", "matcher": "glob"}])
def test_what_only_some_workers_are_told_is_not_revoked_for_all(app: App, limited: dict[str, Any]) -> None:
    app.control.revoke("id", **limited)
    transport: Any = app.client.transport
    assert (app.AsyncResult("id").state, transport.revoked()) == ("PENDING", [])


def test_the_results_of_a_set_are_revoked_in_one_go(app: App) -> None:
    broker = Remembering()
    on(app, broker, results=False)
    results = [app.AsyncResult(one) for one in "abc"]
    app.ResultSet([*results[:2], app.GroupResult("group", results[2:])]).revoke()
    lifetime_s = app.config.worker_revoke_expires
    assert sorted(broker.known) == [
        ([task_key("a"), task_key("b")], lifetime_s),
        ([task_key("c")], lifetime_s),
    ]


def test_many_are_revoked_together(app: App) -> None:
    revoking.revoke(app, ["a", "b"])
    assert [app.AsyncResult(one).state for one in "ab"] == ["REVOKED", "REVOKED"]


# --- signals --------------------------------------------------------------------------------------------


@given(
    number=st.sampled_from([signal.SIGTERM, signal.SIGKILL, signal.SIGQUIT, signal.SIGUSR1, signal.SIGINT])
)
def test_a_signal_may_be_named_in_any_way(number: signal.Signals) -> None:
    short = number.name.removeprefix("SIG")
    forms = (number, int(number), str(int(number)), number.name, short, short.lower())
    assert {signal_of(form) for form in forms} == {number}
    assert signal_of(None) is signal.SIGTERM


@example(float("inf"))
@given(
    anything=st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.binary(), st.lists(st.integers()))
)
def test_whatever_is_given_is_a_signal_that_ends_something_or_refused(anything: Any) -> None:
    try:
        number = signal_of(anything)
    except ValueError as error:
        assert "signal" in str(error) or "ends no process" in str(error)
    else:
        assert number in SOFT or number not in (signal.SIGSTOP, signal.SIGCONT, signal.SIGCHLD)

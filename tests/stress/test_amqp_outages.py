"""RabbitMQ away, in need, or changed by somebody while workers consume (I11, I25): nothing is lost."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from prefork.engine import chain
from prefork.transports.errors import BrokerFull
from support.amqp_stress import AmqpSite, arguments_of
from support.ledger import Ledger
from support.rabbitmq_server import RabbitMQ, shared
from support.stress_worker import QUEUE
from support.tcp_proxy import Mode, tcp_proxy
from support.waiting import Background, eventually

TASKS = 160
CUTS = 10
DOUBTFUL = "5f0d1c52-0000-4000-8000-000000000001"
BY_DEFAULT = {("classic", "close"), ("quorum", "restart")}


@pytest.fixture(scope="module")
def server() -> RabbitMQ:
    return shared()


@pytest.fixture
def amqp_site(server: RabbitMQ, tmp_path: Path) -> Iterator[AmqpSite]:
    made = AmqpSite(tmp_path, server)
    yield made
    made.close()


def load(site: AmqpSite, dice: random.Random, longest_s: float = 0.02) -> None:
    for index in range(TASKS):
        site.send("timed" if index % 3 else "work", dice.uniform(0.0, longest_s))


@contextmanager
def kept_at_work(site: AmqpSite, dice: random.Random, longest_s: float) -> Iterator[None]:
    """Send more whenever few are left; while the broker does not take them, try on."""
    over = threading.Event()

    def send() -> None:
        ledger = Ledger(site.ledger.path)
        while not over.is_set():
            left = len(site.accepted) - len(ledger.read().finished)
            if left > TASKS or site.try_send(dice.uniform(0.0, longest_s)) is None:
                over.wait(0.02)

    feeder = Background(send)
    try:
        yield
    finally:
        over.set()
        feeder.result()


def assert_nothing_lost(site: AmqpSite) -> None:
    """Everything ran. What runs while its connection breaks goes to another, so it may run again."""
    site.finished(40.0)
    site.empty()
    found = site.judged()
    assert (found.lost, found.phantom, found.vanished) == ([], [], [])
    assert site.dead() == []


def _combined(*given: tuple[str, str]) -> list[object]:
    return [pytest.param(*pair, marks=() if pair in BY_DEFAULT else pytest.mark.soak) for pair in given]


@pytest.mark.parametrize(
    ("queue_type", "outage"), _combined(*itertools.product(("classic", "quorum"), ("close", "restart")))
)
def test_outages_of_the_broker_lose_nothing_and_end_within_five_seconds(
    server: RabbitMQ,
    tmp_path: Path,
    dice: random.Random,
    queue_type: str,
    outage: str,
    request: pytest.FixtureRequest,
) -> None:
    site = AmqpSite(tmp_path, server, task_default_queue_type=queue_type)
    request.addfinalizer(site.close)
    load(site, dice, 0.06)
    before = arguments_of(site)
    worker = site.worker(concurrency=2).start()
    # rabbitmqctl may take many seconds until it does anything.
    with kept_at_work(site, dice, 0.06):
        eventually(lambda: site.ledger.read().running(), deadline_s=10.0)
        if outage == "restart":
            server.control("stop_app")
            server.control("start_app")
        else:
            server.control("close_all_connections", "--vhost", site.vhost, "a test")
        left = len(site.accepted) - len(site.ledger.read().finished)
        site.resumes()
    print(f"{left} of {len(site.accepted)} tasks were left when the broker was back")
    assert left > 10, "the outage came too late"
    # Sent anew at once; it starts behind what was left, and that has started again.
    eventually(site.try_send, deadline_s=5.0, every_s=0.05)
    assert_nothing_lost(site)
    site.consumes()
    assert_nothing_lost(site)
    assert arguments_of(site) == before
    assert worker.stats()["deaths"] == {}
    assert worker.stop() == 0


def test_while_an_alarm_lasts_senders_are_told_in_time_and_consumers_go_on(
    server: RabbitMQ, tmp_path: Path, dice: random.Random, request: pytest.FixtureRequest
) -> None:
    site = AmqpSite(tmp_path, server, broker_transport_options={"publish_deadline": 1.5})
    request.addfinalizer(site.close)
    load(site, dice)
    with server.alarm():
        worker = site.worker(concurrency=2).start()
        begun_s = time.monotonic()
        with pytest.raises(BrokerFull, match="alarm") as told:
            site.app.send_task("work", (0.0,), retry=False, task_id=DOUBTFUL)
        took_s = time.monotonic() - begun_s
        # It was on its way before the alarm was known: that is said, and it may come after all.
        assert told.value.outcome_unknown
        site.doubtful.append(DOUBTFUL)
        print(f"told after {took_s:.2f} s")
        assert took_s < 2.5
        site.finished(20.0)
        assert site.state(site.accepted[1]) == "SUCCESS"
    site.consumes()
    assert_nothing_lost(site)
    assert worker.stats()["deaths"] == {}
    assert worker.stop() == 0


def test_however_long_an_alarm_lasts_what_a_task_sends_runs_once(
    server: RabbitMQ, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    site = AmqpSite(tmp_path, server, broker_transport_options={"publish_deadline": 1.5})
    request.addfinalizer(site.close)
    worker = site.worker(concurrency=2).start()
    site.consumes()
    # rabbitmqctl may take many seconds until it does anything.
    gate = tmp_path / "gate"
    first = [site.app.signature("held", (str(gate),)) for _ in range(2)]
    second = [site.app.signature("timed", (0.0,), immutable=True) for _ in range(2)]
    sent = [chain(one, other).apply_async() for one, other in zip(first, second, strict=True)]
    for one in sent:
        site.accepted += [one.parent.id, one.id]
        site.started(one.parent.id)
    with server.alarm():
        gate.touch()
        with pytest.raises(AssertionError):
            eventually(lambda: [one for one in sent if site.starts(one.id)], deadline_s=12.0)
    site.finished(20.0)
    site.empty()
    assert {one.id: len(site.starts(one.id)) for one in sent} == {one.id: 1 for one in sent}
    assert {one.parent.id: len(site.starts(one.parent.id)) for one in sent} == {
        one.parent.id: 1 for one in sent
    }
    assert worker.stats()["deaths"] == {}
    assert worker.stop() == 0


def test_a_queue_that_is_deleted_under_its_consumers_is_there_again_as_it_was(amqp_site: AmqpSite) -> None:
    worker = amqp_site.worker(concurrency=2).start()
    amqp_site.consumes()
    before = arguments_of(amqp_site)
    for _ in range(3):
        with amqp_site.channel() as channel:
            channel.queue_delete(QUEUE)
        print(f"consumed again after {amqp_site.consumes() * 1000:.0f} ms")
    assert arguments_of(amqp_site) == before
    assert "cancelled" in worker.log
    assert_nothing_lost(amqp_site)
    assert worker.stats()["deaths"] == {}
    assert worker.stop() == 0


def test_a_queue_that_is_otherwise_than_configured_is_named_and_the_others_go_on(
    server: RabbitMQ, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    site = AmqpSite(tmp_path, server)
    request.addfinalizer(site.close)
    with site.channel() as channel:
        channel.queue_declare("clashing", durable=True, auto_delete=False, arguments={"x-max-priority": 4})
    worker = site.worker(concurrency=1, task_queues=[{"name": QUEUE}, {"name": "clashing"}]).start()
    site.consumes()
    assert "'clashing' exists and differs in 'x-max-priority'" in worker.log
    assert worker.stop() == 0


def test_a_virtual_host_that_goes_and_comes_is_consumed_from_again(amqp_site: AmqpSite) -> None:
    worker = amqp_site.worker(concurrency=2).start()
    amqp_site.consumes()
    before = arguments_of(amqp_site)
    name = amqp_site.vhost
    amqp_site.server.control("delete_vhost", name)
    eventually(lambda: "cannot be reached" in worker.log, deadline_s=10.0)
    assert "ready" in worker.ask("health")
    amqp_site.server.control(
        "eval",
        f'rabbit_vhost:add(<<"{name}">>, <<"t">>), rabbit_auth_backend_internal:'
        f'set_permissions(<<"guest">>, <<"{name}">>, <<".*">>, <<".*">>, <<".*">>, <<"t">>).',
    )
    print(f"consumed again after {amqp_site.consumes() * 1000:.0f} ms")
    assert arguments_of(amqp_site) == before
    assert worker.stats()["deaths"] == {}
    assert worker.stop() == 0


def test_credentials_that_are_changed_are_said_and_work_goes_on_when_they_hold_again(
    server: RabbitMQ, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    vhost = server.vhost_url().rpartition("/")[2]
    server.control("add_user", vhost, "first-secret")
    server.control("set_permissions", "-p", vhost, vhost, ".*", ".*", ".*")
    site = AmqpSite(tmp_path, server, url=f"amqp://{vhost}:first-secret@127.0.0.1:{server.port}/{vhost}")
    request.addfinalizer(site.close)
    worker = site.worker(concurrency=2).start()
    site.consumes()
    server.control("change_password", vhost, "second-secret")
    server.control("close_all_connections", "--vhost", vhost, "rotated")
    eventually(lambda: "ACCESS_REFUSED" in worker.log, deadline_s=10.0)
    server.control("change_password", vhost, "first-secret")
    print(f"consumed again after {site.consumes() * 1000:.0f} ms")
    assert "secret" not in worker.log
    assert worker.stats()["deaths"] == {}
    assert worker.stop() == 0


MODES = [
    Mode.RESET,
    pytest.param(Mode.CUT_IN_REPLY, marks=pytest.mark.soak),
    pytest.param(Mode.CUT_AFTER_REQUEST, marks=pytest.mark.soak),
]


@pytest.mark.parametrize("mode", MODES)
def test_connections_that_are_cut_at_any_moment_lose_nothing(
    amqp_site: AmqpSite, dice: random.Random, mode: Mode
) -> None:
    site = amqp_site
    load(site, dice)
    with tcp_proxy(site.server.port) as proxy:
        url = f"amqp://guest:guest@127.0.0.1:{proxy.port}/{site.vhost}"
        worker = site.worker(concurrency=2, environ={"STRESS_BROKER": url}).start()
        with kept_at_work(site, dice, 0.02):
            while proxy.hits[mode.value] < CUTS:
                time.sleep(dice.uniform(0.0, 0.12))  # the moment of the cut is what varies
                proxy.set(mode, times=1)
            proxy.set(Mode.PASS)
            hits = proxy.hits[mode.value]
            site.resumes()
        print(f"{hits} cuts of mode {mode.value}, {proxy.hits['connections']} connections")
        assert_nothing_lost(site)
        site.consumes()
        assert worker.stats()["deaths"] == {}
        assert worker.stop() == 0

"""When the agent looks at what others had the broker remember."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from prefork.engine import revoker as module
from prefork.engine.app import App
from prefork.engine.revoked_keys import task_key
from prefork.engine.revoker import GLANCE_HEARING_S, GLANCE_S, LOOK_S, TURN_S
from prefork.engine.settling import Settler
from prefork.engine.storage import Storage, open_storage
from support.apps import memory_app
from support.faulty import Faulty
from support.revoker_scene import Scene

LIFETIME_S = 1_000.0


@pytest.fixture
def app() -> Iterator[App]:
    with memory_app() as made:
        made.conf.result_backend = made.conf.broker_url
        made.conf.worker_revoke_expires = LIFETIME_S
        made.conf.worker_enable_remote_control = False
        yield made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now_s = [1_000.0]
    monkeypatch.setattr(module, "mono_s", lambda: now_s[0])
    return now_s


def test_what_others_had_the_broker_remember_is_seen_within_a_second_though_nobody_says_it(
    app: App, clock: list[float]
) -> None:
    plain = open_storage(app)
    faulty = Faulty(plain.transport)
    storage = Storage(faulty, plain.store, Settler(faulty, plain.store, together=True), app.client.table)  # type: ignore[arg-type]
    scene = Scene(app, storage)
    scene.revoker.turn()
    plain.transport.revoke([task_key("a")], LIFETIME_S)  # type: ignore[attr-defined]
    for _ in range(4):
        clock[0] += GLANCE_S / 4
        scene.revoker.turn()
    assert scene.revoked.revokes("a", None)
    assert faulty.calls["revoked"] == 2
    # While nothing more is revoked, it is not read again before it is due anyway.
    for _ in range(100):
        clock[0] += TURN_S
        scene.revoker.turn()
    assert (faulty.calls["revoked"], faulty.calls["revoked_mark"]) == (2, 27)
    clock[0] += LOOK_S
    scene.revoker.turn()
    assert faulty.calls["revoked"] == 3


def test_who_hears_remote_control_asks_less_often(app: App, clock: list[float]) -> None:
    app.conf.worker_enable_remote_control = True
    scene = Scene(app)
    scene.revoker.turn()
    scene.app.client.transport.revoke([task_key("a")], LIFETIME_S)  # type: ignore[attr-defined]
    begun = clock[0]
    while not scene.revoked.revokes("a", None):
        clock[0] += TURN_S
        scene.revoker.turn()
    assert clock[0] - begun == GLANCE_HEARING_S


def test_what_takes_long_to_read_is_read_less_often(
    app: App, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(app)
    transport: Any = scene.app.client.transport
    read, reads = transport.revoked, [0]

    def slowly() -> list[str]:
        reads[0] += 1
        clock[0] += 0.5
        return list(read())

    monkeypatch.setattr(transport, "revoked", slowly)
    begun = clock[0]
    while clock[0] - begun < 100.0:
        transport.revoke([task_key(str(clock[0]))], LIFETIME_S)
        scene.revoker.turn()
        clock[0] += TURN_S
    assert reads[0] * 0.5 / 100.0 <= 0.05


def test_it_is_looked_again_on_demand_and_later_if_the_broker_is_away_then(
    app: App, clock: list[float]
) -> None:
    plain = open_storage(app)
    faulty = Faulty(plain.transport)
    storage = Storage(faulty, plain.store, Settler(faulty, plain.store, together=True), app.client.table)  # type: ignore[arg-type]
    scene = Scene(app, storage)
    scene.revoker.turn()
    for task_id, failures in (("a", 0), ("b", 1)):
        plain.transport.revoke([task_key(task_id)], LIFETIME_S)  # type: ignore[attr-defined]
        faulty.fail("revoked", failures)
        scene.revoker.look_again()
        assert scene.revoked.revokes(task_id, None) is not bool(failures)
    clock[0] += TURN_S
    scene.revoker.turn()
    assert scene.revoked.revokes("b", None)

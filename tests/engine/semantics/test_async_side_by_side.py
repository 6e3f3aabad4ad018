"""Several `async def` tasks at once in one child (`--async-concurrency`), on any broker."""

from __future__ import annotations

import time

import pytest

from prefork.engine.embed import Worker
from prefork.engine.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded
from support.semantics import Fleet
from support.waiting import eventually

WORKER = {"worker_async_concurrency": 20}
SOURCE = """
import asyncio

app = App("beside", **SETTINGS)
running = []


@app.task
async def nap(delay_s, value=None):
    running.append(value)
    try:
        await asyncio.sleep(delay_s)
        return [value, os.getpid(), len(running)]
    finally:
        running.remove(value)


@app.task
def plain(x):
    return [x, len(running), os.getpid()]


@app.task
def own_loop(x):
    async def inner():
        await asyncio.sleep(0)
        return x
    return asyncio.run(inner())


@app.task(acks_late=False)
async def early(x):
    await asyncio.sleep(0.01)
    return x


@app.task(bind=True, max_retries=3)
async def flaky(self, x):
    await asyncio.sleep(0.01)
    if self.request.retries < 2:
        raise self.retry(args=(x + 1,), countdown=0)
    return [x, self.request.retries, self.request.id]


class Noting(app.Task):
    abstract = True

    async def before_start(self, task_id, args, kwargs):
        await asyncio.sleep(0.01)
        self.note("before_start", task_id)

    async def on_success(self, value, task_id, args, kwargs):
        await asyncio.sleep(0.01)
        self.note("on_success", task_id)

    async def after_return(self, state, value, task_id, args, kwargs, einfo):
        await asyncio.sleep(0.01)
        self.note("after_return", task_id)

    def note(self, hook, task_id):
        assert self.request.id == task_id
        with open(self.request.args[0], "a") as file:
            file.write(f"{task_id} {hook}\\n")


@app.task(base=Noting)
async def hooked(path):
    await asyncio.sleep(0.01)


@app.task(base=Noting)
def plain_hooked(path):
    pass


@app.task
async def explain(request, exc, trace, path):
    await asyncio.sleep(0.01)
    temporary = pathlib.Path(path + ".new")
    temporary.write_text(f"{request.id} {exc}")
    temporary.rename(path)


@app.task
async def fail(text):
    await asyncio.sleep(0)
    raise ValueError(text)


@app.task(soft_time_limit=0.3)
async def softly(path):
    try:
        await asyncio.sleep(60)
    finally:
        note(path, "cleaned up")


@app.task(time_limit=0.3)
async def too_long():
    await asyncio.sleep(60)


@app.task(time_limit=0.5)
async def deaf():
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass


@app.task
async def snoozes(path):
    await asyncio.sleep(0)
    if note_count(path) < 2:
        note(path, "snoozed")
        raise Snooze(0)
    return "awake"


def note_count(path):
    file = ROOT / path
    return len(file.read_text().splitlines()) if file.exists() else 0


@app.task(track_started=True)
async def tracked(path):
    await asyncio.sleep(0)
    while not (ROOT / path).exists():
        await asyncio.sleep(0.01)
    return "released"


@app.task
async def hold(n):
    await asyncio.sleep(1.0)
    sum(range(n))  # does not let go of the interpreter


@app.task(rate_limit="20/s")
async def limited(n):
    await asyncio.sleep(0.2)
    return n


@app.task(max_concurrency=1)
async def counted(path):
    note(path, "+")
    await asyncio.sleep(0.05)
    note(path, "-")


@app.task
async def die(path):
    await asyncio.sleep(0.2)
    note(path, "died")
    os.kill(os.getpid(), signal.SIGKILL)
"""

TIMEOUT_S = 30.0


def test_they_run_at_the_same_time(fleet: Fleet) -> None:
    began_s = time.monotonic()
    results = [fleet.task("nap").delay(0.5, n) for n in range(30)]
    values = [result.get(timeout=TIMEOUT_S) for result in results]
    assert [value for value, _, _ in values] == list(range(30))
    assert time.monotonic() - began_s < 0.5 * 30 / 2
    assert max(together for _, _, together in values) > 3


def test_siblings_share(fleet: Fleet) -> None:
    if not fleet.several_processes:
        return
    # Half as many again as one may run at once. That one leaves some of the first twenty, too, is asked of
    # its limit (test_async_loop): here the machine may let it run before its sibling.
    results = [fleet.task("nap").delay(0.6, n) for n in range(30)]
    assert len({result.get(timeout=TIMEOUT_S)[1] for result in results}) == 2


def test_plain_functions_run_in_between_and_may_have_a_loop_of_their_own(fleet: Fleet) -> None:
    naps = [fleet.task("nap").delay(0.5, n) for n in range(4)]
    plain = [fleet.task("plain").delay(n) for n in range(4)]
    own = [fleet.task("own_loop").delay(n) for n in range(4)]
    assert [result.get(timeout=TIMEOUT_S)[0] for result in plain] == [0, 1, 2, 3]
    assert [result.get(timeout=TIMEOUT_S) for result in own] == [0, 1, 2, 3]
    assert [result.get(timeout=TIMEOUT_S)[0] for result in naps] == [0, 1, 2, 3]


def test_retries_failures_and_early_acknowledgement_are_as_ever(fleet: Fleet) -> None:
    flaky = [fleet.task("flaky").delay(n) for n in range(10)]
    failing = [fleet.task("fail").delay(str(n)) for n in range(5)]
    early = [fleet.task("early").delay(n) for n in range(5)]
    assert [r.get(timeout=TIMEOUT_S) for r in flaky] == [[n + 2, 2, r.id] for n, r in enumerate(flaky)]
    for number, result in enumerate(failing):
        with pytest.raises(ValueError, match=str(number)):
            result.get(timeout=TIMEOUT_S)
        assert "in fail" in (result.traceback or "")
    assert [r.get(timeout=TIMEOUT_S) for r in early] == list(range(5))


@pytest.mark.needs("several_processes")
def test_hooks_are_awaited_before_the_result_is_there(fleet: Fleet) -> None:
    path = fleet.root / "hooks"
    results = [fleet.task("hooked").delay(str(path)) for _ in range(20)]
    results.append(fleet.task("plain_hooked").delay(str(path)))
    for result in results:
        result.get(timeout=20)
    lines = [line.split() for line in path.read_text().splitlines()]
    for result in results:
        called = [hook for task_id, hook in lines if task_id == result.id]
        assert called == ["before_start", "on_success", "after_return"]


def test_error_callbacks_and_maps_are_awaited(fleet: Fleet) -> None:
    path = fleet.root / "explained"
    failing = fleet.task("fail").apply_async(("broken",), link_error=fleet.task("explain").s(str(path)))
    assert fleet.task("nap").map([0.01, 0.02]).apply_async().get(timeout=20)[1][2] >= 1
    starred = fleet.task("nap").starmap([(0, 1), (0, 2)]).apply_async()
    assert [made[0] for made in starred.get(timeout=20)] == [1, 2]
    eventually(path.exists)
    assert path.read_text() == f"{failing.id} broken"


def test_rates_and_counts_across_workers_hold_for_coroutines(fleet: Fleet) -> None:
    path = fleet.unique()
    began_s = time.monotonic()
    limited = [fleet.task("limited").delay(n) for n in range(12)]
    counted = [fleet.task("counted").delay(path) for _ in range(6)]
    assert sorted(result.get(timeout=TIMEOUT_S) for result in limited) == list(range(12))
    assert time.monotonic() - began_s > 11 / 20
    for result in counted:
        result.get(timeout=TIMEOUT_S)
    assert fleet.notes(path) == ["+", "-"] * 6


def test_a_snoozed_task_runs_again(fleet: Fleet) -> None:
    assert fleet.task("snoozes").delay(fleet.unique()).get(timeout=TIMEOUT_S) == "awake"


def test_started_is_stored_while_it_runs(fleet: Fleet) -> None:
    path = fleet.unique()
    result = fleet.task("tracked").delay(path)
    eventually(lambda: result.state == "STARTED", deadline_s=TIMEOUT_S)
    (fleet.root / path).touch()
    assert result.get(timeout=TIMEOUT_S) == "released"


def test_a_soft_limit_ends_one_and_not_the_others(fleet: Fleet) -> None:
    path = fleet.unique()
    others = [fleet.task("nap").delay(0.6, n) for n in range(5)]
    limited = fleet.task("softly").delay(path)
    with pytest.raises(SoftTimeLimitExceeded):
        limited.get(timeout=TIMEOUT_S)
    assert fleet.notes(path) == ["cleaned up"]
    assert [result.get(timeout=TIMEOUT_S)[0] for result in others] == list(range(5))


def test_a_hard_limit_ends_one_that_listens_and_not_the_others(fleet: Fleet) -> None:
    others = [fleet.task("nap").delay(0.6, n) for n in range(5)]
    with pytest.raises(TimeLimitExceeded):
        fleet.task("too_long").delay().get(timeout=TIMEOUT_S)
    pids = {result.get(timeout=TIMEOUT_S)[1] for result in others}
    assert pids
    assert fleet.task("nap").delay(0, 1).get(timeout=TIMEOUT_S)[0] == 1


@pytest.mark.needs("several_processes")
def test_a_hard_limit_kills_the_child_of_one_that_does_not_listen_and_the_others_run_again(
    fleet: Fleet,
) -> None:
    others = [fleet.task("nap").delay(0.6, n) for n in range(6)]
    with pytest.raises(TimeLimitExceeded):
        fleet.task("deaf").delay().get(timeout=TIMEOUT_S)
    assert [result.get(timeout=TIMEOUT_S)[0] for result in others] == list(range(6))


@pytest.mark.needs("several_processes")
def test_what_ran_beside_one_that_kills_its_child_runs_again(fleet: Fleet) -> None:
    path = fleet.unique()
    results = [fleet.task("nap").delay(0.6, n) for n in range(8)]
    fleet.task("die").apply_async((path,), expires=2.0)
    assert [result.get(timeout=TIMEOUT_S)[0] for result in results] == list(range(8))
    assert fleet.notes(path)


@pytest.mark.needs("several_processes")
def test_one_is_ended_on_request_and_not_the_others(fleet: Fleet) -> None:
    others = [fleet.task("nap").delay(0.6, n) for n in range(5)]
    path = fleet.unique()
    asked = fleet.task("tracked").delay(path)
    eventually(lambda: asked.state == "STARTED", deadline_s=TIMEOUT_S)
    asked.revoke(terminate=True)
    eventually(lambda: asked.state == "REVOKED", deadline_s=TIMEOUT_S)
    assert [result.get(timeout=TIMEOUT_S)[0] for result in others] == list(range(5))
    (fleet.root / path).touch()


@pytest.mark.slow
@pytest.mark.needs("several_processes", "recall_by_others")
def test_a_result_does_not_wait_for_one_that_holds_the_interpreter(fleet: Fleet) -> None:
    with fleet.app.bulk():
        holding = [fleet.task("hold").delay(100_000_000) for _ in range(2)]
        naps = [fleet.task("nap").delay(0.9, n) for n in range(4)]
    began_s = time.monotonic()
    assert [result.get(timeout=TIMEOUT_S)[0] for result in naps] == list(range(4))
    naps_s = time.monotonic() - began_s
    for result in holding:
        result.get(timeout=TIMEOUT_S)
    assert naps_s < (time.monotonic() - began_s) / 2


def test_a_worker_that_is_stopped_finishes_what_runs(fleet: Fleet) -> None:
    results = [fleet.task("nap").delay(0.5, n) for n in range(10)]
    time.sleep(0.2)
    fleet.restart()
    assert [result.get(timeout=TIMEOUT_S)[0] for result in results] == list(range(10))


@pytest.mark.needs("several_processes")
def test_what_does_not_end_in_time_when_the_worker_stops_runs_again(fleet: Fleet) -> None:
    path = fleet.unique()
    results = [fleet.task("tracked").delay(path) for _ in range(5)]
    eventually(lambda: all(result.state == "STARTED" for result in results), deadline_s=TIMEOUT_S)
    assert isinstance(fleet.worker, Worker)
    fleet.worker.stop(0.2)
    (fleet.root / path).touch()
    fleet.start_worker()
    assert [result.get(timeout=TIMEOUT_S) for result in results] == ["released"] * 5

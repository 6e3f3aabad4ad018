"""Tasks in a real worker: what the client asks for is what happens there, and comes back."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from prefork.engine import group
from prefork.engine.embed import Worker
from prefork.engine.exceptions import NotRegistered, RemoteTaskError, TaskRevokedError
from prefork.engine.local import apps
from prefork.serializers.base import EncodeError
from support.rabbitmq_server import shared
from support.redis_server import running_redis
from support.waiting import eventually

MODULE = "end_to_end_project"
SOURCE = """
import os
import signal
import time

from prefork.engine import App, allow_join_result, shared_task

app = App(
    "end-to-end",
    broker={url!r},
    result_backend={results!r},
    task_unknown_grace=0.5,
    task_unknown_retry_delay=0.2,
)


@app.on_configure.connect
def configure(sender, **_):
    sender.conf.result_extended = True


class Awkward(Exception):
    def __init__(self, one, two):
        super().__init__(one)


@app.task
def add(x, y=0):
    return x + y


@app.task(bind=True, max_retries=2, default_retry_delay=0.05)
def flaky(self, x):
    if self.request.retries < 2:
        raise self.retry(args=(x + 1,), exc=ValueError("flaky"))
    return x, self.request.retries, self.request.headers


@app.task(autoretry_for=(LookupError,), retry_backoff=0.01, retry_jitter=False, max_retries=1)
def hopeless():
    raise KeyError("never")


@app.task
def awkward():
    raise Awkward(1, 2)


@app.task
def opaque():
    return object()


@app.task(bind=True)
def bad_retry(self):
    raise self.retry(args=(object(),), countdown=0)


@app.task(bind=True)
def parent(self):
    child = add.delay(20, 3)
    self.update_state(state="PROGRESS", meta={{"seen": 1}})
    try:
        child.get(timeout=5)
    except RuntimeError:
        with allow_join_result():
            return child.get(timeout=5), self.AsyncResult(self.request.id).state


@shared_task
def shared(x):
    return x * 2


@app.task(time_limit=0.3)
def hang():
    time.sleep(60)


@app.task
def kill_own_process():
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
def report(request, exc, traceback, path):
    with open(path, "a") as stream:
        stream.write(f"{{request.id}} {{request.task}} {{type(exc).__name__}}\\n")


@app.task
def note(path, *args):
    with open(path, "a") as stream:
        stream.write(repr(args) + "\\n")
"""


@pytest.fixture(scope="module", params=["filesystem", "redis", "redis, results in another database", "amqp"])
def urls(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """The addresses of a broker and of a result store."""
    if request.param == "filesystem":
        url = f"filesystem://{tmp_path_factory.mktemp('broker')}"
        yield url, url
        return
    with running_redis() as server:
        if request.param == "amqp":
            yield shared().vhost_url(), server.url
        else:
            yield server.url, server.url_of(0 if request.param == "redis" else 1)


@pytest.fixture(scope="module")
def project(urls: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A project whose tasks run in a worker of two children."""
    root = tmp_path_factory.mktemp("end-to-end")
    url, results = urls
    (root / f"{MODULE}.py").write_text(SOURCE.format(url=url, results=results))
    sys.path.insert(0, str(root))
    before = apps.current
    module = import_module(MODULE)
    try:
        with Worker(module.app, concurrency=2):
            yield module
    finally:
        module.app.close()
        apps.current = before
        sys.path.remove(str(root))
        del sys.modules[MODULE]


def test_a_result_comes_back_with_what_is_known_of_the_task(project: Any) -> None:
    result = project.add.delay(1, y=2)
    assert result.get(timeout=20) == 3
    assert (result.state, result.args, result.kwargs) == ("SUCCESS", [1], {"y": 2})
    assert (result.retries, result.queue) == (0, "celery")
    assert result.date_done is not None
    assert project.app.AsyncResult(result.id).name == f"{MODULE}.add"


def test_retries_keep_the_id_and_the_headers(project: Any) -> None:
    result = project.flaky.apply_async((5,), headers={"trace": "abc"})
    assert result.get(timeout=20) == [7, 2, {"trace": "abc"}]


def test_automatic_retries_end_with_the_exception(project: Any) -> None:
    result = project.hopeless.delay()
    with pytest.raises(KeyError, match="never"):
        result.get(timeout=20)
    assert result.retries == 1
    assert "in hopeless" in (result.traceback or "")


def test_an_exception_that_cannot_be_rebuilt_is_described(project: Any) -> None:
    with pytest.raises(RemoteTaskError, match=f"{MODULE}.Awkward"):
        project.awkward.delay().get(timeout=20)


@pytest.mark.parametrize(("name", "place"), [("opaque", "result"), ("bad_retry", r"args\[0\]")])
def test_what_cannot_be_encoded_is_a_failure_that_names_it(project: Any, name: str, place: str) -> None:
    with pytest.raises(EncodeError, match=f"^{place}: "):
        getattr(project, name).delay().get(timeout=20)


def test_a_task_sends_others_and_must_not_wait_for_them_unasked(project: Any) -> None:
    result = project.parent.delay()
    assert result.get(timeout=20) == [23, "PROGRESS"]
    assert [child.get(timeout=20) for child in result.children or ()] == [23]


def test_workflows_run_to_their_end(project: Any) -> None:
    add, shared = project.add, project.shared
    chained = (add.s(1, 2) | add.s(3) | shared.s()).delay()
    assert chained.get(timeout=20) == 12
    assert chained.parent.get(timeout=20) == 6
    assert group(add.s(i, i) for i in range(4)).delay().get(timeout=20) == [0, 2, 4, 6]
    assert add.map([1, 2]).delay().get(timeout=20) == [1, 2]
    assert add.chunks([(i, i) for i in range(3)], 2).delay().get(timeout=20) == [[0, 2], [4]]


def test_callbacks_are_called(project: Any, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    journal.touch()
    result = project.add.apply_async((1, 1), link=project.note.si(str(journal), "linked"))
    assert result.get(timeout=20) == 2
    eventually(lambda: journal.read_text() == "('linked',)\n")
    failing = project.hopeless.apply_async(link_error=project.note.si(str(journal), "failed"))
    with pytest.raises(KeyError):
        failing.get(timeout=20)
    eventually(lambda: journal.read_text().endswith("('failed',)\n"))


@pytest.mark.parametrize(
    ("name", "error"), [("hang", "TimeLimitExceeded"), ("kill_own_process", "WorkerLostError")]
)
def test_error_callbacks_are_called_for_what_was_ended_from_outside(
    project: Any, tmp_path: Path, name: str, error: str
) -> None:
    journal = tmp_path / "journal"
    journal.touch()
    callbacks = [project.report.s(str(journal)), project.note.si(str(journal), "failed")]
    result = getattr(project, name).apply_async(link_error=callbacks)
    with pytest.raises(Exception, match="crashes|0.3") as raised:
        result.get(timeout=20)
    assert type(raised.value).__name__ == error
    expected = {f"{result.id} {MODULE}.{name} {error}", "('failed',)"}
    eventually(lambda: set(journal.read_text().splitlines()) == expected)


def test_a_revoked_task_does_not_run(project: Any, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    journal.touch()
    revoked = project.note.apply_async((str(journal), "revoked"), countdown=4.0)
    revoked.revoke()
    later = project.note.apply_async((str(journal), "later"), countdown=4.5)
    later.get(timeout=20)
    assert journal.read_text() == "('later',)\n"
    with pytest.raises(TaskRevokedError):
        revoked.get(timeout=20)


def test_an_unknown_task_fails_after_its_grace(project: Any) -> None:
    with pytest.raises(NotRegistered, match=r"no\.such\.task"):
        project.app.send_task("no.such.task").get(timeout=20)


def test_an_ignored_result_is_not_stored(project: Any) -> None:
    ignored = project.add.apply_async((1, 1), ignore_result=True)
    assert project.add.delay(1, 1).get(timeout=20) == 2
    assert ignored.get(timeout=0) is None
    assert project.app.AsyncResult(ignored.id).state == "PENDING"

"""How large messages and results may be: refused where they are made, by name, with the remedy."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from prefork.engine import App
from prefork.engine.exceptions import PayloadTooLarge, RemoteTaskError
from prefork.engine.testing import start_worker, temporary_app
from prefork.transports.errors import Unacceptable

LIMITS = {"task_payload_max_bytes": 4000, "result_max_bytes": 3000}


@pytest.fixture
def app() -> Iterator[App]:
    with temporary_app(config=LIMITS) as made:

        @made.task(name="echo")
        def echo(text: str) -> str:
            return text

        @made.task(name="double")
        def double(text: str) -> str:
            return text * 2

        @made.task(name="grow", bind=True, max_retries=3)
        def grow(self: Any, text: str) -> str:
            raise self.retry(args=(text * 100,), countdown=0)

        yield made


def test_a_large_message_is_refused_by_name_and_nothing_is_sent(app: App) -> None:
    with pytest.raises(
        PayloadTooLarge, match=r"echo has \d+ bytes, of at most 4000.*task_payload_max_bytes"
    ) as raised:
        app.tasks["echo"].delay("x" * 4000)
    error = raised.value
    assert (error.task, error.limit_bytes) == ("echo", 4000)
    assert error.size_bytes > 4000
    assert isinstance(error, Unacceptable)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert app.client.transport.depth("celery").ready == 0


def test_a_message_that_compression_makes_small_enough_goes(app: App) -> None:
    app.tasks["echo"].apply_async(("x" * 4000,), compression="zlib")
    assert app.client.transport.depth("celery").ready == 1


def test_none_leaves_it_to_the_broker(app: App) -> None:
    app.conf.task_payload_max_bytes = None
    app.tasks["echo"].delay("x" * 100_000)
    assert app.client.transport.depth("celery").ready == 1


def test_of_many_only_the_large_ones_fail(app: App) -> None:
    many = app.tasks["echo"].map_async(["a", "x" * 5000, "b"])
    assert list(many.errors) == [1]
    assert isinstance(many.errors[1], PayloadTooLarge)
    assert app.client.transport.depth("celery").ready == 2


def test_a_retry_that_would_be_too_large_is_the_failure_of_the_task(app: App) -> None:
    with start_worker(app), pytest.raises(PayloadTooLarge, match="grow"):
        app.tasks["grow"].delay("x" * 100).get(timeout=10)


def test_a_large_result_is_a_failure_that_says_so(app: App) -> None:
    with (
        start_worker(app),
        pytest.raises(Exception, match=r"result has \d+ bytes, of at most 3000.*result_max_bytes"),
    ):
        app.tasks["double"].delay("x" * 2000).get(timeout=10)


def test_a_callback_that_would_be_too_large_is_the_failure_of_the_task(app: App) -> None:
    echo = app.tasks["echo"]
    app.conf.result_max_bytes = 10_000
    with start_worker(app), pytest.raises((PayloadTooLarge, RemoteTaskError), match="echo"):
        echo.apply_async(("x" * 1000,), link=echo.s("y" * 1500)).get(timeout=10)

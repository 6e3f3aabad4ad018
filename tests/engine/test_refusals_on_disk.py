"""Outcomes and messages that are too large for a file, and errors of the file system that are for good."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefork.engine.app import App
from prefork.engine.refusals import REASON_REFUSED
from prefork.transports.base import Depth, StoredResult
from prefork.transports.errors import Unacceptable
from prefork.transports.filesystem import messages as filesystem_messages
from prefork.transports.filesystem import results as filesystem_results
from prefork.transports.filesystem.failures import as_broker_error
from support.one_child import OneChild
from support.refusing import LIMIT_BYTES, letters


@pytest.fixture
def on_disk(tmp_path: Path) -> Iterator[App]:
    url = f"filesystem://{tmp_path}/broker"
    app = App("tests", broker=url, backend=url, set_as_current=False)
    yield app
    app.close()


def test_a_result_above_the_limit_of_a_file_is_a_failure_and_its_batch_goes_on(
    on_disk: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    @on_disk.task
    def give(size):
        return "x" * size

    results = [give.delay(size) for size in (1, 9000, 2)]
    monkeypatch.setattr(filesystem_results, "RESULT_BYTES_MAX", LIMIT_BYTES)
    child = OneChild(on_disk)
    child.parts.read_ahead._limit = 3
    try:
        child.run()
    finally:
        child.close()
    assert [result.state for result in results] == ["SUCCESS", "FAILURE", "SUCCESS"]
    assert on_disk.client.transport.depth("celery") == Depth(0, 0, 0)
    with pytest.raises(Unacceptable):
        on_disk.client.results.store([StoredResult("large", b"x" * 9000)])


def test_a_message_above_the_limit_of_a_file_is_refused_and_a_retry_becomes_a_dead_letter(
    on_disk: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    @on_disk.task(bind=True)
    def grow(self, data=""):
        raise self.retry(args=("x" * 9000,), countdown=0)

    monkeypatch.setattr(filesystem_messages, "DOCUMENT_BYTES_MAX", LIMIT_BYTES)
    with pytest.raises(Unacceptable):
        grow.delay("x" * 9000)
    result = grow.delay()
    child = OneChild(on_disk)
    try:
        child.run()
    finally:
        child.close()
    assert result.state == "FAILURE"
    assert [reason for reason, _ in letters(on_disk)] == [REASON_REFUSED]


@pytest.mark.parametrize(
    ("number", "permanent"),
    [
        (errno.EFBIG, True),
        (errno.ENOSPC, False),
        (errno.EDQUOT, False),
        (errno.EROFS, False),
        (errno.EACCES, False),
    ],
)
def test_of_the_file_systems_errors_only_one_is_for_good(number: int, permanent: bool) -> None:
    assert as_broker_error("send", OSError(number, "said the system")).permanent is permanent

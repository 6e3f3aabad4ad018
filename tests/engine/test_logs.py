"""Logging of a worker: which handlers it makes, which it leaves alone, and where print() goes."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prefork.engine import logs, signals, task_context
from prefork.engine.config import Config, PendingConfig
from prefork.engine.log_lines import LineHandler, LogFileError
from prefork.engine.redirected import RedirectedStream
from prefork.engine.utils.log import get_logger, get_task_logger

NAMES = (None, "prefork", "celery", "celery.task", "celery.redirected")


@pytest.fixture(autouse=True)
def _loggers_as_in_a_new_process() -> Iterator[None]:
    kept = {}
    for name in NAMES:
        logger = logging.getLogger(name)
        kept[name] = (logger.handlers[:], logger.level, logger.propagate)
        logger.handlers, logger.propagate = [], True
    streams = (sys.stdout, sys.stderr)
    yield
    sys.stdout, sys.stderr = streams
    for name, (handlers, level, propagate) in kept.items():
        logger = logging.getLogger(name)
        for handler in logger.handlers:
            if isinstance(handler, LineHandler):
                handler.close()
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def set_up(config: Config, **asked: Any) -> bool:
    """Set logging up as a worker does; the test runner adds handlers of its own just before a test."""
    root = logging.getLogger()
    root.handlers = [
        handler for handler in root.handlers if not type(handler).__module__.startswith("_pytest")
    ]
    return logs.setup_worker_logging(config, **asked)


def configured(**settings: Any) -> Config:
    conf = PendingConfig()
    conf.update({"worker_redirect_stdouts": False, **settings})
    return conf.resolve(environ={})


@pytest.fixture
def log(tmp_path: Path) -> Callable[[], list[str]]:
    return lambda: (tmp_path / "w1.log").read_text().splitlines()


@pytest.fixture
def template(tmp_path: Path) -> str:
    return str(tmp_path / "%n.log")


PLAIN = {
    "worker_log_format": "%(processName)s %(message)s",
    "worker_task_log_format": "%(task_name)s %(message)s",
}


def test_the_worker_and_its_tasks_have_formats_of_their_own(
    template: str, log: Callable[[], list[str]]
) -> None:
    assert set_up(configured(**PLAIN), loglevel="info", logfile=template, node="w1@h")
    logging.getLogger("some.library").info("library")
    logging.getLogger("prefork.child").debug("too fine")
    token = task_context.set_current("id", "tasks.add")
    get_task_logger("app.tasks").info("in a task")
    task_context.restore(token)
    assert log() == ["MainProcess library", "tasks.add in a task"]


def test_without_a_file_lines_go_to_the_error_output_in_celerys_format() -> None:
    program = (
        "import logging\n"
        "from prefork.engine.config import PendingConfig\n"
        "from prefork.engine.logs import setup_worker_logging\n"
        "setup_worker_logging(PendingConfig().resolve(environ={}), loglevel='INFO')\n"
        "logging.getLogger('x').info('hello')\n"
        "print('printed')\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    first, second = run.stderr.splitlines()
    assert first.endswith(": INFO/MainProcess] hello")
    assert second.endswith(": WARNING/MainProcess] printed")
    assert run.stdout == ""


def test_json_lines_are_one_option(template: str, log: Callable[[], list[str]]) -> None:
    set_up(configured(worker_json_logs=True), loglevel=20, logfile=template, node="w1@h")
    logging.getLogger("x").info("hello")
    assert json.loads(log()[0])["message"] == "hello"


def test_a_root_logger_that_the_program_configured_is_left_alone() -> None:
    stream = io.StringIO()
    own = logging.StreamHandler(stream)
    logging.getLogger().addHandler(own)
    set_up(configured(), loglevel="INFO")
    assert logging.getLogger().handlers == [own]
    assert logging.getLogger("celery.task").handlers == []
    logging.getLogger("prefork.child").info("ours")
    get_task_logger("app.tasks").warning("a task's")
    assert stream.getvalue().splitlines() == ["ours", "a task's"]


def test_beside_a_configured_root_a_log_file_takes_our_own_lines(
    template: str, log: Callable[[], list[str]]
) -> None:
    logging.getLogger().addHandler(logging.StreamHandler(io.StringIO()))
    set_up(configured(**PLAIN), loglevel="INFO", logfile=template, node="w1@h")
    logging.getLogger("prefork.child").info("ours")
    logging.getLogger("some.library").warning("theirs")
    assert log() == ["MainProcess ours"]


def test_a_hijacked_root_logger_loses_its_handlers(template: str, log: Callable[[], list[str]]) -> None:
    stream = io.StringIO()
    logging.getLogger().addHandler(logging.StreamHandler(stream))
    config = configured(worker_hijack_root_logger=True, **PLAIN)
    for _ in range(2):
        set_up(config, loglevel="INFO", logfile=template, node="w1@h")
    logging.getLogger("x").info("hello")
    assert log() == ["MainProcess hello"]
    assert stream.getvalue() == ""


def test_a_null_handler_does_not_count_as_configured(template: str) -> None:
    logging.getLogger().addHandler(logging.NullHandler())
    set_up(configured(), logfile=template, node="w1@h")
    assert any(isinstance(handler, LineHandler) for handler in logging.getLogger().handlers)


def test_a_listener_of_setup_logging_takes_over() -> None:
    asked: list[dict[str, Any]] = []

    def take_over(**named: Any) -> None:
        asked.append(named)

    signals.setup_logging.connect(take_over)
    try:
        assert set_up(configured(worker_redirect_stdouts=True), loglevel="INFO") is False
    finally:
        signals.setup_logging.disconnect(take_over)
    assert (asked[0]["loglevel"], asked[0]["logfile"]) == (logging.INFO, None)
    assert logging.getLogger().handlers == []
    assert not isinstance(sys.stdout, RedirectedStream)


def test_listeners_may_extend_what_was_set_up(template: str) -> None:
    seen: dict[str, Any] = {}

    def worker(logger: logging.Logger, **named: Any) -> None:
        seen["worker"] = logger

    def task(logger: logging.Logger, **named: Any) -> None:
        seen["task"] = (logger.name, named["format"])

    signals.after_setup_logger.connect(worker)
    signals.after_setup_task_logger.connect(task)
    try:
        set_up(configured(**PLAIN), logfile=template, node="w1@h")
    finally:
        signals.after_setup_logger.disconnect(worker)
        signals.after_setup_task_logger.disconnect(task)
    assert seen["worker"] is logging.getLogger()
    assert seen["task"] == ("celery.task", PLAIN["worker_task_log_format"])


def test_the_setting_names_a_log_file_where_the_command_line_names_none(
    template: str, log: Callable[[], list[str]]
) -> None:
    set_up(configured(worker_logfile=template, **PLAIN), loglevel="INFO", node="w1@h")
    logging.getLogger("x").info("hello")
    assert log() == ["MainProcess hello"]


def test_a_log_file_that_cannot_be_opened_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(LogFileError):
        set_up(configured(), logfile=str(tmp_path / "no" / "x.log"), node="w1@h")


def test_each_child_enters_its_own_file_and_name(tmp_path: Path) -> None:
    set_up(configured(**PLAIN), loglevel="INFO", logfile=str(tmp_path / "%n%I.log"), node="w1@h")
    logs.enter_process("template", node="w1@h")
    logging.getLogger("x").info("one")
    logs.enter_process("child-2", node="w1@h", index=2)
    logging.getLogger("x").info("two")
    assert (tmp_path / "w1.log").read_text() == "template one\n"
    assert (tmp_path / "w1-2.log").read_text() == "child-2 two\n"


def test_lost_lines_are_counted() -> None:
    set_up(configured(), loglevel="INFO", logfile="/dev/full", node="w1@h")
    logging.getLogger("x").info("lost")
    assert logs.dropped_lines() == 1


@pytest.mark.parametrize(("level", "number"), [("info", 20), (" WARNING ", 30), (15, 15)])
def test_levels_are_names_or_numbers(level: str | int, number: int) -> None:
    assert logs.level_number(level) == number


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="'loud' is no log level; write DEBUG"):
        logs.level_number("loud")


@pytest.mark.parametrize(
    ("settings", "template", "coloured"),
    [
        ({"worker_log_color": True}, None, True),
        ({"worker_log_color": False}, None, False),
        ({"worker_log_color": True}, "/dev/null", False),
        ({"worker_log_color": True, "worker_json_logs": True}, None, False),
    ],
)
def test_colour_is_for_terminals(settings: dict[str, Any], template: str | None, coloured: bool) -> None:
    asked: list[bool] = []

    def listen(colorize: bool, **named: Any) -> None:
        asked.append(colorize)

    signals.after_setup_logger.connect(listen)
    try:
        set_up(configured(**settings), logfile=template, node="w1@h")
    finally:
        signals.after_setup_logger.disconnect(listen)
    assert asked == [coloured]


# --- task loggers


def test_a_task_logger_keeps_its_name_and_carries_the_task() -> None:
    seen: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record)

    logging.getLogger("celery.task").addHandler(Keep())
    logger = get_task_logger("app.tasks")
    assert get_task_logger("app.tasks") is logger
    assert len(logger.filters) == 1
    logger.warning("hello")
    assert (seen[0].name, seen[0].__dict__["task_id"]) == ("app.tasks", "???")


def test_a_logger_below_the_task_logger_stays_there() -> None:
    logger = get_task_logger("celery.task.mine")
    assert logger.parent is logging.getLogger("celery.task")
    assert get_logger("celery.worker") is logging.getLogger("celery.worker")


@pytest.mark.parametrize("name", ["celery", "celery.task"])
def test_a_name_of_the_worker_is_no_name_for_a_task_logger(name: str) -> None:
    with pytest.raises(ValueError, match="__name__"):
        get_task_logger(name)


# --- what is printed


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def kept() -> Kept:
    handler = Kept()
    logging.getLogger("celery.redirected").addHandler(handler)
    logging.getLogger("celery.redirected").propagate = False
    return handler


def test_redirection_is_done_once_and_undone(kept: Kept) -> None:
    before = (sys.stdout, sys.stderr)
    logs.redirect_stdouts("INFO")
    first = sys.stdout
    logs.redirect_stdouts("INFO")
    assert sys.stdout is first
    logging.getLogger("celery.redirected").setLevel(logging.INFO)
    print("waits", end="")
    logs.restore_stdouts()
    logs.restore_stdouts()
    assert (sys.stdout, sys.stderr) == before
    assert kept.lines == ["waits"]

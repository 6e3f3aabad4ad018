"""Commands that look at an application and its broker, on a file broker of their own."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from prefork.engine.app import App
from prefork.engine.cli import purge
from prefork.engine.cli.failures import ExitCode
from prefork.engine.cli.main import main
from prefork.engine.message import parse
from prefork.engine.result_document import encode
from prefork.serializers.registry import load_serializer
from prefork.transports.base import Consumer, Outcome, Outgoing, StoredResult, Verdict

_numbers = itertools.count()

SOURCE = """
from prefork.engine.app import App
app = App("shop", broker="filesystem://{root}/broker", backend="filesystem://{root}/broker")
app.conf.task_queues = ["celery", "low"]

@app.task(name="shop.add")
def add(x, y):
    return x + y
"""


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


class Shop:
    """An application in a module of its own, and the command line run on it."""

    def __init__(self, root: Path, capture: Callable[[], Any]) -> None:
        self.module = f"shop_{next(_numbers)}"
        (root / f"{self.module}.py").write_text(SOURCE.format(root=root))
        self._capture = capture

    @property
    def app(self) -> App:
        found: App = sys.modules[self.module].app
        return found

    def run(self, *line: str) -> Ran:
        code = main(["-A", self.module, *line])
        shown = self._capture()
        return Ran(code, shown.out, shown.err)

    def consumer(self, owner: str, *queues: str) -> Consumer:
        return self.app.client.transport.consumer(queues or ("celery", "low"), owner, "worker")


@pytest.fixture
def shop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Shop]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    made = Shop(tmp_path, capsys.readouterr)
    yield made
    sys.modules.pop(made.module, None)


def test_a_task_sent_by_name_waits_in_its_queue(shop: Shop) -> None:
    sent = shop.run("call", "shop.add", "--args", "[1, 2]", "--task-id", "id-1")
    assert (sent.code, sent.out) == (0, "id-1\n")
    assert shop.run("call", "shop.add", "-a", "[3]", "-k", '{"y": 4}', "--queue", "low").code == 0
    assert shop.run("queues").out.splitlines() == [
        "QUEUE   READY  DELAYED  IN WORK  DEAD",
        "celery      1        0        0     0",
        "low         1        0        0     0",
    ]


def test_the_most_urgent_call_is_first_in_its_queue(shop: Shop) -> None:
    for urgency in ("0", "9", "5"):
        shop.run("call", "shop.add", "--urgency", urgency, "--task-id", f"urgency {urgency}")
    first = shop.consumer("reads").reserve(3, 5.0)
    ids = [parse(one.document, shop.app.client.table).id for one in first]
    assert ids == ["urgency 9", "urgency 5", "urgency 0"]


def test_a_delayed_task_is_counted_as_delayed(shop: Shop) -> None:
    shop.run("call", "shop.add", "--countdown", "600")
    shop.run("call", "shop.add", "--eta", "2100-01-01T00:00:00Z", "--expires", "2100-01-02T00:00:00+00:00")
    shop.run("call", "shop.add", "--expires", "60")
    rows = {row["queue"]: row for row in shop.run("queues", "--json", "-Q", "celery").data}
    assert (rows["celery"]["delayed"], rows["celery"]["ready"]) == (2, 1)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (["-a", "{"], "--args {: not JSON"),
        (["-a", "{}"], "--args {}: a list"),
        (["-k", "[]"], "--kwargs []: an object"),
        (["--eta", "soon"], "--eta soon"),
        (["--expires", "soon"], "--expires soon"),
        (["--serializer", "yaml"], "yaml"),
        (["--priority", "3", "--urgency", "9"], "give one of them"),
    ],
)
def test_a_call_that_makes_no_sense_sends_nothing(shop: Shop, line: list[str], says: str) -> None:
    refused = shop.run("call", "shop.add", *line)
    assert refused.code in {ExitCode.USAGE, ExitCode.CONFIG}
    assert says in refused.err
    assert "Traceback" not in refused.err
    assert shop.run("queues", "--json", "-Q", "celery").data[0]["ready"] == 0


def test_the_result_of_a_task_is_printed_once_it_is_there(shop: Shop) -> None:
    shop.run("call", "shop.add", "-a", "[1, 2]", "--task-id", "id-1")
    assert shop.run("result", "id-1").code == ExitCode.NOT_READY
    document = encode("SUCCESS", {"sum": 3}, task_id="id-1", serializer=load_serializer("json"))
    store = shop.app.client.results
    assert store is not None
    store.store([StoredResult("id-1", document)])
    done = shop.run("result", "id-1", "--wait", "--timeout", "5")
    assert (done.code, done.data) == (0, {"sum": 3})
    whole = shop.run("result", "id-1", "--json").data
    assert (whole["id"], whole["state"], whole["result"]) == ("id-1", "SUCCESS", {"sum": 3})


def test_waiting_for_a_result_ends_in_time(shop: Shop) -> None:
    waited = shop.run("call", "shop.add", "--wait", "--timeout", "0.05")
    assert waited.code == ExitCode.NOT_READY
    assert "no result after 0.05 s" in waited.err


def test_purge_drops_what_waits_and_leaves_what_is_in_work(shop: Shop) -> None:
    for queue in ("celery", "celery", "low"):
        shop.run("call", "shop.add", "--queue", queue)
    consumer = shop.consumer("owner-purge", "celery")
    assert len(consumer.reserve(1)) == 1
    dropped = shop.run("purge", "-f")
    assert sorted(dropped.out.splitlines()) == ["celery: 1 dropped", "low: 1 dropped"]
    assert shop.run("queues", "--json").data[0]["in_work"] == 1


def test_purge_can_leave_queues_out(shop: Shop) -> None:
    for queue in ("celery", "low"):
        shop.run("call", "shop.add", "--queue", queue)
    assert shop.run("purge", "-f", "-X", "celery").out == "low: 1 dropped\n"
    nothing = shop.run("purge", "-f", "-Q", "low", "-X", "low")
    assert nothing.code == ExitCode.USAGE


def test_purge_refuses_when_nobody_can_be_asked(shop: Shop) -> None:
    shop.run("call", "shop.add")
    refused = shop.run("purge")
    assert refused.code == ExitCode.USAGE
    assert "say so with -f" in refused.err
    assert shop.run("queues", "--json").data[0]["ready"] == 1


@pytest.mark.parametrize(("answer", "left"), [("yes", 0), ("n", 1), ("", 1)])
def test_purge_asks_at_a_terminal(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, answer: str, left: int
) -> None:
    shop.run("call", "shop.add")
    monkeypatch.setattr(purge.sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: answer)
    assert shop.run("purge").code == (ExitCode.OK if left == 0 else ExitCode.FAILED)
    assert shop.run("queues", "--json").data[0]["ready"] == left


def test_tasks_and_bindings_are_listed(shop: Shop) -> None:
    assert shop.run("list").out == "shop.add\n"
    assert shop.run("list", "--json").data == ["shop.add"]
    assert [row["queue"] for row in shop.run("list", "bindings", "--json").data] == ["celery", "low"]
    assert shop.run("list", "bindings").out.splitlines()[0].split() == ["QUEUE", "EXCHANGE", "ROUTING", "KEY"]


def _bury(shop: Shop, owner: str = "undertaker") -> list[str]:
    """Make every waiting message a dead letter; their keys."""
    consumer = shop.consumer(owner)
    deliveries = consumer.reserve(10)
    outcomes = [
        Outcome(d.tag, Verdict.DEAD, reason="unknown-task", causes=("nobody\nknew it",)) for d in deliveries
    ]
    assert all(consumer.settle(outcomes))
    consumer.close()
    return [letter.key for letter in shop.app.client.transport.dead_letters()]


def test_dead_letters_are_listed_shown_replayed_and_dropped(shop: Shop) -> None:
    for queue in ("celery", "low"):
        shop.run("call", "shop.add", "-a", "[1, 2]", "--queue", queue)
    keys = _bury(shop)
    listed = shop.run("dead")
    assert len(listed.out.splitlines()) == 3
    assert "shop.add" in listed.out and "unknown-task" in listed.out and "nobody\\nknew it" in listed.out
    assert {row["queue"]: row["dead"] for row in shop.run("queues", "--json").data} == {"celery": 1, "low": 1}

    shown = shop.run("dead", "show", keys[0])
    assert f"key: {keys[0]}" in shown.out
    assert shop.run("dead", "show", "--all", "--queue", "low", "--json").data[0]["queue"] == "low"

    assert shop.run("dead", "replay", "--all", "-Q", "low").out == "1 replayed\n"
    assert shop.run("queues", "--json").data[1]["ready"] == 1
    assert shop.run("dead", "drop", "--all").out == "1 dropped\n"
    assert shop.run("dead", "list").out == "no dead letters\n"


@pytest.mark.parametrize("headers", [{}, {"eta": "garbage"}])
def test_a_dead_letter_is_listed_with_task_and_id_as_far_as_it_can_be_read(
    shop: Shop, headers: dict[str, str]
) -> None:
    assert "shop.add" in shop.run("list").out
    shop.app.send_task("shop.add", (1, 2), task_id="id-17", headers=headers)
    (key,) = _bury(shop)
    (row,) = shop.run("dead", "list", "--json").data
    assert (row["task"], row["id"]) == ("shop.add", "id-17")
    headings, shown = (line.split() for line in shop.run("dead", "list").out.splitlines())
    assert (headings[3:5], shown[3:5]) == (["TASK", "ID"], ["shop.add", "id-17"])
    assert "id: id-17\n" in shop.run("dead", "show", key).out


def test_a_dead_letter_is_named_by_the_beginning_of_its_key(shop: Shop) -> None:
    shop.run("call", "shop.add")
    key = _bury(shop)[0]
    assert shop.run("dead", "drop", key[: len(key) - 1]).out == "1 dropped\n"


@pytest.mark.parametrize("action", ["show", "replay", "drop"])
def test_a_dead_letter_that_is_not_there_is_named(shop: Shop, action: str) -> None:
    missing = shop.run("dead", action, "no-such-key")
    assert missing.code == ExitCode.FAILED
    assert "'no-such-key'" in missing.err
    assert shop.run("dead", action).code == ExitCode.USAGE
    assert shop.run("dead", action, "k", "--all").code == ExitCode.USAGE


def test_an_ambiguous_key_is_refused(shop: Shop) -> None:
    for _ in range(2):
        shop.run("call", "shop.add")
    keys = _bury(shop)
    common = keys[0][: next(i for i, pair in enumerate(zip(*keys, strict=False)) if pair[0] != pair[1])]
    if common:
        assert "2 dead letters have keys that begin" in shop.run("dead", "drop", common).err
    assert shop.run("dead", "list", "--limit", "1", "--json").data[0]["key"] in keys


def test_bytes_that_are_no_message_are_listed_all_the_same(shop: Shop) -> None:
    shop.run("call", "shop.add")
    transport = shop.app.client.transport
    transport.send([Outgoing("celery", b"\xff not a message")])
    _bury(shop)
    rows = shop.run("dead", "--json").data
    assert sorted(row["task"] for row in rows) == ["", "shop.add"]
    assert sorted(bool(row["id"]) for row in rows) == [False, True]
    assert any("\\xff not a message" in row["document"] for row in rows)


def test_the_configuration_says_where_a_value_came_from(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFORK_TASK_TIME_LIMIT", "30")
    rows = shop.run("config", "--json", "--changed").data
    assert rows["task_time_limit"]["source"] == "env PREFORK_TASK_TIME_LIMIT"
    assert "task_max_crashes" not in rows
    assert shop.run("-b", "memory://x", "config", "broker_url", "--json").data["broker_url"] == {
        "value": "'memory://x'",
        "source": "command line",
    }
    assert "task_max_crashes" in shop.run("config").out


def test_every_problem_of_the_configuration_is_told_at_once(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFORK_TASK_TIME_LIMITT", "30")
    monkeypatch.setenv("PREFORK_WORKER_CONCURRENCY", "many")
    wrong = shop.run("queues")
    assert wrong.code == ExitCode.CONFIG
    assert "PREFORK_TASK_TIME_LIMITT" in wrong.err and "many" in wrong.err
    assert shop.run("config", "--defaults", "task_time_limit").code == 0


def test_a_report_names_versions_and_settings_but_no_secret(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFORK_RESULT_BACKEND", "memory://user:geheim@x")
    shown = shop.run("report").out
    assert shown.startswith("prefork ")
    assert "app shop, 1 tasks" in shown
    assert "geheim" not in shown


def test_an_application_that_cannot_be_found_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-A", "no_such_module_anywhere", "list"]) == ExitCode.USAGE
    assert main(["-A", "json:nothing", "list"]) == ExitCode.USAGE
    assert main(["list"]) == ExitCode.USAGE
    assert "Traceback" not in capsys.readouterr().err


def test_an_application_that_fails_on_import_is_told_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken_application.py").write_text("\n1 / 0\n")
    assert main(["-A", "broken_application", "queues"]) == ExitCode.FAILED
    shown = capsys.readouterr().err
    assert "ZeroDivisionError" in shown and "broken_application.py:2" in shown
    assert "Traceback" not in shown


def test_without_an_application_or_broker_the_remedy_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["queues"]) == ExitCode.USAGE
    assert "-A MODULE" in capsys.readouterr().err
    assert main(["-b", "memory://only", "queues"]) == ExitCode.OK


def test_an_unknown_scheme_and_a_bad_url_are_errors_of_configuration(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["-b", "carrier-pigeon://x", "queues"]) == ExitCode.CONFIG
    assert "carrier-pigeon" in capsys.readouterr().err

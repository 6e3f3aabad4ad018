"""What a broker cannot do is refused before anything runs: in one line, with the exit code for it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from prefork.engine.app import App
from prefork.engine.broker_demands import options_without_effect, refuse_unkept
from prefork.engine.embed import WorkerBootError
from prefork.engine.testing.worker import start_worker
from prefork.transports.registry import options_known
from support.host import Host
from support.source_tree import ROOT

SHOP = """
from prefork.engine import App

app = App("shop", broker="{broker}", backend=None)
app.conf.update({settings!r})

@app.task(**{options!r})
def add(x, y):
    return x + y
"""

NEWS = {"task_queues": [{"name": "celery"}, {"name": "news", "broadcast": True}]}

REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "unique": ({}, {"unique": True}, "task 'shop.add': unique cannot be kept on"),
    "rate": ({}, {"rate_limit": "5/s"}, "task 'shop.add': rate_limit cannot be kept on"),
    "concurrency": ({}, {"max_concurrency": 1}, "task 'shop.add': max_concurrency cannot be kept on"),
    "global rate": ({}, {"global_rate_limit": "5/s"}, "task 'shop.add': global_rate_limit cannot be kept on"),
    "fairness": ({"worker_priority_fairness": 10}, {}, "worker_priority_fairness cannot be kept on"),
    "weights": (
        {"task_queues": [{"name": "a"}, {"name": "b"}], "worker_queue_weights": {"a": 5}},
        {},
        "worker_queue_order and worker_queue_weights cannot be kept on",
    ),
    "broadcast": (NEWS, {}, "broadcast queue news:"),
}


def run(root: Path, *line: str, broker: str, **parts: Any) -> subprocess.CompletedProcess[str]:
    host = Host(root)
    settings, options = parts.get("settings", {}), parts.get("options", {})
    host.write("shop.py", SHOP.format(broker=broker, settings=settings, options=options))
    return host.run("-A", "shop", "worker", "-c", "1", *line)


@pytest.mark.parametrize("pool", ["prefork", "solo"])
@pytest.mark.parametrize("what", list(REFUSED))
def test_a_worker_says_in_one_line_what_its_broker_cannot_do(tmp_path: Path, what: str, pool: str) -> None:
    settings, options, said = REFUSED[what]
    done = run(
        tmp_path,
        "-P",
        pool,
        broker=f"kombu+filesystem://{tmp_path}/broker",
        settings=settings,
        options=options,
    )
    assert done.returncode == 78
    assert said in done.stderr
    assert "kombu+filesystem" in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stdout == ""


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        broker=f"kombu+filesystem://{tmp_path}/broker",
        settings={"worker_priority_fairness": 10, **NEWS},
        options={"unique": True, "rate_limit": "1/s"},
    )
    assert done.returncode == 78
    for said in ("worker_priority_fairness", "broadcast queue news", "unique", "rate_limit"):
        assert said in done.stderr


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_configuration_that_is_wrong_and_an_application_that_is_missing_have_their_codes(
    tmp_path: Path, pool: str
) -> None:
    broker = f"filesystem://{tmp_path}/broker"
    done = run(tmp_path, "-P", pool, broker=broker, settings={"worker_priority_fairness": -1})
    assert (done.returncode, "worker_priority_fairness" in done.stderr) == (78, True)
    assert "Traceback" not in done.stderr
    (tmp_path / "other").mkdir()
    missing = Host(tmp_path / "other").run("-A", "nowhere", "worker", "-P", pool)
    assert (missing.returncode, "no module is called 'nowhere'" in missing.stderr) == (2, True)
    assert "Traceback" not in missing.stderr


@pytest.mark.parametrize(
    ("broker", "settings", "said"),
    [
        ("amqp://127.0.0.1:1//", {"worker_priority_fairness": 10}, "cannot be kept on amqp"),
        (
            "amqp://127.0.0.1:1//",
            {"broker_transport_options": {"consumer_timeout": "long"}},
            "consumer_timeout='long'",
        ),
    ],
)
def test_a_broker_need_not_be_there_to_tell_what_it_cannot_do(
    tmp_path: Path, broker: str, settings: dict[str, Any], said: str
) -> None:
    done = run(tmp_path, broker=broker, settings=settings)
    assert done.returncode == 78
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize("broker", ["memory://", "filesystem://{root}", "redis://127.0.0.1:1/0"])
def test_what_a_broker_can_do_is_not_refused(tmp_path: Path, broker: str) -> None:
    app = App("able", broker=broker.format(root=tmp_path), set_as_current=False)
    app.conf.update(**NEWS, worker_priority_fairness=10, worker_queue_weights={"celery": 3})
    app.task(name="one", unique=True, rate_limit="5/s", max_concurrency=2)(lambda: None)
    refuse_unkept(app, app.config, ["celery", "news"])
    app.close()


def test_a_worker_in_a_thread_is_refused_likewise() -> None:
    app = App("here", broker="kombu+memory://", set_as_current=False)
    app.conf.update(**NEWS)
    with pytest.raises(WorkerBootError, match="broadcast queue news"), start_worker(app):
        pass
    app.close()


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_an_option_that_the_broker_does_not_heed_is_said_at_the_start(tmp_path: Path, pool: str) -> None:
    host = Host(tmp_path)
    settings = {"broker_transport_options": {"consumer_timeot": 3, "qzx": 1, "held_ttl": 5}}
    host.write("shop.py", SHOP.format(broker="amqp://127.0.0.1:1//", settings=settings, options={}))
    host.start("-A", "shop", "worker", "-c", "1", "-P", pool)
    log = host.wait_for_log("'qzx' has no effect on amqp")
    assert "'consumer_timeot' has no effect on amqp; did you mean 'consumer_timeout'?" in log
    assert "held_ttl" not in log
    host.close()


@pytest.mark.parametrize(
    ("broker", "near"),
    [
        ("amqp://", "dead_letter_queue"),
        ("filesystem:///x", "fsync"),
        ("redis://", "visibility_timeout"),
        ("memory://", "lease_s"),
    ],
)
def test_the_nearest_option_of_a_broker_is_named(broker: str, near: str) -> None:
    app = App("near", broker=broker, set_as_current=False)
    app.conf.broker_transport_options = {near[1:]: 1, near: 1}
    scheme = broker.partition(":")[0]
    assert options_without_effect(app.config) == [
        f"broker_transport_options: {near[1:]!r} has no effect on {scheme}; did you mean {near!r}?"
    ]


@pytest.mark.parametrize("broker", ["kombu+pyamqp://", "sqla+sqlite:///x"])
def test_options_of_kombu_are_not_judged(broker: str) -> None:
    app = App("bridged", broker=broker, set_as_current=False)
    app.conf.broker_transport_options = {"whatever": 1}
    assert options_without_effect(app.config) == []


@pytest.mark.parametrize(("name", "url"), [("amqp", "amqp://"), ("redis", "redis://")])
def test_every_option_that_is_read_or_described_is_known(name: str, url: str) -> None:
    known = options_known(url)
    source = (ROOT / "transports" / name / "settings.py").read_text(encoding="utf-8")
    read = set(re.findall(r'(?:given, |given\.get\(|values\.[a-z]+\()"([a-z_]+)"', source))
    page = (ROOT / "docs" / "reference" / {"amqp": "rabbitmq.md"}.get(name, "redis.md")).read_text("utf-8")
    table = page[page.index("| option | default |") :].partition("\n\n")[0]
    described = {one for row in table.splitlines() for one in re.findall(r"`([a-z_]+)`", row.split("|")[1])}
    assert known is not None
    assert len(read) > 10 and len(described) > 5
    assert read | described <= known

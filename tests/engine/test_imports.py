from __future__ import annotations

import os
import subprocess
import sys

import pytest

import prefork.engine

HEAVY = {"kombu", "amqp", "redis", "sqlalchemy", "celery", "billiard", "asyncio", "multiprocessing"}
ONE_TASK = "from prefork.engine import App\napp = App('x')\n@app.task\ndef f(x): return x\n"


def seconds(code: str) -> float:
    """The processor time of a fresh interpreter for some code: what it waits for others is not its own."""
    child = subprocess.Popen([sys.executable, "-c", code])
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0
    return used.ru_utime + used.ru_stime


def more_than_nothing(code: str, rounds: int = 15) -> float:
    """What some code costs on top of the interpreter, at best; in turn, so that both meet a busy machine."""
    pairs = [(seconds(code), seconds("pass")) for _ in range(rounds)]
    return min(one for one, _ in pairs) - min(nothing for _, nothing in pairs)


def test_importing_the_engine_costs_next_to_nothing() -> None:
    assert more_than_nothing("import prefork.engine") < 0.020 * 2


def test_an_app_with_a_task_is_there_quickly() -> None:
    assert more_than_nothing(ONE_TASK) < 0.130 * 2


def test_a_client_imports_no_broker_library() -> None:
    code = ONE_TASK + "import sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())


def test_importing_the_engine_imports_none_of_its_modules() -> None:
    code = "import prefork.engine, sys; print(*[n for n in sys.modules if n.startswith('prefork.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["prefork.engine"]


@pytest.mark.parametrize("name", sorted(set(prefork.engine.__all__) - {"Worker"}))
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(prefork.engine, name) is not None
    assert name in dir(prefork.engine)


def test_celery_is_another_name_of_app() -> None:
    assert prefork.engine.Celery is prefork.engine.App


def test_public_modules_bear_the_names_users_know() -> None:
    code = "import prefork.engine as e; print(e.exceptions.Retry, e.signals, e.states.SUCCESS, e.canvas)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    with pytest.raises(AttributeError, match="no_such_name"):
        prefork.engine.no_such_name  # noqa: B018

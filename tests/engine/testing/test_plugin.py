"""The pytest plugin, in test sessions of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest


class Session:
    """A project with tests, in a directory of its own."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def write(self, name: str, text: str) -> None:
        (self._root / name).write_text(textwrap.dedent(text))

    def run(self, *arguments: str) -> str:
        """Run pytest; what it printed. It must end within a minute."""
        line = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *arguments]
        # The plugin is named in pytest.ini, so that these tests need no installed entry point.
        environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        done = subprocess.run(
            line, cwd=self._root, env=environment, capture_output=True, text=True, timeout=60
        )
        return done.stdout + done.stderr


@pytest.fixture
def session(tmp_path: Path) -> Session:
    made = Session(tmp_path)
    made.write("conftest.py", "import sys\n")
    made.write("pytest.ini", "[pytest]\naddopts = -p prefork.engine.testing.plugin --strict-markers\n")
    return made


def test_a_test_has_an_app_and_a_worker(session: Session) -> None:
    session.write(
        "test_it.py",
        """
        def test_one(prefork_app, prefork_worker):
            @prefork_app.task
            def mul(x, y):
                return x * y

            assert mul.delay(4, 4).get(timeout=10) == 16

        def test_each_test_has_its_own(prefork_app, prefork_worker):
            assert not [name for name in prefork_app.tasks if name.endswith("mul")]
        """,
    )
    assert "2 passed" in session.run()


def test_a_marker_gives_one_test_settings(session: Session) -> None:
    session.write(
        "test_it.py",
        """
        import pytest

        @pytest.fixture(scope="session")
        def prefork_config():
            return {"task_default_queue": "ours", "timezone": "Europe/Berlin"}

        @pytest.mark.prefork(task_default_queue="mine")
        def test_marked(prefork_app):
            assert prefork_app.conf.task_default_queue == "mine"
            assert prefork_app.conf.timezone == "Europe/Berlin"

        def test_unmarked(prefork_app):
            assert prefork_app.conf.task_default_queue == "ours"
        """,
    )
    assert "2 passed" in session.run()


def test_a_session_has_one_app_and_one_worker(session: Session) -> None:
    session.write(
        "shop_tasks.py",
        """
        from prefork.engine import shared_task

        @shared_task
        def price(x):
            return 2 * x
        """,
    )
    session.write(
        "conftest.py",
        """
        import pytest
        from prefork.engine import Task

        class Sell(Task):
            name = "sell"

            def run(self, what):
                return f"sold {what}"

        @pytest.fixture(scope="session")
        def prefork_includes():
            return ["shop_tasks"]

        @pytest.fixture(scope="session")
        def prefork_class_tasks():
            return [Sell]

        @pytest.fixture(scope="session")
        def prefork_parameters():
            return {"strict_typing": False}

        @pytest.fixture(scope="session")
        def prefork_worker_parameters():
            return {"hostname": "shop@tests", "perform_ping_check": False, "shutdown_timeout": 5}
        """,
    )
    session.write(
        "test_it.py",
        """
        def test_a(prefork_session_app, prefork_session_worker):
            assert prefork_session_app.send_task("shop_tasks.price", (4,)).get(timeout=10) == 8
            assert prefork_session_app.tasks["sell"].delay("it").get(timeout=10) == "sold it"
            assert not prefork_session_app.strict_typing
            prefork_session_app.seen = prefork_session_worker

        def test_b(prefork_session_app, prefork_session_worker):
            assert prefork_session_app.seen is prefork_session_worker
            assert prefork_session_worker.hostname == "shop@tests"

        def test_tasks_that_are_called_by_their_function(prefork_session_worker):
            import shop_tasks
            assert shop_tasks.price.delay(3).get(timeout=10) == 6
        """,
    )
    assert "3 passed" in session.run()


def test_an_app_of_the_project_takes_the_place_of_the_fixtures(session: Session) -> None:
    session.write(
        "shop.py",
        """
        from prefork.engine import App

        app = App("shop", broker="redis://nowhere.invalid/0")

        @app.task
        def add(x, y):
            return x + y
        """,
    )
    session.write(
        "test_it.py",
        """
        import pytest
        from shop import add, app

        @pytest.fixture(scope="session")
        def prefork_session_app():
            app.conf.update(broker_url="memory://shop", result_backend="memory://shop")
            yield app
            app.close()

        def test_add(prefork_session_worker):
            assert add.delay(2, 3).get(timeout=10) == 5
        """,
    )
    assert "1 passed" in session.run()


def test_a_project_that_does_not_use_it_does_not_notice(session: Session) -> None:
    session.write(
        "test_it.py",
        """
        import sys

        def test_nothing_is_imported():
            ours = sorted(name for name in sys.modules if name.startswith("prefork."))
            assert ours == ["prefork.engine", "prefork.engine.testing", "prefork.engine.testing.plugin"]
        """,
    )
    assert "1 passed" in session.run()
    assert "@pytest.mark.prefork(**settings)" in session.run("--markers")


def test_the_worker_may_run_tasks_in_processes(session: Session, tmp_path: Path) -> None:
    session.write(
        "shop.py",
        f"""
        import os
        from prefork.engine import App

        app = App("shop", broker="filesystem://{tmp_path}/broker")

        @app.task
        def pid():
            return os.getpid()
        """,
    )
    session.write(
        "test_it.py",
        """
        import os
        import pytest
        from shop import app, pid

        @pytest.fixture(scope="session")
        def prefork_session_app():
            return app

        @pytest.fixture(scope="session")
        def prefork_worker_pool():
            return "prefork"

        def test_pid(prefork_session_worker):
            assert pid.delay().get(timeout=30) != os.getpid()

        def test_draining(prefork_session_worker):
            results = [pid.delay() for _ in range(20)]
            prefork_session_worker.drain()
            assert all(result.successful() for result in results)
        """,
    )
    assert "2 passed" in session.run()

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefork.engine.app import App
from prefork.engine.discovery import MAIN_ALIAS, find_app, import_script, location_of
from prefork.engine.exceptions import ImproperlyConfigured
from prefork.engine.local import apps


@pytest.fixture(autouse=True)
def _state_is_put_back() -> Iterator[None]:
    before_apps, before_main = apps.current, sys.modules["__main__"]
    yield
    apps.current = before_apps
    sys.modules["__main__"] = before_main
    sys.modules.pop(MAIN_ALIAS, None)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    made = types.ModuleType("made_up_project")
    monkeypatch.setitem(sys.modules, "made_up_project", made)
    return made


def new_app(name: str = "x") -> App:
    return App(name, set_as_current=False)


def test_an_app_is_found_by_attribute_or_by_its_usual_names(module: Any) -> None:
    module.mine, module.celery = new_app(), new_app()
    assert find_app("made_up_project:mine") is module.mine
    assert find_app("made_up_project.mine") is module.mine
    assert find_app("made_up_project") is module.celery
    module.app = new_app()
    assert find_app("made_up_project") is module.app


def test_a_single_app_needs_no_name(module: Any) -> None:
    module.whatever = module.alias = new_app()
    assert find_app("made_up_project") is module.whatever
    module.second = new_app()
    with pytest.raises(ImproperlyConfigured, match="several apps"):
        find_app("made_up_project")


def test_a_package_may_keep_its_app_in_celery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "made_up_site"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "celery.py").write_text("from prefork.engine import App\nproject = App('site')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        assert find_app("made_up_site").main == "site"
        assert find_app("made_up_site:celery").main == "site"
    finally:
        for name in [name for name in sys.modules if name.startswith("made_up_site")]:
            del sys.modules[name]


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("no_such_module_here", "no module is called"),
        ("no_such_module_here:app", "no module is called"),
        ("made_up_project", "no App"),
        ("made_up_project:three", "is int, not an App"),
        ("made_up_project:none.deeper", "is NoneType"),
        ("file:///no/such/script.py:app", "no such script"),
        ("file:///no/such/script.py", "no such script"),
    ],
)
def test_a_place_without_an_app_is_explained(module: Any, where: str, text: str) -> None:
    module.three = 3
    with pytest.raises(ImproperlyConfigured, match=text):
        find_app(where)


def test_an_error_inside_the_module_passes_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made_up_broken.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        find_app("made_up_broken")


SCRIPT = """
from prefork.engine import App
app = App(broker="memory://script")

class Thing: pass

@app.task
def work(): return 1

if __name__ == "__main__":
    raise SystemExit("the script must not run again")
"""


def test_a_script_is_imported_again_without_running(tmp_path: Path) -> None:
    path = tmp_path / "my jobs.py"
    path.write_text(SCRIPT)
    app = find_app(f"{path.as_uri()}:app")
    assert "my jobs.work" in app.tasks
    assert find_app(path.as_uri()) is app
    assert sys.modules["__main__"] is sys.modules[MAIN_ALIAS]
    assert app.tasks["my jobs.work"]() == 1


def test_a_script_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text("raise ValueError('broken script')\n")
    main = sys.modules["__main__"]
    with pytest.raises(ValueError, match="broken script"):
        import_script(str(path))
    assert MAIN_ALIAS not in sys.modules
    assert sys.modules["__main__"] is main
    other = tmp_path / "text.txt"
    other.write_text("x")
    with pytest.raises(ImproperlyConfigured, match="not a Python file"):
        import_script(str(other))


def test_the_place_of_an_app_is_told(module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module.mine = new_app()
    assert location_of(module.mine) == "made_up_project:mine"
    script = tmp_path / "script.py"
    script.write_text("")
    main = types.ModuleType("__main__")
    main.here = new_app()  # type: ignore[attr-defined]
    main.__file__ = str(script)
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert location_of(main.here) == f"{script.as_uri()}:here"
    main.__spec__ = types.SimpleNamespace(name="pkg.mod")  # type: ignore[assignment]
    assert location_of(main.here) == "pkg.mod:here"


def test_an_app_of_a_console_or_closure_has_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImproperlyConfigured, match="cannot be imported by another process"):
        location_of(new_app())
    main = types.ModuleType("__main__")
    main.here = new_app()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "__main__", main)
    with pytest.raises(ImproperlyConfigured, match="console"):
        location_of(main.here)

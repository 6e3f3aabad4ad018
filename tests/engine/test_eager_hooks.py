"""What runs around an eager call: hooks of its task, what is linked, what replaces it."""

from __future__ import annotations

from typing import Any

import pytest

from prefork.engine.app import App
from support.apps import memory_app


def test_hooks_are_called_in_order(app: App) -> None:
    class Hooked(app.Task):  # type: ignore[name-defined, misc]
        log: list[Any] = []

        def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
            self.log.append(("before_start", args))

        def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
            self.log.append(("on_success", retval))

        def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
            self.log.append(("on_failure", str(exc), "Traceback" in str(einfo)))

        def on_retry(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
            self.log.append(("on_retry", str(exc)))

        def after_return(
            self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any
        ) -> None:
            self.log.append(("after_return", status))

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            self.log.append("call")
            return super().__call__(*args, **kwargs)

    @app.task(base=Hooked, bind=True, max_retries=1)
    def f(self: Any, what: str) -> str:
        assert self.request.id is not None
        if what == "retry":
            raise self.retry(exc=ValueError("again"))
        return what

    assert f.apply(("fine",)).get() == "fine"
    assert Hooked.log == [
        ("before_start", ("fine",)),
        "call",
        ("on_success", "fine"),
        ("after_return", "SUCCESS"),
    ]
    Hooked.log.clear()
    assert f.apply(("retry",)).state == "FAILURE"
    assert [entry[0] for entry in Hooked.log if entry != "call"] == [
        "before_start",
        "on_retry",
        "before_start",
        "on_failure",
        "after_return",
    ]


def test_a_hook_that_raises_does_not_change_the_outcome(app: App, caplog: pytest.LogCaptureFixture) -> None:
    @app.task
    def f() -> int:
        return 1

    def on_success(*_: Any) -> None:
        raise RuntimeError("bad hook")

    type(f).on_success = on_success  # type: ignore[assignment, method-assign]
    assert f.apply().get() == 1
    assert "bad hook" in caplog.text


def test_links_run_here_too(app: App) -> None:
    seen: list[Any] = []

    @app.task(name="note")
    def note(value: Any, extra: Any = None) -> Any:
        seen.append((value, extra))
        return value

    @app.task(name="boom")
    def boom() -> None:
        raise ValueError("x")

    note.apply((1,), link=note.s(extra=2))
    assert seen == [(1, None), (1, 2)]

    @app.task(name="tell")
    def tell(task_id: str) -> None:
        seen.append(task_id)

    @app.task(name="explain")
    def explain(request: Any, exc: BaseException, trace: str) -> None:
        seen.append((request.id, repr(exc), "in boom" in trace))

    result = boom.apply(link_error=[tell.s(), explain.s()])
    assert seen[2:] == [(result.id, "ValueError('x')", True), result.id]


@pytest.mark.parametrize("eager", [False, True], ids=["apply", "always eager"])
@pytest.mark.parametrize("throw", [False, True])
def test_what_replaces_a_task_has_the_hooks_and_the_result_of_its_id(eager: bool, throw: bool) -> None:
    called: list[Any] = []
    with memory_app(task_always_eager=eager) as app:

        class Hooked(app.Task):  # type: ignore[name-defined, misc]
            def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
                called.append(("on_success", self.name, task_id))

            def after_return(self, status: str, *values: Any) -> None:
                called.append(("after_return", self.name, status))

        @app.task(name="double", base=Hooked)
        def double(x: int) -> int:
            return 2 * x

        @app.task(name="host", bind=True, base=Hooked)
        def host(self: Any, x: Any) -> None:
            self.replace(double.s(x) | double.s())
            called.append("not reached")

        call = host.apply_async if eager else host.apply
        result = call((2,), task_id="outer", throw=throw, link=double.s())
        assert (result.id, result.state, result.get()) == ("outer", "SUCCESS", 8)
        ends = [entry for entry in called if entry[0] == "on_success"]
        assert [name for _, name, _ in ends] == ["double"] * 3
        assert ends[1][2] == "outer"
        assert called.count(("after_return", "double", "SUCCESS")) == 3
        assert len(called) == 6
        failing = call((None,), task_id="outer", throw=False)
        assert failing.get(propagate=False) is None if failing.state == "PENDING" else failing.failed()
        if throw:
            with pytest.raises(TypeError):
                call((None,), throw=True)


@pytest.mark.parametrize("eager", [False, True], ids=["apply", "always eager"])
def test_what_is_linked_is_no_child_of_whoever_made_the_call(eager: bool) -> None:
    with memory_app(task_always_eager=eager) as app:

        @app.task(name="f")
        def f(x: int) -> int:
            return x

        @app.task(name="host", bind=True)
        def host(self: Any) -> list[str]:
            call = f.apply_async if eager else f.apply
            call((1,), task_id="sent", link=f.s())
            return [child.id for child in self.request.children]

        assert host.apply_async().get() == ["sent"] if eager else host.apply().get() == []

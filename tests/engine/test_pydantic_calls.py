"""Tasks that take and return pydantic models: plain data on the wire, models in the body."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, Any, Optional, Union

import pydantic
import pytest
from pydantic import BaseModel, ValidationInfo, field_validator

from prefork.engine import App
from prefork.engine.exceptions import ImproperlyConfigured, InvalidArguments
from prefork.engine.pydantic_calls import model_hint
from prefork.engine.testing import start_worker, temporary_app


class Line(BaseModel):
    sku: str
    price: Decimal


class Order(BaseModel):
    number: int
    lines: list[Line] = []
    token: str | None = None


class Receipt(BaseModel):
    total: Decimal


class Checked(BaseModel):
    seen: Any = None

    @field_validator("seen", mode="before")
    @classmethod
    def look(cls, value: Any, info: ValidationInfo) -> Any:
        context = info.context or {}
        return [context.get("tenant"), context["celery_task_name"], context["celery_app"].main]


ORDER = {"number": 7, "lines": [{"sku": "a", "price": "1.50"}, {"sku": "b", "price": "2.25"}]}


@pytest.fixture
def app() -> Iterator[App]:
    with temporary_app("shop") as made:
        yield made


def test_models_come_and_go_as_plain_data(app: App) -> None:
    @app.task(pydantic=True)
    def total(order: Order, factor: int = 1) -> Receipt:
        assert isinstance(order, Order)
        return Receipt(total=sum((line.price for line in order.lines), Decimal()) * factor)

    with start_worker(app):
        assert total.delay(ORDER).get(timeout=10) == {"total": "3.75"}  # type: ignore[arg-type]
        assert total.delay(Order(**ORDER), factor=2).get(timeout=10) == {"total": "7.50"}
        assert total.delay(factor=2, order=Order(number=1)).get(timeout=10) == {"total": "0"}
    assert total(ORDER) == {"total": "3.75"}  # type: ignore[arg-type]
    assert total.apply((Order(**ORDER),)).get() == {"total": "3.75"}


@pytest.mark.parametrize("optional", [Optional[Order], Order | None, Union[None, Order]])  # noqa: UP007, UP045
def test_none_passes_where_it_may(app: App, optional: Any) -> None:
    def number(order: Any = None) -> Any:
        return None if order is None else order.number

    number.__annotations__["order"] = optional
    task = app.task_of(number, pydantic=True)
    with start_worker(app):
        assert task.delay().get(timeout=10) is None
        assert task.delay(None).get(timeout=10) is None
        assert task.delay(ORDER).get(timeout=10) == 7


def test_an_invalid_argument_fails_the_task_and_is_not_repeated(app: App) -> None:
    @app.task(pydantic=True, name="shop.book")
    def book(order: Order) -> None:
        raise AssertionError("unreachable")

    with start_worker(app):
        result = book.delay({"number": "seven", "lines": [{"sku": "a"}], "token": "s3cret"})  # type: ignore[arg-type]
        with pytest.raises(InvalidArguments) as raised:
            result.get(timeout=10)
    error = raised.value
    assert (error.task, error.argument) == ("shop.book", "order")
    assert [problem.partition(":")[0] for problem in error.problems] == ["number", "lines.0.price"]
    assert "seven" not in str(error) + str(result.traceback)
    assert "s3cret" not in str(error) + str(result.traceback)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert isinstance(error, ValueError)


def test_strict_validation_converts_nothing(app: App) -> None:
    @app.task(pydantic=True, pydantic_strict=True)
    def number(order: Order) -> int:
        return order.number

    @app.task(pydantic=True, name="lax")
    def lax(order: Order) -> int:
        return order.number

    assert lax({"number": "7"}) == 7  # type: ignore[arg-type]
    with pytest.raises(InvalidArguments, match="number: .*integer"):
        number({"number": "7"})  # type: ignore[arg-type]


def test_validators_see_the_context(app: App) -> None:
    @app.task(pydantic=True, pydantic_context={"tenant": "acme"}, name="look")
    def look(checked: Checked) -> Any:
        return checked.seen

    assert look({"seen": 1}) == ["acme", "look", "shop"]  # type: ignore[arg-type]


def test_the_caller_says_how_results_are_dumped(app: App) -> None:
    @app.task(pydantic=True, pydantic_dump_kwargs={"exclude_none": True, "mode": "python"})
    def same(order: Order) -> Order:
        return order

    assert same({"number": 1}) == {"number": 1, "lines": []}  # type: ignore[arg-type, comparison-overlap]


def test_only_what_the_annotation_names_is_dumped(app: App) -> None:
    @app.task(pydantic=True)
    def other(order: Order):  # type: ignore[no-untyped-def]
        return order

    assert isinstance(other(Order(number=1)), Order)
    with start_worker(app), pytest.raises(Exception, match="result"):
        other.delay(Order(number=1)).get(timeout=10)


def test_bound_and_async_tasks_take_models_too(app: App) -> None:
    @app.task(bind=True, pydantic=True, max_retries=1)
    def bound(self: Any, order: Order, *rest: int, **more: int) -> list[Any]:
        if not self.request.retries:
            raise self.retry(countdown=0)
        return [order.number, rest, more, self.request.retries]

    @app.task(pydantic=True)
    async def awaited(order: Order) -> Receipt:
        return Receipt(total=Decimal(order.number))

    with start_worker(app):
        assert bound.delay(Order(number=3), 1, 2, x=4).get(timeout=10) == [3, [1, 2], {"x": 4}, 1]
        assert awaited.delay(Order(number=3)).get(timeout=10) == {"total": "3"}
        with pytest.raises(InvalidArguments):
            awaited.delay({}).get(timeout=10)  # type: ignore[arg-type]


@pytest.mark.parametrize("by_name", [False, True])
def test_a_retry_with_other_arguments_takes_models(app: App, by_name: bool) -> None:
    @app.task(bind=True, pydantic=True, max_retries=1)
    def grows(self: Any, order: Order, factor: int = 1) -> int:
        if not self.request.retries:
            larger = Order(number=order.number + 1)
            raise self.retry(
                countdown=0,
                args=None if by_name else (larger, factor),
                kwargs={"order": larger, "factor": factor} if by_name else None,
            )
        return order.number * factor

    with start_worker(app):
        assert grows.delay(Order(number=3), 2).get(timeout=10) == 8
        assert grows.delay(order=Order(number=3), factor=2).get(timeout=10) == 8
    assert grows.apply((Order(number=3), 2)).get() == 8


def test_arguments_that_do_not_fit_are_refused_before_anything_is_sent(app: App) -> None:
    @app.task(pydantic=True)
    def one(order: Order) -> None:
        return None

    with pytest.raises(TypeError, match="order"):
        one.delay()  # type: ignore[call-arg]
    assert app.client.transport.depth("celery").ready == 0


def test_an_annotation_that_names_nothing_is_explained(app: App) -> None:
    def lost(order: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
        return None

    task = app.task_of(lost, pydantic=True, name="lost")
    with pytest.raises(ImproperlyConfigured, match="'lost'.*Nowhere.*top of its module"):
        task({})


def test_other_annotations_are_left_alone() -> None:
    assert model_hint(Order | Line, BaseModel) is None
    assert model_hint(list[Order], BaseModel) is None
    assert model_hint("Order", BaseModel) is None
    assert model_hint(Annotated[Order, 1], BaseModel) is None
    assert model_hint(Order, BaseModel) == (Order, False)


def test_without_pydantic_the_definition_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, app: App
) -> None:
    monkeypatch.setitem(sys.modules, "pydantic", None)

    def order(it: Any) -> None:
        return None

    with pytest.raises(ImproperlyConfigured, match=r"pydantic is not installed.*prefork\[pydantic\]"):
        app.task_of(order, pydantic=True)


def test_a_broken_or_old_pydantic_is_told_apart(monkeypatch: pytest.MonkeyPatch, app: App) -> None:
    def order(it: Any) -> None:
        return None

    class Old:
        VERSION = "1.10"
        BaseModel = object

    monkeypatch.setitem(sys.modules, "pydantic", Old)
    with pytest.raises(ImproperlyConfigured, match=r"pydantic 1\.10 is too old"):
        app.task_of(order, pydantic=True)

    def broken(name: str, *_: Any) -> Any:
        raise ModuleNotFoundError("no core", name="pydantic_core")

    monkeypatch.setattr("prefork.engine.pydantic_calls.import_module", broken)
    with pytest.raises(ModuleNotFoundError, match="no core"):
        app.task_of(order, pydantic=True)


def test_nobody_else_imports_pydantic() -> None:
    code = "from prefork.engine import App\nApp('x').task_of(print, name='p')\nimport sys\n"
    code += "print('pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert pydantic.VERSION >= "2"

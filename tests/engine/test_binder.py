from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine.binder import ArgumentCheck


def plain(x: Any, y: Any = 1) -> None: ...
def positional_only(a: Any, b: Any = 0, /, c: Any = 0) -> None: ...
def keyword_only(a: Any, *, k: Any, m: Any = 2) -> None: ...
def any_positions(a: Any, *rest: Any) -> None: ...
def any_keywords(a: Any, **rest: Any) -> None: ...
def anything(*args: Any, **kwargs: Any) -> None: ...
def nothing() -> None: ...
def mixed(a: Any, /, b: Any, *rest: Any, k: Any = 1, **more: Any) -> None: ...


FUNCTIONS: list[Callable[..., Any]] = [
    plain,
    positional_only,
    keyword_only,
    any_positions,
    any_keywords,
    anything,
    nothing,
    mixed,
]


@given(
    function=st.sampled_from(FUNCTIONS),
    args=st.lists(st.integers(), max_size=4),
    kwargs=st.dictionaries(
        st.sampled_from(["a", "b", "c", "k", "m", "x", "y", "z"]), st.integers(), max_size=4
    ),
)
def test_the_check_agrees_with_inspect(
    function: Callable[..., Any], args: list[int], kwargs: dict[str, int]
) -> None:
    try:
        inspect.signature(function).bind(*args, **kwargs)
        accepted = True
    except TypeError:
        accepted = False
    check = ArgumentCheck("f", function)
    if accepted:
        check(args, kwargs)
    else:
        with pytest.raises(TypeError, match=r"^f\(\) "):
            check(args, kwargs)


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ((), {}, "missing 1 required argument: 'x'"),
        ((1, 2, 3), {}, "takes 2 positional arguments but 3 were given"),
        ((1,), {"x": 2}, "multiple values for argument 'x'"),
        ((1,), {"q": 2}, "unexpected keyword argument 'q'"),
    ],
)
def test_a_refusal_names_the_argument(args: tuple[int, ...], kwargs: dict[str, int], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        ArgumentCheck("add", plain)(args, kwargs)


def test_a_callable_without_a_signature_accepts_everything() -> None:
    class Opaque:
        __signature__ = "not a signature"

        def __call__(self) -> None: ...

    ArgumentCheck("opaque", Opaque())((1, 2), {"a": 3})

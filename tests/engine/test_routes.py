from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.common import Broadcast

from prefork.engine.exceptions import ImproperlyConfigured, QueueNotFound
from prefork.engine.routes import Destination, Router, queue_specs, routers_of
from prefork.transports.declarations import topic_matches
from support.apps import memory_app


def route(
    name: str = "proj.add", call: dict[str, Any] | None = None, task: Any = None, **settings: Any
) -> Destination:
    with memory_app(**settings) as app:
        return Router(app.config).route(name, (), {}, call or {}, task)


def test_everything_goes_to_the_default_queue_unless_something_says_otherwise() -> None:
    assert route() == Destination(("celery",), "", "celery")
    assert route(task_default_queue="work").queues == ("work",)


def test_the_call_wins_over_the_task_and_the_task_over_routes() -> None:
    routes = {"proj.*": {"queue": "routed"}}
    task = SimpleNamespace(queue="of-task", exchange=None, routing_key=None)
    assert route(task_routes=routes).queues == ("routed",)
    assert route(task=task, task_routes=routes).queues == ("of-task",)
    assert route(call={"queue": "of-call"}, task=task, task_routes=routes).queues == ("of-call",)


def test_exact_names_come_before_patterns() -> None:
    routes = {"proj.*": "glob", re.compile(r".*\.add$"): "regex", "proj.add": "exact"}
    assert route("proj.add", task_routes=routes).queues == ("exact",)
    assert route("proj.sub", task_routes=routes).queues == ("glob",)
    assert route("other.add", task_routes=routes).queues == ("regex",)
    assert route("other.sub", task_routes=routes).queues == ("celery",)


def test_a_pair_list_is_an_ordered_map() -> None:
    routes = [("proj.*", {"queue": "first"}), ("proj.a*", {"queue": "second"})]
    assert route("proj.add", task_routes=routes).queues == ("first",)


def test_functions_are_asked_in_order_and_the_first_answer_wins() -> None:
    asked: list[str] = []

    def silent(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **_: Any) -> Any:
        asked.append(name)

    def speaking(name: str, *_: Any, **__: Any) -> Any:
        return {"queue": "fn", "priority": 7}

    found = route(task_routes=[silent, speaking, {"*": "never"}])
    assert found.queues == ("fn",)
    assert found.extra == {"priority": 7}
    assert asked == ["proj.add"]


def test_an_object_with_route_for_task_is_a_router() -> None:
    router = SimpleNamespace(route_for_task=lambda name, args, kwargs: {"queue": f"q-{name}"})
    assert route(task_routes=[router]).queues == ("q-proj.add",)


def test_a_dotted_name_is_imported() -> None:
    assert routers_of("os.path:join")[0]("a", "b") == "a/b"


@pytest.mark.parametrize("value", [3, "nodots"])
def test_what_is_no_router_is_refused(value: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="task_routes"):
        routers_of(value)


def test_queues_may_be_names_maps_or_objects() -> None:
    queue = SimpleNamespace(
        name="obj", exchange=SimpleNamespace(name="ex", type="topic"), routing_key="a.#", queue_arguments=None
    )
    with memory_app(task_queues=["plain", {"name": "map", "routing_key": "k"}, queue]) as app:
        specs = queue_specs(app.config)
    assert list(specs) == ["plain", "map", "obj"]
    assert specs["map"].routing_key == "k"
    assert (specs["obj"].exchange, specs["obj"].exchange_type) == ("ex", "topic")


def test_a_map_of_queues_is_read_too() -> None:
    with memory_app(task_queues={"a": {"exchange": "x", "binding_key": "b"}}) as app:
        specs = queue_specs(app.config)
    assert (specs["a"].exchange, specs["a"].routing_key) == ("x", "b")


def test_a_queue_without_a_name_is_refused() -> None:
    with (
        memory_app(task_queues=[SimpleNamespace(exchange="x")]) as app,
        pytest.raises(ImproperlyConfigured, match="has no name"),
    ):
        queue_specs(app.config)


def test_unknown_queues_are_refused_when_they_may_not_be_made() -> None:
    with pytest.raises(QueueNotFound, match="nope"):
        route(call={"queue": "nope"}, task_create_missing_queues=False)
    assert route(call={"queue": "new"}).queues == ("new",)


def test_an_exchange_reaches_the_queues_bound_to_it() -> None:
    queues = [
        {"name": "all", "exchange": "news", "exchange_type": "topic", "routing_key": "#"},
        {"name": "sport", "exchange": "news", "exchange_type": "topic", "routing_key": "sport.*"},
        {"name": "fan", "exchange": "cast", "exchange_type": "fanout"},
        {"name": "one", "exchange": "direct", "routing_key": "key"},
    ]
    found = route(call={"exchange": "news", "routing_key": "sport.golf"}, task_queues=queues)
    assert found == Destination(("all", "sport"), "news", "sport.golf")
    assert route(call={"exchange": "cast"}, task_queues=queues).queues == ("fan",)
    assert route(call={"exchange": "direct", "routing_key": "key"}, task_queues=queues).queues == ("one",)
    assert route(call={"queue": "sport"}, task_queues=queues).exchange == "news"


def test_what_no_queue_is_bound_for_is_told_from_what_an_undescribed_queue_would_take() -> None:
    queues = [{"name": "sport", "exchange": "news", "exchange_type": "topic", "routing_key": "sport.*"}]
    for call in ({"exchange": "news", "routing_key": "tech"}, {"exchange": "elsewhere"}):
        assert not route(call=call, task_queues=queues).bound
    assert route(call={"exchange": "news", "routing_key": "sport.golf"}, task_queues=queues).bound
    own = route(call={"exchange": "own", "routing_key": "own"}, task_queues=queues)
    assert (own.queues, own.bound) == (("own",), True)


def test_a_key_without_an_exchange_means_the_default_queue_as_in_celery_unless_a_queue_is_bound_so() -> None:
    assert route(call={"routing_key": "high"}) == Destination(("celery",), "", "celery")
    queues = [{"name": "celery"}, {"name": "h", "exchange": "celery", "routing_key": "high"}]
    assert route(call={"routing_key": "high"}, task_queues=queues).queues == ("h",)
    assert route(call={"routing_key": "low"}, task_queues=queues).queues == ("celery",)


def test_a_broadcast_without_a_key_gets_the_default_one_as_celerys_workers_give_it() -> None:
    queues = [Broadcast("news", queue="all"), Broadcast("keyed", queue="some", routing_key="a.#")]
    assert route(call={"queue": "all"}, task_queues=queues) == Destination(("all",), "news", "celery")
    assert route(call={"queue": "some"}, task_queues=queues).routing_key == "a.#"
    found = route(call={"queue": "all"}, task_queues=queues, task_default_routing_key="key")
    assert found.routing_key == "key"


@pytest.mark.parametrize(
    ("pattern", "key", "answer"),
    [
        ("#", "", True),
        ("#", "a.b", True),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.#", "a", True),
        ("a.#.z", "a.b.c.z", True),
        ("a.#.z", "a.b.c", False),
        ("*.b", "a.b", True),
    ],
)
def test_topics_match_by_words(pattern: str, key: str, answer: bool) -> None:
    assert topic_matches(pattern, key) is answer


@given(st.lists(st.sampled_from("ab"), min_size=1, max_size=6))
def test_a_key_matches_itself_and_any_of_its_words_may_be_a_star(words: list[str]) -> None:
    key = ".".join(words)
    assert topic_matches(key, key)
    assert topic_matches(".".join(["*"] * len(words)), key)
    assert not topic_matches(".".join(["*"] * (len(words) + 1)), key)

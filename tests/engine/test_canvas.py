from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import celery.canvas
import pytest

from prefork.engine.app import App
from prefork.engine.canvas import (
    ChordNeeded,
    Signature,
    chain,
    chunks,
    group,
    maybe_signature,
    signature,
    xmap,
    xstarmap,
)
from prefork.engine.execution import execute
from prefork.engine.request import Context
from prefork.serializers.base import EncodeError
from support.apps import memory_app, payload, sent


@pytest.fixture
def app() -> Any:
    with memory_app() as made:
        made.set_current()
        yield made


@pytest.fixture
def add(app: App) -> Any:
    return app.task(name="proj.add")(lambda x, y=0, z=0: x + y)


# --- signatures -------------------------------------------------------------------------------------


def test_a_signature_is_the_map_that_peers_know(add: Any) -> None:
    made = add.signature((1, 2), {"y": 3}, queue="q", countdown=3, immutable=True)
    assert json.loads(json.dumps(made)) == {
        "task": "proj.add",
        "args": [1, 2],
        "kwargs": {"y": 3},
        "options": {"queue": "q", "countdown": 3},
        "subtask_type": None,
        "immutable": True,
    }
    theirs = celery.canvas.Signature(
        "proj.add", (1, 2), {"y": 3}, {"queue": "q", "countdown": 3}, immutable=True
    )
    assert json.loads(json.dumps(made)) == json.loads(json.dumps(theirs))


def test_partial_arguments_go_first_and_options_win(add: Any) -> None:
    made = add.s(2, y=5).set(queue="a", priority=1)
    more = made.clone((1,), {"y": 6}, queue="b")
    assert (more.args, more.kwargs) == ((1, 2), {"y": 6})
    assert more.options == {"queue": "b", "priority": 1}
    assert made.args == (2,)


def test_an_immutable_signature_ignores_arguments_and_takes_options(add: Any) -> None:
    more = add.si(2).clone((1,), {"y": 6}, queue="b")
    assert (more.args, more.kwargs, more.options["queue"]) == ((2,), {}, "b")
    more.set(immutable=False)
    assert not more.immutable


def test_a_group_id_is_never_overridden(add: Any) -> None:
    made = add.s(1).set(group_id="mine")
    assert made.clone(group_id="other").options["group_id"] == "mine"


def test_links_are_kept_once_and_not_shared_by_copies(add: Any) -> None:
    made = add.s(1)
    assert made.link(add.s(2)) == add.s(2)
    made.link(add.s(2))
    assert made.on_error(add.s(3)) is made
    other = made.clone()
    other.link(add.s(9))
    assert [sig.args for sig in made.options["link"]] == [(2,)]
    assert [sig.args for sig in made.flatten_links()] == [(1,), (2,)]


def test_a_signature_runs_here_there_and_inline(app: App, add: Any) -> None:
    made = add.s(2)
    assert made(3) == 5
    assert made.apply((4,)).get() == 6
    made.delay(5)
    made.apply_async((6,), {"z": 0})
    messages = sent(app)
    assert [payload(app, message)[:2] for message in messages] == [([5, 2], {}), ([6, 2], {"z": 0})]


def test_a_signature_of_an_unknown_task_is_sent_by_name(app: App) -> None:
    signature("far.away", (1,), app=app).apply_async(queue="q")
    assert sent(app, "q")[0].task == "far.away"


def test_a_frozen_signature_has_its_id(app: App, add: Any) -> None:
    made = add.s(1)
    result = made.freeze()
    assert made.id == result.id
    made.apply_async((1,))
    assert sent(app)[0].id == result.id
    assert add.s().freeze("given", root_id="r").id == "given"


def test_maps_become_signatures_of_their_kind(app: App, add: Any) -> None:
    assert maybe_signature(None) is None
    made = maybe_signature(json.loads(json.dumps(add.s(1))), app)
    assert isinstance(made, Signature) and made.app is app
    back = maybe_signature(json.loads(json.dumps(chain(add.s(1), add.s(2)))), app)
    assert isinstance(back, chain) and len(back.tasks) == 2
    assert isinstance(signature(dict(group(add.s(1)))), group)
    assert signature(made) == made and signature(made) is not made
    assert Signature(dict(made)).task == "proj.add"


def test_copies_and_pickles_are_equal(add: Any) -> None:
    made = chain(add.s(1), add.s(2)) | add.s(3)
    assert pickle.loads(pickle.dumps(made)) == made
    duplicate = copy.deepcopy(made)
    assert duplicate == made and duplicate.tasks[0] is not made.tasks[0]
    assert add.s(1).__json__()["task"] == "proj.add"


def test_fields_can_be_replaced(add: Any) -> None:
    made = add.s(1).replace(args=(2,), kwargs={"y": 1}, options={"queue": "q"})
    made.args = (5,)
    made.kwargs = {"y": 2}
    assert (made.args, made.kwargs, made.options, made.name) == ((5,), {"y": 2}, {"queue": "q"}, "proj.add")
    assert made.type is add
    assert repr(made) == "proj.add(5, y=2)"


# --- chains -----------------------------------------------------------------------------------------


def test_a_chain_travels_inside_its_first_message_last_step_first(app: App, add: Any) -> None:
    result = (add.s(1, 2) | add.s(3) | add.s(4)).apply_async()
    (message,) = sent(app)
    args, _, embed = payload(app, message)
    assert args == [1, 2]
    assert [step["args"] for step in embed.chain or ()] == [[4], [3]]
    assert (embed.chain or ())[0]["options"]["task_id"] == result.id
    assert result.parent.parent.id == message.id
    assert result.as_list() == [result.id, result.parent.id, message.id]


def test_links_of_a_chain_go_to_its_last_step_and_errors_to_every_one(app: App, add: Any) -> None:
    made = chain(add.s(1), add.s(2))
    made.link(add.s(8))
    made.link_error(add.s(9))
    made.apply_async(task_id="last")
    (message,) = sent(app)
    _, _, embed = payload(app, message)
    (step,) = embed.chain or ()
    assert step["options"]["task_id"] == "last"
    assert [sig["args"] for sig in step["options"]["link"]] == [[8]]
    assert [sig["args"] for sig in step["options"]["link_error"]] == [[9]]
    assert [sig["args"] for sig in embed.errbacks or ()] == [[9]]
    assert embed.callbacks is None


def test_a_chain_runs_here(add: Any) -> None:
    result = chain(add.s(1, 2), add.s(3), add.s(4)).apply()
    assert result.get() == 10
    assert result.parent.get() == 6


def test_a_chain_runs_eagerly_to_its_end() -> None:
    with memory_app(task_always_eager=True) as app:
        seen: list[int] = []
        note = app.task(name="note")(lambda x, y: seen.append(x + y) or x + y)
        (note.s(1, 2) | note.s(3) | note.s(4))()
        assert seen == [3, 6, 10]


def test_an_empty_chain_is_nothing(app: App) -> None:
    assert chain(app=app).apply_async() is None


def test_chains_flatten_and_show_themselves(add: Any) -> None:
    made = chain(add.s(1), chain(add.s(2), add.s(3)))
    assert len(made.tasks) == 3
    assert repr(made) == "proj.add(1) | proj.add(2) | proj.add(3)"
    assert len((made | add.s(4)).tasks) == 4
    assert add.s(1).__or__(3) is NotImplemented


# --- groups -----------------------------------------------------------------------------------------


def test_a_group_sends_every_member_with_its_place(app: App, add: Any) -> None:
    result = group(add.s(i, i) for i in range(3)).apply_async()
    messages = sent(app)
    assert [message.group_index for message in messages] == [0, 1, 2]
    assert {message.group for message in messages} == {result.id}
    assert [message.id for message in messages] == [child.id for child in result.children]
    assert [payload(app, message)[0] for message in messages] == [[0, 0], [1, 1], [2, 2]]


def test_a_group_runs_here_and_its_call_sends(app: App, add: Any) -> None:
    made = group(add.s(1), group(add.s(2), add.s(3)))
    assert len(made) == 3 and bool(made)
    assert [result.get() for result in made.apply((10,))] == [11, 12, 13]
    made((5,))
    assert len(sent(app)) == 3
    assert "group(" in repr(made)


def test_members_are_skewed_apart(add: Any) -> None:
    made = group(add.s(i) for i in range(3)).skew(start=1, stop=2)
    assert [task.options["countdown"] for task in made.tasks] == [1, 2, 1]


def test_what_needs_a_chord_says_so(add: Any) -> None:
    with pytest.raises(ChordNeeded, match="needs a chord"):
        group(add.s(1)) | add.s(2)
    with pytest.raises(ChordNeeded):
        chain(add.s(1), group(add.s(2))).apply_async()
    with pytest.raises(ChordNeeded):
        chain(group(add.s(2)), add.s(1)).apply_async()


# --- maps and chunks --------------------------------------------------------------------------------


def test_map_and_starmap_call_the_task_with_every_item(app: App, add: Any) -> None:
    add.map([1, 2]).apply_async()
    add.starmap([(1, 2), (3, 4)]).apply_async()
    for message, expected in zip(sent(app), ([1, 2], [3, 7])):
        args, kwargs, _ = payload(app, message)
        done = execute(
            app.tasks[message.task], Context(id="x", args=args, kwargs=kwargs, called_directly=False)
        )
        assert done.value == expected
    assert [message.task for message in sent(app)] == ["celery.map", "celery.starmap"]
    assert xmap(add.s(), [1], app=app).immutable
    assert xstarmap(add.s(), [[1]], app=app).apply().get() == [1]


def test_chunks_are_a_group_of_starmaps(app: App, add: Any) -> None:
    made = add.chunks(zip(range(5), range(5)), 2)
    made.apply_async()
    messages = sent(app)
    assert [message.task for message in messages] == ["celery.starmap"] * 3
    assert [len(payload(app, message)[1]["it"]) for message in messages] == [2, 2, 1]
    assert payload(app, messages[0])[1]["task"]["task"] == "proj.add"
    with pytest.raises(ValueError, match="at least 1"):
        chunks(add.s(), [1], 0)


def test_accumulate_collects_its_arguments(app: App) -> None:
    task = app.tasks["celery.accumulate"]
    assert task(1, 2) == [1, 2]
    assert task(1, 2, index=1) == 2


def test_cleaning_up_expires_results(app: App) -> None:
    assert app.tasks["celery.backend_cleanup"]() is None


def test_a_group_goes_with_few_round_trips_or_not_at_all(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    @app.task
    def one(x: Any) -> Any:
        return x

    transport = app.client.transport
    calls: list[int] = []
    send = transport.send

    def counted(messages: Any) -> None:
        calls.append(len(messages))
        send(messages)

    monkeypatch.setattr(transport, "send", counted)
    result = group(one.s(number) for number in range(1100)).apply_async()
    assert calls == [500, 500, 100] and len(result) == 1100
    assert [message.id for message in sent(app, limit=2000)] == [child.id for child in result]
    with pytest.raises(EncodeError):
        group(one.s(1), one.s(object())).apply_async()
    assert calls == [500, 500, 100]
    with app.bulk():
        group(one.s(number) for number in range(3)).apply_async()
        assert len(calls) == 3
    assert calls == [500, 500, 100, 3]

"""Malformed messages among good ones in a live worker: nobody falls, everything is explained (I2, I13)."""

from __future__ import annotations

import random

from prefork.engine.exceptions import WorkerLostError
from prefork.engine.message import MalformedMessage, parse
from prefork.serializers.registry import SerializerTable
from support.corpus import bad_messages, document_of, good_document, good_parts
from support.stress_worker import Site
from support.waiting import eventually

TABLE = SerializerTable(("json", "msgpack"), ("json", "msgpack"))
FUZZED = 2000
GOOD = 400
KNOWN = "proj.add"


def reason_of(document: bytes) -> str | None:
    """Why a document is refused; None for one that is in order, or whose body nobody will look at."""
    try:
        message = parse(document, TABLE)
        if message.task == KNOWN and message.eta_wall_s is None and message.expires_wall_s is None:
            message.payload(TABLE)
    except MalformedMessage as error:
        return error.reason.value
    return None


def fuzzed(dice: random.Random, number: int) -> bytes:
    """A good document with a few bytes replaced, removed, doubled or cut off."""
    document = bytearray(good_document(id=f"fuzz-{number}"))
    for _ in range(dice.choice((1, 1, 2, 4, 16))):
        at = dice.randrange(len(document))
        match dice.randrange(5):
            case 0:
                document[at] = dice.randrange(256)
            case 1:
                del document[at : at + dice.randrange(1, 30)]
            case 2:
                document[at:at] = document[at : at + dice.randrange(1, 30)]
            case 3:
                document[at:at] = dice.choice(
                    (b"null", b"[]", b"{}", b'""', b"-1", b"1e999", b"\x00", b"\\ud800")
                )
            case _:
                if dice.random() < 0.2:
                    del document[at:]
        if not document:
            return b""
    return bytes(document)


def test_malformed_messages_among_good_ones_are_dead_lettered_with_their_reason(
    site: Site, dice: random.Random
) -> None:
    # The fuzzed ones come from the seed; what is wrong with those of the corpus was written by hand.
    expected = {bad.document: bad.reason for bad in bad_messages()}
    documents = list(expected)
    benign = 0
    for number in range(FUZZED):
        document = fuzzed(dice, number)
        reason = reason_of(document)
        benign += reason is None
        documents.append(document)
        if reason is not None:
            expected[document] = reason
    dice.shuffle(documents)
    worker = site.worker(
        concurrency=2,
        loglevel="CRITICAL",
        accept_content=["json", "msgpack"],
        task_unknown_grace=0.2,
        task_unknown_retry_delay=0.1,
    ).start()
    before = worker.stats()
    for begin in range(0, len(documents), 6):
        site.send_documents(documents[begin : begin + 6])
        if len(site.accepted) < GOOD:
            site.send("work", 0.0)
    while len(site.accepted) < GOOD:
        site.send("work", 0.0)
    eventually(lambda: site.depth().ready == 0 and site.depth().in_work == 0, deadline_s=60.0, every_s=0.05)
    site.ledger.read()
    letters = {letter.document: letter for letter in site.dead()}
    print(f"{len(documents)} documents, {len(expected)} malformed, {benign} in order, {len(letters)} dead")
    wrong = {
        document[:200]: (reason, letters[document].reason if document in letters else None)
        for document, reason in expected.items()
        if document not in letters or letters[document].reason != reason
    }
    assert wrong == {}
    # Besides them only those whose task's name was hit.
    others = {letters[document].reason for document in set(letters) - set(expected)}
    assert others <= {"unknown-task"}
    assert len(expected) > FUZZED // 3
    assert set(site.accepted) <= site.ledger.finished
    after = worker.stats()
    assert (after["pid"], after["deaths"]) == (before["pid"], {})
    assert [child["pid"] for child in after["children"]] == [child["pid"] for child in before["children"]]
    assert worker.stop() == 0


def test_a_message_whose_decoding_ends_the_process_is_charged(site: Site) -> None:
    ids = [f"deadly-{number}" for number in range(4)]
    for task_id in ids:
        parts = good_parts()
        parts["headers"]["id"] = task_id
        site.send_documents([document_of(parts, b'[["DEADLY"], {}, {}]')])
        for _ in range(10):
            site.send("work", 0.001)
    worker = site.worker(concurrency=2, environ={"STRESS_DEADLY_DECODER": "1"}).start()
    site.finished(30.0)
    letters = eventually(lambda: found if len(found := site.dead()) == len(ids) else None, deadline_s=20.0)
    assert {letter.crashes for letter in letters} == {3}
    assert all("exit code 9" in cause for letter in letters for cause in letter.causes)
    assert len(site.ledger.executions()) == len(site.accepted)
    for task_id in ids:
        assert isinstance(site.result(task_id), WorkerLostError)
    assert worker.stats()["causes"] == {"exit code 9": 3 * len(ids)}
    assert worker.stop() == 0

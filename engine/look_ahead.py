"""Reads many results with few questions: what comes next is looked at before it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .async_result import AsyncResult

LOOK_FIRST = 100
LOOK_MOST = 1000
LOOK_LEAST = 16


def looking_ahead(results: Sequence[Any]) -> Iterator[Any]:
    """The results in order; where the next ones have ended already, their documents are known by then.

    How far it looks follows what it finds: further while everything has ended, less far otherwise.
    """
    width, looked_to = LOOK_FIRST, 0
    for index, result in enumerate(results):
        if index >= looked_to or (isinstance(result, AsyncResult) and result.unknown):
            some = results[index : index + width]
            asked, found = read_final(some)
            looked_to = index + len(some)
            width = min(width * 4, LOOK_MOST) if found == asked else max(width // 4, LOOK_LEAST)
        yield result


def read_final(results: Sequence[Any]) -> tuple[int, int]:
    """Read the documents of those results that have ended, in one question per store.

    :returns: how many were asked for, and how many of them have ended.
    """
    unknown = [result for result in results if isinstance(result, AsyncResult) and result.unknown]
    by_app: dict[int, list[AsyncResult[Any]]] = {}
    for result in unknown:
        by_app.setdefault(id(result.app), []).append(result)
    ended = 0
    for some in by_app.values():
        documents = some[0].app.client.stored.read_final([result.id for result in some])
        for result in some:
            document = documents.get(result.id)
            if document is not None:
                result.learn(document)
                ended += 1
    return len(unknown), ended

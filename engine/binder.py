"""Checks arguments against a task's signature before anything is sent.

`inspect.Signature.bind` costs about 5 µs a call; a client that sends many tasks would notice. The
signature is read once and a call is checked with two comparisons when it has no keywords.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class ArgumentCheck:
    """What one function accepts.

    :param function: anything `inspect.signature` understands; others accept everything.
    """

    __slots__ = (
        "_any_keyword",
        "_any_position",
        "_by_keyword",
        "_last",
        "_names",
        "_needed_kw",
        "_required",
        "name",
    )

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        self._any_position = self._any_keyword = False
        self._names: tuple[str, ...] = ()
        self._required: int = 0
        self._needed_kw: frozenset[str] = frozenset()
        self._by_keyword: frozenset[str] = frozenset()
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):
            # Some callables written in C have no signature to check against.
            self._any_position = self._any_keyword = True
            parameters = []
        self._read(parameters)
        self._last = len(self._names)

    def _read(self, parameters: Sequence[inspect.Parameter]) -> None:
        positional = [p for p in parameters if p.kind in _POSITIONAL]
        kw_only = [p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
        self._names = tuple(p.name for p in positional)
        self._required = sum(1 for p in positional if p.default is inspect.Parameter.empty)
        self._needed_kw = frozenset(p.name for p in kw_only if p.default is inspect.Parameter.empty)
        by_either = [p.name for p in positional if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
        self._by_keyword = frozenset(by_either) | frozenset(p.name for p in kw_only)
        kinds = {p.kind for p in parameters}
        self._any_position = self._any_position or inspect.Parameter.VAR_POSITIONAL in kinds
        self._any_keyword = self._any_keyword or inspect.Parameter.VAR_KEYWORD in kinds

    def __call__(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Accept the arguments or say what is wrong with them.

        :raises TypeError: the function could not be called like this.
        """
        given = len(args)
        if given > self._last and not self._any_position:
            raise TypeError(
                f"{self.name}() takes {self._last} positional argument{'' if self._last == 1 else 's'} "
                f"but {given} {'was' if given == 1 else 'were'} given"
            )
        if not kwargs:
            if given < self._required or self._needed_kw:
                self._refuse_missing(given, kwargs)
            return
        taken = self._names[:given]
        for key in kwargs:
            if key in taken and key in self._by_keyword:
                raise TypeError(f"{self.name}() got multiple values for argument {key!r}")
            if key not in self._by_keyword and not self._any_keyword:
                raise TypeError(f"{self.name}() got an unexpected keyword argument {key!r}")
        self._refuse_missing(given, kwargs)

    def _refuse_missing(self, given: int, kwargs: Mapping[str, Any]) -> None:
        missing = [
            name
            for name in self._names[given : self._required]
            if name not in kwargs or name not in self._by_keyword
        ]
        missing += sorted(name for name in self._needed_kw if name not in kwargs)
        if missing:
            listed = ", ".join(repr(name) for name in missing)
            raise TypeError(
                f"{self.name}() missing {len(missing)} required "
                f"argument{'' if len(missing) == 1 else 's'}: {listed}"
            )

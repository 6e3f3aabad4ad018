"""Results, under the names that users import them by."""

from __future__ import annotations

from .async_result import AsyncResult, result_from_tuple
from .eager_result import EagerResult
from .join_guard import allow_join_result, assert_may_join, denied_join_result
from .result_sets import GroupResult, ResultSet

__all__ = [
    "AsyncResult",
    "EagerResult",
    "GroupResult",
    "ResultSet",
    "allow_join_result",
    "assert_may_join",
    "denied_join_result",
    "result_from_tuple",
]

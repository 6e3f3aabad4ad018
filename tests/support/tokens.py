"""Whether starts keep to the tokens of a bucket, however late each of them is."""

from __future__ import annotations

from collections.abc import Iterable

# Between clocks, and for their resolution.
_SLACK_S = 0.001


def none_before_its_token(
    moments: Iterable[float], since_s: float, per_s: float, burst: float = 1.0, catch_up_s: float = 0.05
) -> None:
    """Each start has a token, of a bucket that was full at some moment after `since_s`.

    To compare starts with each other would be to blame the bucket where whoever had taken a token stood still
    before it started, and the next one did not.

    :param moments: of the starts, on the monotonic clock.
    :param since_s: a moment on the same clock, before the first token was taken.
    :param burst: tokens that the bucket holds.
    :param catch_up_s: it holds so many seconds' worth besides.
    """
    held = burst + catch_up_s * per_s
    for number, moment in enumerate(sorted(moments), start=1):
        token_s = since_s + (number - held) / per_s
        assert moment >= token_s - _SLACK_S, (number, moment - since_s, token_s - since_s)

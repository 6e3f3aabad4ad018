"""How many children there should be. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

KEEPALIVE_S: Final = 30.0


class Load(NamedTuple):
    """What the children are doing.

    :param waiting: messages ready in the broker when the agent last looked.
    """

    waiting: int
    busy: int
    idle: int


class Scale(NamedTuple):
    """The number of children wanted, and since when fewer would have done (None: they would not)."""

    target: int
    idle_since_s: float | None = None


def autoscale(
    scale: Scale, load: Load, bounds: tuple[int, int], now_s: float, keepalive_s: float = KEEPALIVE_S
) -> Scale:
    """The next scale.

    Grows at once to what is waiting when nobody is idle; shrinks by what is idle once some child
    has been idle for `keepalive_s` without a break.

    :param bounds: most and fewest children.
    """
    most, fewest = bounds
    target = min(max(scale.target, fewest), most)
    if load.waiting > 0 and load.idle == 0 and load.busy >= target:
        return Scale(min(most, target + load.waiting))
    needed = max(fewest, load.busy + load.waiting)
    if needed >= target:
        return Scale(target)
    since_s = now_s if scale.idle_since_s is None else scale.idle_since_s
    if now_s - since_s < keepalive_s:
        return Scale(target, since_s)
    return Scale(needed)


class Sizing:
    """The number of children wanted at present. Written by the supervisor's loop only.

    :ivar keepalive_s: how long a child is idle before there is one too many.
    """

    def __init__(self) -> None:
        self._scale = Scale(0)
        self.keepalive_s = KEEPALIVE_S

    @property
    def target(self) -> int:
        """How many children there should be."""
        return self._scale.target

    def set(self, target: int) -> None:
        """Somebody wants another number; autoscale goes on from there."""
        self._scale = Scale(target)

    def adapt(self, load: Load, bounds: tuple[int, int], now_s: float) -> bool:
        """Follow the load; True if the number has changed."""
        before = self._scale
        self._scale = autoscale(before, load, bounds, now_s, self.keepalive_s)
        return self._scale.target != before.target

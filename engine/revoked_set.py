"""What one worker remembers as revoked: bounded, the oldest forgotten first. Pure, with `now` passed in."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable


class RevokedSet:
    """Digests in the order in which they came, with their end and, where it is known, their key.

    :param max_count: so many at most.
    :param lifetime_s: and for so many seconds.
    """

    def __init__(self, max_count: int, lifetime_s: float) -> None:
        self._max = max_count
        self._lifetime_s = lifetime_s
        # Digest -> (monotonic end, key or None). All have the same lifetime: the order is that of the ends.
        self._known: OrderedDict[bytes, tuple[float, str | None]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def add(self, digest: bytes, key: str | None, now_mono_s: float) -> bool:
        """Remember one; False when it was known. A key that was not known until now is kept as well."""
        known = self._known.get(digest)
        if known is not None:
            if known[1] is None and key is not None:
                self._known[digest] = (known[0], key)
            return False
        self._known[digest] = (now_mono_s + self._lifetime_s, key)
        return True

    def forget(self, now_mono_s: float) -> int:
        """Forget what is too old or too much; how many those were."""
        before = len(self._known)
        while self._known and (
            len(self._known) > self._max or next(iter(self._known.values()))[0] <= now_mono_s
        ):
            self._known.popitem(last=False)
        return before - len(self._known)

    def digests(self) -> Iterable[bytes]:
        """All of them, oldest first."""
        return list(self._known)

    def keys(self) -> list[str]:
        """The keys that are known, oldest first."""
        return [key for _, key in self._known.values() if key is not None]

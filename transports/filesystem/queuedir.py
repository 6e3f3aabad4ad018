"""One queue: its lock, its two hint pages and its segments."""

from __future__ import annotations

import itertools
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from . import clock
from .fileops import ForeignObject
from .layout import (
    PRIORITIES,
    SegmentId,
    State,
    data_at,
    encode_name,
    hash64,
    is_hashed,
    parse_segment_name,
)
from .pages import (
    FIRST_NUMBER,
    PAGE_SIZE,
    InPage,
    OutPage,
    is_whole,
    new_in_page,
    new_out_page,
)
from .segment import DONE_BYTE, EMPTY_BYTE, Segment, create_segment, open_segment
from .store import Store

_OPEN_SEGMENTS_MAX = 24
_SEGMENTS_PER_LOCK = 32
_SPENT_DATA_BYTES = 1 << 20
_READY_BYTE = bytes((State.READY,))
_DELAYED_BYTE = bytes((State.DELAYED,))


class QueueDir:
    """An open queue. Whatever changes anything needs `with queue.locked():`.

    :param name: exact; it is encoded for the file system.
    """

    def __init__(self, store: Store, name: str) -> None:
        self.store = store
        self.ops = store.ops
        self.name = name
        self.id = hash64(name)
        self.path = store.path("queues", self.folder(name))
        self._make()
        self.lock = store.lock(f"{self.path}/lock")
        self._generation = -1  # written by the holder of the lock
        self._in_fd = -1
        self._out_fd = -1
        self._segments: OrderedDict[SegmentId, Segment] = OrderedDict()  # by the holder of the lock
        self._bucket_tail: dict[tuple[int, int], int] = {}  # by the holder of the lock

    def _make(self) -> None:
        try:
            self.ops.make_dir(self.path)
            self.ops.make_dir(f"{self.path}/delayed")
        except ForeignObject as error:
            self.store.quarantine(error)
            self.ops.make_dir(self.path)
            self.ops.make_dir(f"{self.path}/delayed")
        encoded = os.path.basename(self.path)
        if is_hashed(encoded) and not os.path.lexists(f"{self.path}/name"):
            temporary = f"{self.path}/name.{os.getpid()}.tmp"
            self.ops.unlink_if_there(temporary)
            self.ops.write_new(temporary, self.name.encode("utf-8", "surrogatepass"))
            self.ops.rename(temporary, f"{self.path}/name")

    @staticmethod
    def folder(name: str) -> str:
        """The name of the directory of a queue."""
        return encode_name(name)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the queue; no call inside may sleep."""
        self.enter()
        try:
            yield
        finally:
            self.lock.release()

    def enter(self) -> None:
        """Take the lock; `self.lock.release()` ends it."""
        try:
            self.lock.acquire()
        except FileNotFoundError:
            self._make()  # somebody removed the whole queue
            self.lock.acquire()
        except ForeignObject as error:
            self.store.quarantine(error)
            self.lock.acquire()
        if self.lock.generation != self._generation:
            try:
                self._reopen()
            except BaseException:
                self.lock.release()
                raise

    def _reopen(self) -> None:
        # Descriptors of before are of files that were removed with the lock file. They are left to
        # leak, once: another thread may be reading from them.
        self._make()
        self._in_fd = self._open_page("in")
        self._out_fd = self._open_page("out")
        self._segments.clear()
        self._bucket_tail.clear()
        self._generation = self.lock.generation

    def _open_page(self, name: str) -> int:
        path = f"{self.path}/{name}"
        try:
            return self.ops.open_regular(path, os.O_RDWR | os.O_CREAT)
        except ForeignObject as error:
            self.store.quarantine(error)
            return self.ops.open_regular(path, os.O_RDWR | os.O_CREAT)

    # -- pages ------------------------------------------------------------------------------------

    def hints(self) -> tuple[bytes, bytes] | None:
        """`in` and `out`, read without the lock; None when they cannot be relied on."""
        if self._in_fd < 0:
            return None
        in_data = self.ops.pread(self._in_fd, PAGE_SIZE, 0)
        out_data = self.ops.pread(self._out_fd, PAGE_SIZE, 0)
        if is_whole(in_data, InPage.magic) and is_whole(out_data, OutPage.magic):
            return in_data, out_data
        return None

    def read_in(self) -> InPage:
        """`in`; rebuilt when damaged. The lock is held."""
        data = self.ops.pread(self._in_fd, PAGE_SIZE, 0)
        if not is_whole(data, InPage.magic):
            self._rebuild()
            data = self.ops.pread(self._in_fd, PAGE_SIZE, 0)
        return InPage(data)

    def read_out(self) -> OutPage:
        """`out`; rebuilt when damaged. The lock is held."""
        data = self.ops.pread(self._out_fd, PAGE_SIZE, 0)
        if not is_whole(data, OutPage.magic):
            self._rebuild()
            data = self.ops.pread(self._out_fd, PAGE_SIZE, 0)
        return OutPage(data)

    def write_in(self, page: InPage) -> None:
        """Publish `in`, and wake who waits. Before the states it speaks of are written."""
        page.ring()
        self.ops.pwrite(self._in_fd, page.pack(), 0)

    def write_out(self, page: OutPage) -> None:
        """Publish `out`. After the states it speaks of are written, or before they become READY."""
        self.ops.pwrite(self._out_fd, page.pack(), 0)

    def _rebuild(self) -> None:
        """Make both pages from the segments."""
        in_page, out_page = new_in_page(), new_out_page()
        ids = self.segment_ids()
        for priority in range(PRIORITIES):
            numbers = [found.number for found in ids if not found.minute and found.priority == priority]
            # With no segment left the numbers used before are unknown: begin above any of them.
            fresh = FIRST_NUMBER if os.fstat(self._in_fd).st_size == 0 else int(clock.wall_s())
            in_page.set_number(priority, max(numbers, default=fresh))
            out_page.set_number(priority, min(numbers, default=fresh))
        for found in ids:
            segment = self.segment(found)
            if segment is None:
                continue
            states = segment.states()
            ready = states.count(_READY_BYTE)
            stream = found.priority + (PRIORITIES if found.minute else 0)
            in_page.set_count(stream, in_page.count(stream) + ready)
            if found.minute:
                in_page.next_due_ms = min(in_page.next_due_ms, found.minute * 60_000)
                if states.strip(EMPTY_BYTE + _DELAYED_BYTE):
                    in_page.promoted_minute = max(in_page.promoted_minute, found.minute)
        self.write_out(out_page)
        self.write_in(in_page)

    # -- segments ---------------------------------------------------------------------------------

    def segment(self, segment_id: SegmentId) -> Segment | None:
        """An existing segment, or None. What is no segment is quarantined. The lock is held."""
        segment = self._segments.get(segment_id)
        if segment is not None:
            # Numbers of plain segments are never used twice, those of buckets may be.
            if not segment_id.minute or self.ops.fstat(segment.fd).st_nlink:
                self._segments.move_to_end(segment_id)
                return segment
            del self._segments[segment_id]
        try:
            segment = open_segment(self.ops, f"{self.path}/{segment_id.path()}", segment_id)
        except FileNotFoundError:
            return None
        except ForeignObject as error:
            self.store.quarantine(error)
            return None
        self._remember(segment)
        return segment

    def _remember(self, segment: Segment) -> None:
        # What others have removed meanwhile takes up space until everybody has closed it.
        removed = [known for known, one in self._segments.items() if not self.ops.fstat(one.fd).st_nlink]
        for known in removed:
            del self._segments[known]
        self._segments[segment.id] = segment
        if len(self._segments) > _OPEN_SEGMENTS_MAX:
            self._segments.popitem(last=False)

    def _create(self, segment_id: SegmentId) -> Segment:
        path = f"{self.path}/{segment_id.path()}"
        if segment_id.minute:
            self._make_folder(os.path.dirname(path))
        if os.path.lexists(path):
            self.store.quarantine(ForeignObject(path, "in the way of a new segment"))
        segment = create_segment(self.ops, path, segment_id)
        if self.store.fsync:
            self.ops.sync_dir(os.path.dirname(path))
        self._remember(segment)
        return segment

    def _make_folder(self, path: str) -> None:
        try:
            self.ops.make_dir(path)
        except ForeignObject as error:
            self.store.quarantine(error)
            self.ops.make_dir(path)

    def tail(self, minute: int, priority: int, number: int, size_bytes: int) -> tuple[Segment, int, int]:
        """Where the next message of a stream goes, from segment `number` on. The lock is held.

        :param number: 0 for wherever the bucket of a minute ends.
        :returns: the segment, the slot, and the place for the document.
        """
        key = (minute, priority)
        if minute and not number:
            number = self._bucket_tail.get(key, FIRST_NUMBER)
        for candidate in itertools.count(number):
            segment_id = SegmentId(minute, priority, candidate)
            segment = self.segment(segment_id) or self._create(segment_id)
            states = segment.states()
            used = states.find(EMPTY_BYTE)
            if used < 0:
                continue
            data_end = segment.data_end(used)
            if segment.fits(data_end, size_bytes):
                if minute:
                    if len(self._bucket_tail) > 10_000:
                        self._bucket_tail.clear()
                    self._bucket_tail[key] = candidate
                return segment, used, data_end
            segment.write_states(used, DONE_BYTE * (segment.slots - used))
        raise AssertionError("unreachable: numbers do not end")

    def drop_if_done(self, segment: Segment, states: bytes | bytearray) -> bool:
        """Remove a segment that holds nothing any more. The lock is held."""
        done = states.count(DONE_BYTE)
        if done != segment.slots:
            if not done or done + states.count(EMPTY_BYTE) != segment.slots:
                return False
            used = states.find(EMPTY_BYTE)
            if segment.data_end(used) - data_at(segment.slots) < _SPENT_DATA_BYTES:
                return False
            # Slots are left, but the documents of those that are done take up much space.
            segment.write_states(used, DONE_BYTE * (segment.slots - used))
        found = segment.id
        if not found.minute:
            page = self.read_in()
            if page.number(found.priority) <= found.number:
                # A number is used once: others may still have the removed file open.
                page.set_number(found.priority, found.number + 1)
                self.write_in(page)
        self._segments.pop(found, None)
        self._forget_causes(found)
        path = f"{self.path}/{found.path()}"
        self.ops.unlink_if_there(path)
        if found.minute:
            try:
                self.ops.rmdir(os.path.dirname(path))
            except OSError:
                return True  # other buckets of the hour are still there
        return True

    def _forget_causes(self, segment_id: SegmentId) -> None:
        try:
            names = os.listdir(f"{self.path}/causes")
        except (FileNotFoundError, NotADirectoryError):
            return
        for name in names:
            if name.startswith(segment_id.causes_prefix()):
                self.ops.unlink_if_there(f"{self.path}/causes/{name}")

    def visit_segments(self, ids: Iterable[SegmentId], visit: Callable[[Segment], None]) -> None:
        """Call `visit` for each segment with the lock held, letting others in after every few."""
        remaining = iter(ids)
        while chunk := list(itertools.islice(remaining, _SEGMENTS_PER_LOCK)):
            with self.locked():
                for segment_id in chunk:
                    segment = self.segment(segment_id)
                    if segment is not None:
                        visit(segment)

    def segment_ids(self, through_minute: int | None = None) -> list[SegmentId]:
        """Every segment there is, plain ones first, oldest first; see `bucket_ids`."""
        found = [parse_segment_name(name) for name in os.listdir(self.path)]
        plain = sorted(one for one in found if one is not None and not one.minute)
        return plain + self.bucket_ids(through_minute)

    def bucket_ids(self, through_minute: int | None) -> list[SegmentId]:
        """The segments of delayed messages, by due minute; None for all of them."""
        found: list[SegmentId] = []
        for hour in self.bucket_hours():
            if through_minute is not None and hour > through_minute // 60:
                break
            found += [
                one for one in self.hour_ids(hour) if through_minute is None or one.minute <= through_minute
            ]
        return found

    def bucket_hours(self) -> list[int]:
        """The hours that have delayed messages, earliest first."""
        names = os.listdir(f"{self.path}/delayed")
        return sorted(int(name) for name in names if name.isascii() and name.isdigit())

    def hour_ids(self, hour: int) -> list[SegmentId]:
        """The segments of one hour, by due minute."""
        try:
            names = os.listdir(f"{self.path}/delayed/{hour}")
        except (FileNotFoundError, NotADirectoryError):
            return []
        found = [parse_segment_name(name) for name in names]
        return sorted(one for one in found if one is not None and one.minute // 60 == hour)

    def close(self) -> None:
        """Drop descriptors. The lock file stays open: closing it would drop locks of others here."""
        self._segments.clear()
        for fd in (self._in_fd, self._out_fd):
            if fd >= 0:
                self.ops.close(fd)
        self._in_fd = self._out_fd = -1
        self._generation = -1

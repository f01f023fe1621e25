"""Any record of an indexed capture, decoded by itself, in any order; and what the capture adds up to so far.

::

    archive = Archive(CaptureStore.open("traffic.pcapng"))
    while archive.store.update(at_most=1 << 23) or archive.update():
        archive.update()
    reader = ArchiveReader(archive)
    print(reader.item(999_999).summary)

Decoding in order, as ``Session`` does, costs ten microseconds and half a kilobyte a record: too much for a list that
is scrolled through.  But little of what went before decides how a record is read: the control messages (which go
through a session here, all of them), the packet that a completion answers (kept as one column beside the store's), and
those few data messages that a dialect observes.  So an archive takes in a million records in about two seconds and 48
bytes each, and decodes one of them when it is looked at.  The outcome is the session's, except that a capture which
starts in the middle calls a channel by the name that an offer gave it later.

One thread may call ``update`` while others read: what is counted in ``len(archive)`` changes no more, except that a
request gets its completion.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from dissectors.engine.channels import ChannelLife
from dissectors.engine.decoded import Decoded
from dissectors.engine.dialect import Dialect
from dissectors.engine.pairing import Key, open_request, transacting
from dissectors.engine.session import Session
from dissectors.engine.single import KnownPlane, SingleReader
from dissectors.engine.span import Partners, SpanColumns, belongs_to_channel, by_channel, is_marked
from dissectors.engine.traffic import Traffic
from vmbus.capture.columns import UNUSUAL, Columns, RecordMark
from vmbus.capture.store import CaptureStore
from vmbus.wire.capture import HEADER_SIZE, RecordKind
from vmbus.wire.protocols import Protocol

BATCH = 1 << 13
"""Records that one ``update`` takes in; about twenty milliseconds."""

_PACKET, _EXTERNAL, _MESSAGE = int(RecordKind.PACKET), int(RecordKind.EXTERNAL), int(RecordKind.MESSAGE)
_WORD = struct.Struct("<I")
_CACHED = 4096


class Archive:
    """What is known of the records of ``store``.  Call ``update`` whenever the store has more."""

    def __init__(self, store: CaptureStore, decode_as: Mapping[int, Protocol] | None = None) -> None:
        self.store = store
        self.session = Session(decode_as)
        """Has been fed the control messages: its channels are those of this moment."""
        self.session.plane.on_begin = self._begin
        self.traffic = Traffic(store)
        self.repeated: dict[int, int] = {}
        """Requests whose transaction id was in use, and the requests that used it; both by index."""
        self.carriers: dict[int, int] = {}
        """Of data that is a request by itself: the packet that carried it."""
        self._count = 0
        self._at = 0
        """The record that is taken in."""
        self._partners = array("i")
        self._pending: dict[Key, int] = {}
        self._lives: dict[int, tuple[list[int], list[ChannelLife]]] = {}
        self._of_message: dict[int, ChannelLife] = {}
        self._observing: dict[int, Dialect] = {}
        self._one_way: set[int] = set()
        self._reader = ArchiveReader(self)

    def __len__(self) -> int:
        return self._count

    def partner(self, index: int) -> int:
        """The record that answers this one, or that this one answers or belongs to; -1 if there is none."""
        return self._partners[index]

    def life_at(self, channel_id: int, index: int) -> ChannelLife:
        """The life of a channel at a record; its first one before that."""
        known = self._lives.get(channel_id)
        if known is None:
            return self.session.plane.life(channel_id)
        starts, lives = known
        return lives[max(bisect_right(starts, index) - 1, 0)]

    def channel_of_message(self, index: int) -> ChannelLife | None:
        """The channel that a control message is about."""
        return self._of_message.get(index)

    def feed(self, session: Session, index: int) -> Decoded:
        """Feed a session the record at ``index``."""
        store = self.store
        if store.columns.flags[index] & UNUSUAL:
            return session.feed(store.record(index))
        return session.feed_bytes(store.data(index), int(store.columns.time[index]), index + 1)

    def span(self, first: int, last: int) -> ArchiveSpan:
        """The records from ``first`` up to ``last``, for a filter that looks at columns."""
        return ArchiveSpan(self, first, last)

    def partners(self, first: int, last: int) -> NDArray[np.int64]:
        """``partner`` of the records from ``first`` up to ``last``."""
        return np.array(self._partners[first:last], np.int64)

    def lives_of(self, channel_id: int) -> tuple[list[int], list[ChannelLife]]:
        """The indices of the records in which the lives of a channel begin, and these lives."""
        starts, lives = self._lives.get(channel_id, ([], []))
        return list(starts), list(lives)

    def last_lives(self) -> dict[int, ChannelLife]:
        """The last life so far of every channel, by channel id, in order of appearance; over or not."""
        return {channel_id: lives[-1] for channel_id, (_, lives) in list(self._lives.items())}

    # Records in

    def update(self, at_most: int = BATCH) -> int:
        """Take in records that the store has more than we, and return how many those were."""
        first, last = self._count, min(len(self.store), self._count + at_most)
        if first == last:
            return 0
        kinds = self.store.columns.kind[first:last]
        self._partners.frombytes(b"\xff\xff\xff\xff" * (last - first))
        for index in (np.flatnonzero(kinds == _MESSAGE) + first).tolist():
            self._take_message(index)
        is_packet = kinds == _PACKET
        for channel_id in np.unique(self.store.columns.channel[first:last][is_packet]).tolist():
            if channel_id not in self._lives:
                self._at = first
                self.session.plane.life(channel_id)
        completed = self._pair(first, last)
        self.traffic.add(first, last, completed)
        self._count = last
        return last - first

    def _take_message(self, index: int) -> None:
        self._at = index
        item = self.session.feed_bytes(self.store.data(index), int(self.store.columns.time[index]), index + 1)
        if item.channel is not None:
            self._of_message[index] = item.channel

    def _begin(self, life: ChannelLife) -> None:
        starts, lives = self._lives.setdefault(life.channel_id, ([], []))
        lives.append(life)
        starts.append(self._at)
        if type(life.dialect).observe is not Dialect.observe:
            self._observing[life.channel_id] = life.dialect
        else:
            self._observing.pop(life.channel_id, None)
        if life.dialect.answers_with_external:
            self._one_way.discard(life.channel_id)
        else:
            self._one_way.add(life.channel_id)

    def _pair(self, first: int, last: int) -> list[tuple[int, int]]:
        """Find what answers what among new records; returns pairs of request and completion."""
        partners, pending = self._partners, self._pending
        completed: list[tuple[int, int]] = []
        for index, channel, direction, transaction, completes, requests in transacting(self.store.columns, first, last):
            if completes:
                request = pending.pop((channel, 3 - direction, transaction), -1)
                if request >= 0:
                    partners[index], partners[request] = request, index
                    completed.append((request, index))
            elif requests:
                self._add_request((channel, direction, transaction), index)
            else:
                self._add_external((channel, direction, transaction), index)
        return completed

    def _add_request(self, key: Key, index: int) -> None:
        earlier = self._pending.get(key)
        if earlier is not None and not self.store.columns.flags[index] & RecordMark.SNAPSHOT:
            self.repeated[index] = earlier
        open_request(self._pending, key, index)

    def _add_external(self, key: Key, index: int) -> None:
        channel, direction, transaction = key
        found = self._pending.get(key, -1)
        if found < 0 and channel not in self._one_way:
            found = self._pending.get((channel, 3 - direction, transaction), -1)
        self._partners[index] = found
        dialect = self._observing.get(channel)
        if dialect is not None and self._first_word(index) not in dialect.unobserved:
            item = self._reader.decode(index)
            dialect.observe(item)
            if item.request is not None:
                request = item.request.number - 1
                self.carriers[request] = self._partners[request]
                self._partners[index], self._partners[request] = request, index

    def _first_word(self, index: int) -> int:
        area, at = self.store.mapped, self.store.data_offset(index) + HEADER_SIZE
        if area is None or self.store.columns.length[index] < HEADER_SIZE + 4:
            return -1
        return int(_WORD.unpack_from(area, at)[0])


class ArchiveSpan:
    """A run of an archive's records as columns: see ``dissectors.engine.span``. What answers a request is known."""

    def __init__(self, archive: Archive, first: int, last: int) -> None:
        self.columns = cast("SpanColumns", _Slice(archive.store.columns, first, last))
        self.first = first
        self._archive = archive
        self._last = last
        self._all = archive.partners(first, last)
        self._lives: tuple[NDArray[np.int32], list[ChannelLife | None]] | None = None

    def __len__(self) -> int:
        return self._last - self.first

    def lives(self) -> tuple[NDArray[np.int32], list[ChannelLife | None]]:
        if self._lives is None:
            self._lives = self._find_lives()
        return self._lives

    def _find_lives(self) -> tuple[NDArray[np.int32], list[ChannelLife | None]]:
        columns = self.columns
        codes = np.zeros(len(self), np.int32)
        found: list[ChannelLife | None] = [None]
        for channel_id, mine in by_channel(columns):
            starts, lives = self._archive.lives_of(channel_id)
            before = max(bisect_right(starts, self.first) - 1, 0)
            for number, (start, life) in enumerate(zip(starts[before:], lives[before:], strict=False)):
                since = start - self.first if number else 0
                if since >= len(self):
                    break
                codes[mine[mine >= since]] = len(found)
                found.append(life)
        return codes, found

    def partners(self) -> Partners:
        columns, index = self.columns, np.arange(self.first, self._last)
        is_packet = columns.kind == _PACKET
        requests = np.where(self._all < index, self._all, -1)
        responses = np.where(self._all > index, self._all, -1)
        latency = np.zeros(len(self), np.int64)
        paired = np.flatnonzero(is_packet & (self._all >= 0))
        waited = self._archive.store.columns.time[self._all[paired]] - columns.time[paired]
        latency[paired] = np.where(responses[paired] >= 0, waited, -waited)
        return Partners(requests, responses, latency)

    def unsure(self) -> NDArray[np.bool_]:
        """What is not sound, data outside the ring that other such data answers, and channels without a life."""
        columns, index = self.columns, np.arange(self.first, self._last)
        codes, _ = self.lives()
        is_answered: NDArray[np.bool_] = (columns.kind == _EXTERNAL) & (self._all > index)
        has_no_life: NDArray[np.bool_] = belongs_to_channel(columns) & (codes == 0)
        found: NDArray[np.bool_] = is_marked(columns, RecordMark.PROBLEM) | is_answered | has_no_life
        return found


class _Slice:
    """Columns of a run of records."""

    def __init__(self, columns: Columns, first: int, last: int) -> None:
        self._columns = columns
        self._run = slice(first, last)

    def __getattr__(self, name: str) -> NDArray[Any]:
        found: NDArray[Any] = getattr(self._columns, name)[self._run]
        return found


class _Plane(KnownPlane):
    """It knows what channel a control message is about, too."""

    def __init__(self, archive: Archive) -> None:
        super().__init__(archive)
        self._archive = archive

    def observe(self, item: Decoded) -> None:
        item.channel = self._archive.channel_of_message(self.index)
        if item.channel is not None:
            item.channel_id = item.channel.channel_id


class ArchiveReader(SingleReader):
    """Decodes single records of an archive.  Each thread has a reader of its own."""

    def __init__(self, archive: Archive) -> None:
        super().__init__(archive, _Plane(archive))
        self._archive = archive
        self._cache: dict[int, Decoded] = {}

    def item(self, index: int) -> Decoded:
        """The record at ``index``, with what it answers or what answers it."""
        item = self._cache.get(index)
        if item is not None:
            return item
        item = self.decode(index)
        other = self._archive.partner(index)
        if other > index:
            item.response = self.decode(other)
            item.response.request = item
            carrier = self._archive.carriers.get(index, -1)
            item.request = self.decode(carrier) if carrier >= 0 else None
        elif other >= 0:
            item.request = self.decode(other)
            if item.kind == _PACKET:
                item.request.response = item
        if other >= 0 or not item.wants_completion:
            if len(self._cache) >= _CACHED:
                self._cache.clear()
            self._cache[index] = item
        return item

    def decode(self, index: int) -> Decoded:
        """The record at ``index`` without its partner."""
        self.at.index = index
        return self._archive.feed(self, index)

"""A capture of any size in parts of about a megabyte, each of which decodes by itself, in any order.

::

    for part in Passage(store).parts():
        reader = PartReader(part)
        for index in range(len(part)):
            print(reader.item(index).summary)

What a record means depends on few of those before it: the control messages, the packet that a completion answers, and
those few data messages that a dialect observes. A passage decodes these and only these, and pairs the others by the
index's columns: about a microsecond a record, where decoding takes ten or a hundred. So a part knows the life of each
channel, the requests that were open when it began, and what answers what in it; its records come out exactly as a
session that reads the whole capture in order would give them. ``dissectors.jobs`` decodes parts in several processes.

Of a part behind the newest one only the columns are left, unless a process was forked while it was the newest:
neither index nor mapping of what was passed is kept. ``dissectors.engine.archive`` keeps all, for whoever scrolls.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from dissectors.engine.channels import ChannelLife
from dissectors.engine.decoded import Decoded
from dissectors.engine.dialect import COMPLETION, Dialect
from dissectors.engine.plane import ControlState
from dissectors.engine.session import MAX_PENDING, Session, opposite
from dissectors.engine.span import Partners, belongs_to_channel, is_marked
from vmbus.capture import blocks
from vmbus.capture.columns import Columns, RecordMark
from vmbus.capture.store import CaptureStore
from vmbus.capture.walk import Damage
from vmbus.wire.capture import RecordKind
from vmbus.wire.protocols import Protocol

PART_BYTES = 1 << 20
"""Bytes of the capture that a part covers, about: five thousand records of a Linux guest."""
_FIRST_BYTES = 1 << 16
"""The first part is small, so that its records are shown soon; each one after it is twice as large as the last."""

_PACKET, _EXTERNAL, _MESSAGE = int(RecordKind.PACKET), int(RecordKind.EXTERNAL), int(RecordKind.MESSAGE)
_UNUSUAL = int(RecordMark.PROBLEM | RecordMark.HAS_OPTIONS)
_HEAD_AT = 28
"""From the start of an enhanced packet block to the record in it."""

Key = tuple[int, int, int]
"""Channel, direction and transaction id of a request."""


class Part:
    """Consecutive records. Indices count from 0 within the part; requests are named by their index in the capture."""

    def __init__(self, store: CaptureStore, lives: Mapping[int, ChannelLife], earlier: Mapping[int, Decoded]) -> None:
        self.store = store
        self.columns: Columns = store.columns
        self.first = store.first
        """The index of its first record in the capture."""
        self.start_ns = 0
        """The time of the first record of the capture."""
        self.end = store.size
        """Where in the file it ends, in bytes."""
        self.damage: list[Damage] = list(store.damage)
        """What could not be read just before or among its records."""
        self.earlier = earlier
        """Requests that were open when it began, by index in the capture."""
        self.requests = array("q", [-1]) * len(self.columns)
        """Of completions and external data: the request, by index in the capture; else -1."""
        self.open: frozenset[int] = frozenset()
        """Requests that are open at its end, by index in the capture."""
        self.repeated: dict[int, int] = {}
        """Requests whose transaction id was in use, and the index in the capture of the one that used it."""
        self.ready: dict[int, Decoded] = {}
        """Records that had to be decoded for the sake of others."""
        self.wanted: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None = None
        """Which records a filter may let through and which it does, if somebody asked it; None: all are wanted."""
        self.records = _Records(self)
        self._lives = lives
        self._begun: dict[int, tuple[list[int], list[ChannelLife]]] = {}

    def __len__(self) -> int:
        return len(self.columns)

    def begin_life(self, life: ChannelLife, index: int) -> None:
        """From a record on, a channel has another life."""
        starts, lives = self._begun.setdefault(life.channel_id, ([], []))
        starts.append(index)
        lives.append(life)

    def life_at(self, channel_id: int, index: int) -> ChannelLife:
        """The life of a channel at one of its records."""
        starts, lives = self._begun.get(channel_id, ((), ()))
        place = bisect_right(starts, index) - 1
        return lives[place] if place >= 0 else self._lives[channel_id]

    def lives(self) -> tuple[NDArray[np.int32], list[ChannelLife | None]]:
        """The life of the channel of each record, as places in a list; None at the first place: of no channel.

        Control messages are not looked at here.
        """
        columns = self.columns
        codes = np.zeros(len(columns), np.int32)
        found: list[ChannelLife | None] = [None]
        spoken = np.flatnonzero(belongs_to_channel(columns))
        channels, inverse = np.unique(columns.channel[spoken], return_inverse=True)
        for place, channel_id in enumerate(channels.tolist()):
            mine = spoken[inverse == place]
            starts, lives = self._begun.get(channel_id, ((), ()))
            if channel_id in self._lives:
                codes[mine] = len(found)
                found.append(self._lives[channel_id])
            for start, life in zip(starts, lives, strict=True):
                codes[mine[mine >= start]] = len(found)
                found.append(life)
        return codes, found

    def partners(self) -> Partners:
        """Requests of completions and of external data; no response, as none is known when a request is read."""
        requests = np.frombuffer(self.requests, np.int64)
        latency = np.zeros(len(self), np.int64)
        completes = (requests >= 0) & (self.columns.kind == _PACKET)
        inside = np.flatnonzero(completes & (requests >= self.first))
        latency[inside] = self.columns.time[inside] - self.columns.time[requests[inside] - self.first]
        for index in np.flatnonzero(completes & (requests < self.first)).tolist():
            latency[index] = int(self.columns.time[index]) - self.earlier[self.requests[index]].time_ns
        return Partners(requests, np.full(len(self), -1, np.int64), latency)

    def unsure(self) -> NDArray[np.bool_]:
        """What is not sound, and the data that dialects observe, which can answer other data."""
        found = np.zeros(len(self), np.bool_)
        found[list(self.ready)] = True
        found &= self.columns.kind != _MESSAGE
        return found | is_marked(self.columns, RecordMark.PROBLEM)


class _Plane(ControlState):
    """The control plane of a passage; it tells where lives begin."""

    def __init__(self, make_dialect: Callable[[ChannelLife], Dialect]) -> None:
        super().__init__(make_dialect)
        self.part: Part | None = None
        self.index = 0
        """The record that is looked at."""

    def _begin(self, life: ChannelLife) -> ChannelLife:
        begun = super()._begin(life)
        if self.part is not None:
            self.part.begin_life(begun, self.index)
        return begun

    def forget_past_lives(self) -> None:
        """Of sockets' channels there can be more than memory holds."""
        self.lives = [life for life in self.lives if self.channels.get(life.channel_id) is life]


class Passage(Session):
    """Goes through the capture of a windowed store, once. Not for a stream that is to be followed as it comes."""

    def __init__(self, store: CaptureStore, decode_as: Mapping[int, Protocol] | None = None) -> None:
        super().__init__(decode_as)
        self._store = store
        self._known = _Plane(self._make_dialect)
        self.plane = self._known
        self._open: dict[Key, int] = {}
        self._earlier: dict[int, Decoded] = {}
        self._part: Part
        self._reader: PartReader
        self._start_ns: int | None = None

    def parts(self, part_bytes: int = PART_BYTES) -> Iterator[Part]:
        """The parts in order. The store has forgotten a part when the next one is asked for."""
        size = min(part_bytes, _FIRST_BYTES)
        while True:
            before = self._store.size
            self._store.update(final=True, at_most=size)
            size = min(2 * size, part_bytes)
            if self._store.size == before:
                return
            self._part = Part(self._store, dict(self.plane.channels), self._earlier)
            self._reader = PartReader(self._part)
            if self._start_ns is None and len(self._part):
                self._start_ns = int(self._part.columns.time[0])
            self._part.start_ns = self._start_ns or 0
            self._known.part = self._part
            self._follow()
            self._part.open = frozenset(self._open.values())
            yield self._part
            self._keep_open()
            self._store.forget()

    def _follow(self) -> None:
        """Decode what others depend on, and pair the rest."""
        columns = self._part.columns
        alone = np.flatnonzero((columns.kind == _MESSAGE) | (columns.flags & RecordMark.PROBLEM != 0))
        begin = 0
        for index in alone.tolist():
            self._run(begin, index)
            self._decode(index)
            begin = index + 1
        self._run(begin, len(self._part))

    def _keep_open(self) -> None:
        """Requests that are open at the end of the part are known to the next one."""
        first = self._part.first
        self._earlier = {
            index: self._earlier[index] if index < first else self._reader.request(index)
            for index in self._open.values()
        }
        self._known.forget_past_lives()

    def _run(self, first: int, last: int) -> None:
        """Follow records of which none is a control message and each is sound."""
        if first == last:
            return
        columns = self._part.columns
        kinds, channels = columns.kind[first:last], columns.channel[first:last]
        names_channel = (kinds == _PACKET) | (kinds == _EXTERNAL) | (channels != 0)
        for place, channel_id in _firsts(channels, names_channel):
            self._known.index = first + place
            self.plane.life(channel_id)
        begin = first
        for index in self._observed(first, last):
            self._pair(begin, index)
            self._decode(index)
            begin = index + 1
        self._pair(begin, last)

    def _observed(self, first: int, last: int) -> list[int]:
        """External data that the dialect of its channel has to see."""
        columns = self._part.columns
        external = np.flatnonzero(columns.kind[first:last] == _EXTERNAL) + first
        found: list[int] = []
        for channel_id in np.unique(columns.channel[external]).tolist():
            dialect = self.plane.channels[channel_id].dialect
            if type(dialect).observe is Dialect.observe:
                continue
            mine = external[columns.channel[external] == channel_id]
            offset = columns.offset[mine]
            head = self._store.words_at(offset + np.uint64(_HEAD_AT))
            word = self._store.words_at(offset + _HEAD_AT + (head >> np.uint32(16)).astype(np.uint64))
            skipped = np.isin(word, np.array(sorted(dialect.unobserved), np.uint32))
            is_plain = self._store.words_at(offset) == blocks.ENHANCED_PACKET
            found += mine[~(skipped & is_plain)].tolist()
        return sorted(found)

    def _pair(self, first: int, last: int) -> None:
        """Find what answers what, as ``Session`` does."""
        part, columns = self._part, self._part.columns
        kinds = columns.kind[first:last]
        is_packet = kinds == _PACKET
        completes = is_packet & (columns.subtype[first:last] == COMPLETION)
        requests = is_packet & ~completes & (columns.flags[first:last] & RecordMark.WANTS_COMPLETION != 0)
        chosen = np.flatnonzero(completes | requests | (kinds == _EXTERNAL))
        places = chosen + first
        rows = zip(
            places.tolist(),
            columns.channel[places].tolist(),
            columns.direction[places].tolist(),
            columns.transaction_id[places].tolist(),
            completes[chosen].tolist(),
            requests[chosen].tolist(),
            strict=True,
        )
        requests_of, opened, base = part.requests, self._open, part.first
        for index, channel, direction, transaction, is_completion, is_request in rows:
            if is_completion:
                requests_of[index] = opened.pop((channel, opposite(direction), transaction), -1)
            elif is_request:
                key = channel, direction, transaction
                earlier = opened.get(key)
                if earlier is not None and not columns.flags[index] & RecordMark.SNAPSHOT:
                    part.repeated[index] = earlier
                self._add(key, base + index)
            else:
                requests_of[index] = self._pointing((channel, direction, transaction))

    def _add(self, key: Key, index: int) -> None:
        if len(self._open) >= MAX_PENDING:
            self._open.pop(next(iter(self._open)))
        self._open[key] = index

    def _pointing(self, key: Key) -> int:
        """The open request that external data belongs to, -1 if none."""
        found = self._open.get(key, -1)
        if found < 0 and self.plane.channels[key[0]].dialect.answers_with_external:
            found = self._open.get((key[0], opposite(key[1]), key[2]), -1)
        return found

    # Records that are decoded here

    def _decode(self, index: int) -> None:
        self._known.index = index
        item = self._part.ready[index] = self._part.records.feed(self, index)
        if item.kind == _PACKET and item.request is not None:
            self._part.requests[index] = item.request.number - 1

    def _request_at(self, index: int) -> Decoded | None:
        return None if index < 0 else self._reader.request(index)

    def _request(self, item: Decoded) -> None:
        item.wants_completion = True
        key = (item.channel_id, item.direction, item.transaction_id)
        earlier = self._open.get(key)
        if earlier is not None and not item.is_snapshot:
            item.notes.append(f"transaction {item.transaction_id:#x} of record {earlier + 1} is not completed yet")
        self._add(key, item.number - 1)

    def _completion(self, item: Decoded) -> None:
        key = (item.channel_id, opposite(item.direction), item.transaction_id)
        request = self._request_at(self._open.pop(key, -1))
        if request is not None:
            item.request, request.response = request, item

    def _external(self, item: Decoded) -> None:
        self._take_external(item)
        item.request = self._request_at(self._pointing((item.channel_id, item.direction, item.transaction_id)))
        item.dialect.observe(item)


def _firsts(values: NDArray[np.uint32], chosen: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Where each different value of those chosen stands first, and the value; in that order."""
    places = np.flatnonzero(chosen)
    different, at = np.unique(values[places], return_index=True)
    return sorted(zip(places[at].tolist(), different.tolist(), strict=True))


class _Records:
    """The records of the newest part, for a session to be fed: plain lists are quicker than columns, one by one."""

    def __init__(self, part: Part) -> None:
        self._store = part.store
        self._first = part.first
        self._is_unusual = (part.columns.flags & _UNUSUAL != 0).tolist()
        self._times = part.columns.time.tolist()
        self._places = part.store.data_places()
        self._area = part.store.mapped

    def feed(self, session: Session, index: int) -> Decoded:
        """Feed a session one of them."""
        if self._is_unusual[index] or self._area is None:
            return session.feed(self._store.record(index))
        start, length = self._places[index]
        return session.feed_bytes(self._area[start : start + length], self._times[index], self._first + index + 1)


class _KnownLives(ControlState):
    """The control plane as it was at a record: it is asked, and learns nothing."""

    def __init__(self, part: Part) -> None:
        super().__init__(lambda life: life.dialect)
        self.index = 0
        self._part = part

    def life(self, channel_id: int) -> ChannelLife:
        return self._part.life_at(channel_id, self.index)


class PartReader(Session):
    """Decodes single records of a part."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self._part = part
        self._known = _KnownLives(part)
        self.plane = self._known
        self._kept: dict[int, Decoded] = {}

    def item(self, index: int) -> Decoded:
        """A record with its request, as it is when it has just been read: what answers it is not known yet."""
        item = self._part.ready.get(index)
        if item is not None:
            item.response = None
            return item
        item = self._decode(index)
        partner = self._part.requests[index]
        if partner >= 0:
            item.request = self.request(partner)
            if item.kind == _PACKET:
                item.request.response = item
                self._kept.pop(partner, None)
        elif item.wants_completion:
            self._kept[item.number - 1] = item
        return item

    def request(self, index: int) -> Decoded:
        """An open request of this part or an earlier one; ``index`` is that in the capture."""
        place = index - self._part.first
        if place < 0:
            return self._part.earlier[index]
        return self._part.ready.get(place) or self._kept.get(index) or self._decode(place)

    def _decode(self, index: int) -> Decoded:
        self._known.index = index
        return self._part.records.feed(self, index)

    def _request(self, item: Decoded) -> None:
        item.wants_completion = True
        earlier = self._part.repeated.get(self._known.index)
        if earlier is not None:
            item.notes.append(f"transaction {item.transaction_id:#x} of record {earlier + 1} is not completed yet")

    def _completion(self, item: Decoded) -> None:
        """Its request is the part's to know."""

    def _external(self, item: Decoded) -> None:
        self._take_external(item)

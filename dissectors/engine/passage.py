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

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from dissectors.engine.decoded import Decoded
from dissectors.engine.dialect import Dialect
from dissectors.engine.pairing import Key, open_request, transacting
from dissectors.engine.parts import Part, PartReader
from dissectors.engine.session import Session, opposite
from dissectors.engine.span import groups
from vmbus.capture import blocks
from vmbus.capture.columns import RecordMark
from vmbus.capture.store import CaptureStore
from vmbus.wire.capture import RecordKind
from vmbus.wire.protocols import Protocol

PART_BYTES = 1 << 20
"""Bytes of the capture that a part covers, about: five thousand records of a Linux guest."""
_FIRST_BYTES = 1 << 16
"""The first part is small, so that its records are shown soon; each one after it is twice as large as the last."""

_PACKET, _EXTERNAL, _MESSAGE = int(RecordKind.PACKET), int(RecordKind.EXTERNAL), int(RecordKind.MESSAGE)
_HEAD_AT = 28
"""From the start of an enhanced packet block to the record in it."""


class Passage(Session):
    """Goes through the capture of a windowed store, once. Not for a stream that is to be followed as it comes."""

    def __init__(self, store: CaptureStore, decode_as: Mapping[int, Protocol] | None = None) -> None:
        super().__init__(decode_as, keeps_past_lives=False)
        self._store = store
        self.plane.on_begin = lambda life: self._part.begin_life(life, self._index)
        self._open: dict[Key, int] = {}
        self._earlier: dict[int, Decoded] = {}
        self._part: Part
        self._index = 0
        """The record of the part that is looked at."""
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

    def _run(self, first: int, last: int) -> None:
        """Follow records of which none is a control message and each is sound."""
        if first == last:
            return
        columns = self._part.columns
        kinds, channels = columns.kind[first:last], columns.channel[first:last]
        names_channel = (kinds == _PACKET) | (kinds == _EXTERNAL) | (channels != 0)
        for place, channel_id in _firsts(channels, names_channel):
            self._index = first + place
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
        for channel_id, places in groups(columns.channel[external]):
            dialect = self.plane.channels[channel_id].dialect
            if type(dialect).observe is Dialect.observe:
                continue
            mine = external[places]
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
        requests_of, opened, base = part.requests, self._open, part.first
        for index, channel, direction, transaction, is_completion, is_request in transacting(columns, first, last):
            if is_completion:
                requests_of[index] = opened.pop((channel, opposite(direction), transaction), -1)
            elif is_request:
                key = channel, direction, transaction
                earlier = opened.get(key)
                if earlier is not None and not columns.flags[index] & RecordMark.SNAPSHOT:
                    part.repeated[index] = earlier
                open_request(opened, key, base + index)
            else:
                requests_of[index] = self._pointing((channel, direction, transaction))

    def _pointing(self, key: Key) -> int:
        """The open request that external data belongs to, -1 if none."""
        found = self._open.get(key, -1)
        if found < 0 and self.plane.channels[key[0]].dialect.answers_with_external:
            found = self._open.get((key[0], opposite(key[1]), key[2]), -1)
        return found

    # Records that are decoded here

    def _decode(self, index: int) -> None:
        self._index = index
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
            self._note_repetition(item, earlier + 1)
        open_request(self._open, key, item.number - 1)

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

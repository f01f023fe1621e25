"""A part of a capture: consecutive records whose columns are at hand, with what has to be known to decode any of them.

``passage`` goes through a capture and makes the parts; the records of one come out as a session that reads the whole
capture in order would give them.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from dissectors.engine.channels import ChannelLife
from dissectors.engine.decoded import Decoded
from dissectors.engine.session import Session
from dissectors.engine.single import KnownPlane, SingleReader
from dissectors.engine.span import Partners, by_channel, is_marked
from vmbus.capture.columns import UNUSUAL, Columns, RecordMark
from vmbus.capture.store import CaptureStore
from vmbus.capture.walk import Damage
from vmbus.wire.capture import RecordKind

_PACKET, _MESSAGE = int(RecordKind.PACKET), int(RecordKind.MESSAGE)


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

    def known_lives(self) -> Iterator[ChannelLife]:
        """Every life that a record can belong to, whether one does or not."""
        yield from self._lives.values()
        for _, lives in self._begun.values():
            yield from lives

    def lives(self) -> tuple[NDArray[np.int32], list[ChannelLife | None]]:
        """The life of the channel of each record, as places in a list; None at the first place: of no channel.

        Control messages are not looked at here.
        """
        columns = self.columns
        codes = np.zeros(len(columns), np.int32)
        found: list[ChannelLife | None] = [None]
        for channel_id, mine in by_channel(columns):
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


class _Records:
    """The records of the newest part, for a session to be fed: plain lists are quicker than columns, one by one."""

    def __init__(self, part: Part) -> None:
        self._store = part.store
        self._first = part.first
        self._is_unusual = (part.columns.flags & UNUSUAL != 0).tolist()
        self._times = part.columns.time.tolist()
        self._places = part.store.data_places()
        self._area = part.store.mapped

    def feed(self, session: Session, index: int) -> Decoded:
        """Feed a session one of them."""
        if self._is_unusual[index] or self._area is None:
            return session.feed(self._store.record(index))
        start, length = self._places[index]
        return session.feed_bytes(self._area[start : start + length], self._times[index], self._first + index + 1)


class PartReader(SingleReader):
    """Decodes single records of a part."""

    def __init__(self, part: Part) -> None:
        super().__init__(part, KnownPlane(part))
        self._part = part
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
        self.at.index = index
        return self._part.records.feed(self, index)

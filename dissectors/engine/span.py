"""What is known of a run of records without decoding any: the index's columns, and what belongs to what.

Filters are evaluated over a span first. A part of a capture that is read once is one, and so is a piece of an archive
that is looked at in any order; they differ in what answers a request being known already.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from dissectors.engine.channels import ChannelLife
from vmbus.capture.columns import RecordMark
from vmbus.wire.capture import RecordKind

_PACKET, _EXTERNAL, _MESSAGE = int(RecordKind.PACKET), int(RecordKind.EXTERNAL), int(RecordKind.MESSAGE)


class SpanColumns(Protocol):
    """The columns that filters use; see ``vmbus.capture.columns``."""

    @property
    def time(self) -> NDArray[np.int64]: ...
    @property
    def transaction_id(self) -> NDArray[np.uint64]: ...
    @property
    def channel(self) -> NDArray[np.uint32]: ...
    @property
    def kind(self) -> NDArray[np.uint8]: ...
    @property
    def direction(self) -> NDArray[np.uint8]: ...
    @property
    def subtype(self) -> NDArray[np.uint16]: ...
    @property
    def flags(self) -> NDArray[np.uint16]: ...


class Partners(NamedTuple):
    """What belongs to each record, as indices in the capture; -1 where there is nothing."""

    requests: NDArray[np.int64]
    responses: NDArray[np.int64]
    latency: NDArray[np.int64]
    """Nanoseconds between a packet and its partner; 0 where it has none."""


class Span(Protocol):
    """Consecutive records."""

    @property
    def columns(self) -> SpanColumns: ...

    @property
    def first(self) -> int:
        """The index of the first of them in the capture."""
        ...

    def __len__(self) -> int: ...

    def lives(self) -> tuple[NDArray[np.int32], list[ChannelLife | None]]:
        """The life of the channel of each record, as places in a list; None at the first place: of no channel.

        Control messages are not looked at.
        """
        ...

    def partners(self) -> Partners:
        """What answers what, as far as it is known."""
        ...

    def unsure(self) -> NDArray[np.bool_]:
        """Records of which the columns do not tell all: decode them."""
        ...


def belongs_to_channel(columns: SpanColumns) -> NDArray[np.bool_]:
    """Which records belong to a channel by their head: packets and external data, and others that name one."""
    kind, is_named = columns.kind, columns.channel != 0
    found: NDArray[np.bool_] = (kind == _PACKET) | (kind == _EXTERNAL) | (is_named & (kind != _MESSAGE) & (kind != 0))
    return found


def is_marked(columns: SpanColumns, mark: RecordMark) -> NDArray[np.bool_]:
    """Which records have a mark."""
    found: NDArray[np.bool_] = columns.flags & mark != 0
    return found


def groups(values: NDArray[Any]) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """Each different value, and its places in order."""
    order = np.argsort(values, kind="stable")
    different, firsts = np.unique(values[order], return_index=True)
    ends = [*firsts[1:].tolist(), len(values)]
    for value, first, end in zip(different.tolist(), firsts.tolist(), ends, strict=False):
        yield value, order[first:end]


def by_channel(columns: SpanColumns) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """Each channel that records belong to, by their head, and the places of these in order."""
    places = np.flatnonzero(belongs_to_channel(columns))
    for channel_id, mine in groups(columns.channel[places]):
        yield channel_id, places[mine]

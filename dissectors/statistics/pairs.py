"""Which completion answers which request, for all records of a capture at once.

The same rule as ``dissectors.engine.session`` follows record by record: a completion answers the last request with its
channel and transaction id from the other end, if that has no answer yet.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vmbus.capture.columns import Columns, RecordMark
from vmbus.wire.capture import RecordKind
from vmbus.wire.ring import PacketType

Indices = NDArray[np.int64]
_PACKET, _COMPLETION = int(RecordKind.PACKET), int(PacketType.COMPLETION)
_MIX = np.uint64(0x9E3779B97F4A7C15)


class Pairs(NamedTuple):
    """Requests and their completions, as indices of records in the order of the requests."""

    requests: Indices
    """Every packet that asks for a completion."""
    completions: Indices
    """For each of them, the record that completes it, or -1."""

    def latencies(self, columns: Columns) -> NDArray[np.int64]:
        """Nanoseconds between the two, of those that are completed."""
        done = self.completions >= 0
        found: NDArray[np.int64] = columns.time[self.completions[done]] - columns.time[self.requests[done]]
        return found


def pair_requests(columns: Columns) -> Pairs:
    """Pair all packets of an index."""
    packets = np.flatnonzero(columns.kind == _PACKET)
    is_completion = columns.subtype[packets] == _COMPLETION
    is_request = ~is_completion & (columns.flags[packets] & RecordMark.WANTS_COMPLETION != 0)
    members = packets[is_completion | is_request]
    answers = columns.subtype[members] == _COMPLETION
    channel, transaction = columns.channel[members], columns.transaction_id[members]
    # The end that asked: of a completion, the other one (directions are 1 and 2).
    asker = np.where(answers, 3 - columns.direction[members], columns.direction[members])
    order = np.argsort(_key(channel, transaction, asker), kind="stable")
    first, second = order[:-1], order[1:]
    same = (
        (channel[first] == channel[second])
        & (transaction[first] == transaction[second])
        & (asker[first] == asker[second])
        & ~answers[first]
        & answers[second]
    )
    requests = packets[is_request]
    completions = np.full(len(requests), -1, np.int64)
    completions[np.searchsorted(requests, members[first[same]])] = members[second[same]]
    return Pairs(requests, completions)


def _key(channel: NDArray[Any], transaction: NDArray[Any], asker: NDArray[Any]) -> NDArray[np.uint64]:
    """One number for channel, asking end and transaction; two that share one by chance only lose each other's pairs."""
    place = channel.astype(np.uint64) << np.uint64(2) | asker.astype(np.uint64)
    found: NDArray[np.uint64] = (transaction + place * _MIX) * _MIX
    return found


def queue_depth(columns: Columns, pairs: Pairs, of: NDArray[np.bool_]) -> tuple[float, int]:
    """Mean over time and maximum of the requests that wait, of those requests that ``of`` chooses."""
    requests, completions = pairs.requests[of], pairs.completions[of]
    done = completions >= 0
    times = np.concatenate((columns.time[requests], columns.time[completions[done]]))
    steps = np.concatenate((np.ones(len(requests), np.int64), np.full(int(done.sum()), -1, np.int64)))
    if len(times) < 2:
        return 0.0, len(requests)
    order = np.lexsort((steps, times))
    depth = np.cumsum(steps[order])
    spans = np.diff(times[order])
    total = int(spans.sum())
    mean = float((depth[:-1] * spans).sum() / total) if total else 0.0
    return mean, int(depth.max())

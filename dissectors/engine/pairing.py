"""What answers what, by the columns of the index alone: requests that are open, and the records that touch them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import numpy as np

from dissectors.engine.dialect import COMPLETION
from vmbus.capture.columns import Columns, RecordMark
from vmbus.wire.capture import RecordKind

Key = tuple[int, int, int]
"""Channel, direction and transaction id of a request."""
Request = TypeVar("Request")

MAX_PENDING = 1 << 16
"""Requests that may be open at once; more than the rings of a guest can hold, so only a broken peer reaches it."""


def transacting(columns: Columns, first: int, last: int) -> Iterator[tuple[int, int, int, int, bool, bool]]:
    """Of the records from ``first`` up to ``last`` those that are of a request.

    Each as its index, channel, direction and transaction id, and whether it is a completion or a request; what is
    neither is external data.
    """
    kinds = columns.kind[first:last]
    is_packet = kinds == int(RecordKind.PACKET)
    completes = is_packet & (columns.subtype[first:last] == COMPLETION)
    requests = is_packet & ~completes & (columns.flags[first:last] & RecordMark.WANTS_COMPLETION != 0)
    chosen = np.flatnonzero(completes | requests | (kinds == int(RecordKind.EXTERNAL)))
    places = chosen + first
    return zip(
        places.tolist(),
        columns.channel[places].tolist(),
        columns.direction[places].tolist(),
        columns.transaction_id[places].tolist(),
        completes[chosen].tolist(),
        requests[chosen].tolist(),
        strict=True,
    )


def open_request(opened: dict[Key, Request], key: Key, request: Request) -> None:
    """Add a request, or its index, to those that are open; of too many, the oldest is forgotten."""
    if len(opened) >= MAX_PENDING:
        opened.pop(next(iter(opened)))
    opened[key] = request

"""The two rings of a channel, mapped from the pages of its ring GPADL.

The guest announces one GPADL for both: the ring in which it sends lies first, the one in which it receives starts
``downstream_page_offset`` pages later; each is one control page and its data. Sources: openvmm
``vmbus_channel/src/gpadl_ring.rs`` (``make_rings``, ``AlignedGpadlView``); Linux 6.12 ``include/linux/hyperv.h``
(``vmbus_channel_open_channel``).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

from vmbus.memory import PAGE_SIZE, GuestMemory, Mapping
from vmbus.ring.errors import InvalidRingMemory
from vmbus.ring.incoming import IncomingRing
from vmbus.ring.memory import RingMemory
from vmbus.ring.outgoing import OutgoingRing


class RingPair(NamedTuple):
    """Both rings of a channel, seen from one end."""

    incoming: IncomingRing
    outgoing: OutgoingRing
    mappings: tuple[Mapping, ...]

    def close(self) -> None:
        """Let both rings go and unmap their pages."""
        self.incoming.release()
        self.outgoing.release()
        for mapping in self.mappings:
            mapping.close()


def map_ring_pair(
    memory: GuestMemory,
    pfns: Sequence[int],
    downstream_page_offset: int,
    *,
    is_guest: bool,
    pure: bool = False,
) -> RingPair:
    """Map the rings of a channel from the pages of its GPADL, for the guest's end or for the host's.

    Raises :class:`InvalidRingMemory` when a ring would have no data page, :class:`vmbus.ring.RingError` when an
    index that stands in the pages is bad, and :class:`vmbus.memory.GuestMemoryError` when the pages cannot be
    mapped.
    """
    if not 2 <= downstream_page_offset <= len(pfns) - 2:
        raise InvalidRingMemory(
            f"{len(pfns)} pages with the second ring at page {downstream_page_offset} cannot be two rings of two pages"
        )
    mappings: list[Mapping] = []
    memories: list[RingMemory] = []
    try:
        for pages in (pfns[:downstream_page_offset], pfns[downstream_page_offset:]):
            mapping = memory.map_pages(pages, mirrored_from=1)
            mappings.append(mapping)
            memories.append(RingMemory.from_view(mapping.view, mirrored=True))
        upstream, downstream = memories
        if is_guest:
            outgoing, incoming = OutgoingRing(upstream, pure=pure), IncomingRing(downstream, pure=pure)
        else:
            incoming, outgoing = IncomingRing(upstream, pure=pure), OutgoingRing(downstream, pure=pure)
    except BaseException:
        for ring_memory in memories:
            ring_memory.release()
        for mapping in mappings:
            mapping.close()
        raise
    return RingPair(incoming, outgoing, (mappings[0], mappings[1]))


def divide_ring_pair(mapping: Mapping, control_size: int = PAGE_SIZE, *, pure: bool = False) -> RingPair:
    """The guest's end of both rings where something else has mapped them, one after the other and once.

    Each half of the mapping is a control page in ``control_size`` bytes and the data behind it; a packet that wraps is
    in two pieces. The pair owns the mapping from now on, and closes it if this raises; see :func:`map_ring_pair`.
    """
    half = len(mapping.view) // 2
    with ExitStack() as undo:
        undo.callback(mapping.close)
        if half <= control_size or half % PAGE_SIZE or len(mapping.view) % 2:
            raise InvalidRingMemory(
                f"{len(mapping.view)} bytes cannot be two rings with {control_size} bytes of control"
            )
        rings: list[RingMemory] = []
        for start in (0, half):
            control, data = start + PAGE_SIZE, start + control_size
            rings.append(RingMemory(mapping.view[start:control], mapping.view[data : start + half]))
            undo.callback(rings[-1].release)
        upstream, downstream = rings
        outgoing = OutgoingRing(upstream, pure=pure)
        undo.callback(outgoing.release)
        incoming = IncomingRing(downstream, pure=pure)
        undo.pop_all()
        return RingPair(incoming, outgoing, (mapping,))

"""Both ends of an open channel in one thread, without a control plane: for unit tests of devices and drivers.

Signals are direct calls queued on one loop, so a test is deterministic: send, ``pump()``, look.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from vmbus.channel import Channel, ChannelIdentity
from vmbus.channel.spinning import spinner_for
from vmbus.closing import Closing
from vmbus.errors import VmbusError
from vmbus.gpadl import Gpadl, GpaRange
from vmbus.loop import Loop
from vmbus.memory import PAGE_SIZE, GuestMemory
from vmbus.pages import PageAllocator
from vmbus.ring.pair import map_ring_pair
from vmbus.tap import Direction, Tap
from vmbus.wire.schema import NIL_GUID


class ChannelPair(Closing):
    """``host`` and ``guest`` are the two ends of one channel over the guest memory ``memory``.

    ``pages`` allocates guest pages; ``add_gpadl`` makes ``host.gpadl(id)`` work.  Errors that fail a channel are
    kept in ``failures``.  Use as a context manager, or call ``close()``: it checks that no view of the rings is left.
    """

    def __init__(
        self,
        *,
        ring_pages: int = 16,
        memory_size: int = 64 << 20,
        interface_id: UUID = NIL_GUID,
        instance_id: UUID = NIL_GUID,
        subchannel_index: int = 0,
        user_defined: bytes = b"",
        tap: Tap | None = None,
        spin_microseconds: float = 0,
    ) -> None:
        self.loop = Loop()
        spinner = spinner_for(self.loop, spin_microseconds)
        self.memory = GuestMemory.create(memory_size)
        self.pages = PageAllocator(self.memory)
        self.gpadls: dict[int, Gpadl] = {}
        self.failures: list[VmbusError] = []
        pfns = self.pages.allocate(2 * (1 + ring_pages))
        identity = ChannelIdentity(1, interface_id, instance_id, subchannel_index, user_defined)

        def end(index: int, receives: Direction, tap: Tap | None) -> Channel:
            return Channel(
                identity,
                rings=map_ring_pair(self.memory, pfns, 1 + ring_pages, is_guest=index == 1),
                memory=self.memory,
                loop=self.loop,
                signal=lambda: self.loop.call_soon(self._ends[1 - index].on_signal),
                receives=receives,
                gpadls=self.gpadls,
                tap=tap,
                on_failure=lambda channel, error: self.failures.append(error),
                spinner=spinner if index == 0 else None,
            )

        self.host = end(0, Direction.GUEST_TO_HOST, tap)
        self.guest = end(1, Direction.HOST_TO_GUEST, None)
        self._ends = [self.host, self.guest]
        self.pump()

    def add_gpadl(self, gpadl_id: int, pfns: Sequence[int], byte_count: int | None = None) -> Gpadl:
        """Register pages as the guest's GPADL, one range from the start of the first page."""
        size = len(pfns) * PAGE_SIZE if byte_count is None else byte_count
        gpadl = Gpadl(gpadl_id, [GpaRange(size, 0, tuple(pfns))], self.memory)
        self.gpadls[gpadl_id] = gpadl
        return gpadl

    def pump(self, rounds: int = 1000) -> None:
        """Run both ends until neither has anything left to do."""
        for channel in self._ends:
            channel.service()
        for _ in range(rounds):
            self.loop.run_once(0.0)
            if self.loop.is_idle:
                return
        raise AssertionError(f"the two ends were still busy after {rounds} rounds")

    def close(self) -> None:
        """Close both ends and unmap; raises ``MemoryInUse`` if a handler kept a view of the rings."""
        for channel in self._ends:
            channel.close()
        self.memory.close()
        self.loop.close()

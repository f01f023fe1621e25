"""Memory that a driver shares with its host for as long as a channel lives: a network card's buffers, above all.

A guest with pages of its own shares some (:class:`PageBuffer`). A driver in user space has none that it could name to
the host, and gets what its kernel has shared beforehand (``vmbus.guest.uio``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Protocol

from vmbus.channel import Channel
from vmbus.drivers.promise import Promise
from vmbus.errors import VmbusError
from vmbus.memory import GuestMemory
from vmbus.pages import PageAllocator


class BufferUse(Enum):
    """Which end fills a buffer."""

    RECEIVE = "the host"
    SEND = "the guest"


class SharedBuffer(Protocol):
    """Memory that the host knows by a GPADL."""

    @property
    def view(self) -> memoryview: ...

    @property
    def gpadl_id(self) -> int: ...

    def free(self) -> None:
        """The driver is done with it; no slice of the view may be held."""
        ...


class PageBuffer:
    """Pages of the guest, mapped as one piece of its own memory; ``gpadl_id`` is 0 until they are shared."""

    def __init__(self, memory: GuestMemory, pages: PageAllocator, count: int) -> None:
        self.pfns = pages.allocate(count)
        self.gpadl_id = 0
        self._pages = pages
        self._mapping = memory.map_pages(self.pfns)
        self.view = self._mapping.view

    def free(self) -> None:
        """Unmap the pages and give them back."""
        if self.pfns:
            self.view = memoryview(b"")
            self._mapping.close()
            self._pages.free(self.pfns)
            self.pfns = ()


class PageSharer(Protocol):
    """What :func:`share_pages` needs of a bus."""

    @property
    def memory(self) -> GuestMemory: ...

    @property
    def pages(self) -> PageAllocator: ...

    @property
    def create_gpadl(self) -> Callable[[Channel, Sequence[int]], Promise[int]]: ...


def share_pages(bus: PageSharer, channel: Channel, count: int) -> Promise[SharedBuffer]:
    """Share ``count`` new pages of a guest that has pages of its own; if that fails they are given back."""
    buffer = PageBuffer(bus.memory, bus.pages, count)
    shared: Promise[SharedBuffer] = Promise()

    def settle(made: Promise[int]) -> None:
        try:
            buffer.gpadl_id = made.result()
        except VmbusError as error:
            buffer.free()
            shared.reject(error)
        else:
            shared.resolve(buffer)

    bus.create_gpadl(channel, buffer.pfns).then(settle)
    return shared

"""What a guest driver is, and what its bus gives it.

Everything happens in the thread of the bus's loop. A driver has an event-driven core; the small synchronous face that
tests and tools use (``disk.read(lba, 8)``) is built over it with :meth:`DriverBus.wait`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, TypeVar
from uuid import UUID

from vmbus.channel import Channel
from vmbus.drivers.buffers import BufferUse, SharedBuffer
from vmbus.drivers.promise import Promise
from vmbus.loop import Loop
from vmbus.memory import GuestMemory
from vmbus.pages import PageAllocator

T = TypeVar("T")


class ChannelOffer(Protocol):
    """What the host offered, as far as drivers look at it."""

    @property
    def interface_id(self) -> UUID: ...

    @property
    def instance_id(self) -> UUID: ...

    @property
    def channel_id(self) -> int: ...

    @property
    def subchannel_index(self) -> int: ...

    @property
    def user_defined(self) -> bytes: ...

    @property
    def monitor_id(self) -> int: ...

    @property
    def monitor_allocated(self) -> int:
        """Bit 0: the host wants to be signalled by ``monitor_id`` in the monitor page."""
        ...


class DriverBus(Protocol):
    """What the guest's runtime gives a driver."""

    @property
    def loop(self) -> Loop: ...

    @property
    def memory(self) -> GuestMemory: ...

    @property
    def pages(self) -> PageAllocator:
        """The guest's own pages: take buffers from here, and give them back."""
        ...

    @property
    def can_name_pages(self) -> bool:
        """Whether packets may name pages of ours (GPA direct): user space seldom knows where a page is.

        Without that, ``memory`` and ``pages`` raise a ``VmbusError``.
        """
        ...

    @property
    def processors(self) -> int:
        """How many the guest has: a driver of several channels spreads them."""
        ...

    def open(
        self,
        offer: ChannelOffer,
        ring_pages_out: int = 16,
        ring_pages_in: int = 16,
        user_data: bytes = b"",
        target_vp: int = 0,
    ) -> Promise[Channel]:
        """Make the rings, their GPADL, and open the channel; set ``channel.handler`` when it is there."""
        ...

    def close(self, channel: Channel) -> None:
        """Close the channel and give its rings' pages back."""
        ...

    def create_gpadl(self, channel: Channel, pfns: Sequence[int]) -> Promise[int]:
        """Let the host see pages; the promise is of the GPADL's id."""
        ...

    def teardown_gpadl(self, channel: Channel, gpadl_id: int) -> Promise[None]: ...

    def share_buffer(self, channel: Channel, use: BufferUse, pages: int) -> Promise[SharedBuffer]:
        """A buffer of ``pages`` pages, or as large as there is one, that the host knows by its GPADL."""
        ...

    def wait(self, promise: Promise[T], timeout: float = 30.0) -> T:
        """Run the loop until the promise is settled; ``DriverError`` when ``timeout`` seconds were not enough."""
        ...


class Driver(ABC):
    """Base of every guest driver. One object serves one offered device, its primary channel and subchannels."""

    interface_ids: ClassVar[tuple[UUID, ...]]
    """The interfaces that this driver speaks."""

    @classmethod
    def probe(cls, offer: ChannelOffer) -> bool:
        """Whether this driver is for that offer."""
        return offer.interface_id in cls.interface_ids and offer.subchannel_index == 0

    @abstractmethod
    def attach(self, bus: DriverBus, offer: ChannelOffer) -> None:
        """The device is there: open its channel through ``bus``."""

    def subchannel_offered(self, offer: ChannelOffer) -> None:  # noqa: B027 - most devices have one channel
        """The host offered another channel of the same device."""

    @abstractmethod
    def detach(self) -> None:
        """The offer was rescinded, or the connection ended: fail what is under way, free pages."""

    def inspect(self) -> dict[str, Any]:
        """Live state for people."""
        return {}

"""A network card and its driver on the two ends of a channel pair, without a control plane: for tests of either."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from vmbus.channel import Channel
from vmbus.devices.network import NetworkProvider
from vmbus.drivers.buffers import BufferUse, SharedBuffer, share_pages
from vmbus.drivers.driver import ChannelOffer
from vmbus.drivers.errors import DriverError
from vmbus.drivers.network import NetworkCard, NetworkDriver
from vmbus.drivers.promise import Promise
from vmbus.loop import Loop
from vmbus.memory import GuestMemory
from vmbus.pages import PageAllocator
from vmbus.testing.channels import ChannelPair
from vmbus.wire.control_values import NO_MONITOR
from vmbus.wire.guids import NETWORK

T = TypeVar("T")


@dataclass
class Offer:
    """What the driver sees of the card."""

    instance_id: UUID
    interface_id: UUID = NETWORK
    channel_id: int = 1
    subchannel_index: int = 0
    user_defined: bytes = b""
    monitor_id: int = NO_MONITOR
    monitor_allocated: int = 0


class Wire:
    """A provider and whatever stands at the guest's end of its channel; the bus of both."""

    def __init__(
        self,
        provider: NetworkProvider,
        ring_pages: int = 32,
        memory_size: int = 64 << 20,
        *,
        spin_microseconds: float = 0,
    ) -> None:
        self.provider = provider
        self.pair = ChannelPair(
            ring_pages=ring_pages,
            memory_size=memory_size,
            interface_id=NETWORK,
            instance_id=provider.instance_id,
            spin_microseconds=spin_microseconds,
        )
        self.notes: list[str] = []
        self.offered = 0
        self._next_gpadl = 0xE1000
        provider.attach(self)
        self.pair.host.handler = provider.open(self.pair.host)

    # As the host's bus

    @property
    def loop(self) -> Loop:
        return self.pair.loop

    @property
    def memory(self) -> GuestMemory:
        return self.pair.memory

    def offer_subchannels(self, count: int) -> None:
        self.offered = count

    def rescind(self) -> None:
        raise NotImplementedError

    def reoffer(self) -> None:
        raise NotImplementedError

    def note(self, text: str) -> None:
        self.notes.append(text)

    # As the guest's bus

    @property
    def pages(self) -> PageAllocator:
        return self.pair.pages

    @property
    def can_name_pages(self) -> bool:
        return True

    @property
    def processors(self) -> int:
        return 1

    def open(
        self,
        offer: ChannelOffer,
        ring_pages_out: int = 16,
        ring_pages_in: int = 16,
        user_data: bytes = b"",
        target_vp: int = 0,
    ) -> Promise[Channel]:
        opened: Promise[Channel] = Promise()
        opened.resolve(self.pair.guest)
        return opened

    def close_channel(self) -> None:
        self.pair.host.close()
        self.pair.guest.close()

    def close(self, channel: Channel) -> None:
        self.pair.pump()
        self.close_channel()

    def create_gpadl(self, channel: Channel, pfns: Sequence[int]) -> Promise[int]:
        self._next_gpadl += 1
        self.pair.add_gpadl(self._next_gpadl, pfns)
        made: Promise[int] = Promise()
        made.resolve(self._next_gpadl)
        return made

    def share_buffer(self, channel: Channel, use: BufferUse, pages: int) -> Promise[SharedBuffer]:
        return share_pages(self, channel, pages)

    def teardown_gpadl(self, channel: Channel, gpadl_id: int) -> Promise[None]:
        del self.pair.gpadls[gpadl_id]
        done: Promise[None] = Promise()
        done.resolve(None)
        return done

    def wait(self, promise: Promise[T], timeout: float = 30.0) -> T:
        self.loop.run(lambda: promise.done or bool(self.pair.failures), timeout=timeout)
        if self.pair.failures:
            raise self.pair.failures[0]
        if not promise.done:
            raise DriverError(f"no answer within {timeout:g} seconds")
        return promise.result()

    def card(self, driver: NetworkDriver | None = None, address: str = "10.7.0.2") -> NetworkCard:
        """Bring the guest's card up."""
        return NetworkCard.bring_up(self, Offer(self.provider.instance_id), address, driver=driver, timeout=60)

    def shut(self) -> None:
        self.pair.close()

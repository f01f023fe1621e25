"""What a guest's drivers see: open channels, share memory, wait (``vmbus.drivers.driver.DriverBus``)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, TypeVar
from uuid import UUID

from vmbus.channel import Channel, ChannelIdentity
from vmbus.control import guest_events as events
from vmbus.control.client import ControlClient
from vmbus.drivers.buffers import BufferUse, SharedBuffer, share_pages
from vmbus.drivers.driver import ChannelOffer
from vmbus.drivers.errors import DriverError
from vmbus.drivers.promise import Promise
from vmbus.errors import VmbusError
from vmbus.gpadl import GpaRange
from vmbus.loop import Loop
from vmbus.memory import PAGE_SIZE, GuestMemory
from vmbus.pages import PageAllocator
from vmbus.ring.pair import RingPair, map_ring_pair
from vmbus.tap import Direction, Tap
from vmbus.wire.control_values import Status

T = TypeVar("T")


@dataclass(slots=True)
class _OpenChannel:
    """What belongs to a channel from its open request on."""

    offer: ChannelOffer
    pfns: tuple[int, ...]
    rings: RingPair
    target_vp: int
    user_data: bytes
    opened: Promise[Channel]
    ring_gpadl: int = 0
    channel: Channel | None = None


class BusGuest(Protocol):
    """What a bus needs of its guest (``vmbus.guest.partition.Guest``)."""

    @property
    def loop(self) -> Loop: ...

    @property
    def memory(self) -> GuestMemory: ...

    @property
    def pages(self) -> PageAllocator: ...

    @property
    def vp_count(self) -> int: ...

    @property
    def gone(self) -> VmbusError | None: ...

    @property
    def control(self) -> ControlClient: ...

    @property
    def channels(self) -> dict[int, Channel]:
        """Those that are open, by id."""
        ...

    @property
    def tap(self) -> Tap | None: ...

    def post(self) -> None:
        """Post what the control plane has to say."""

    def signal(
        self, connection_id: int, vp: int = 0, monitor_id: int | None = None, *, channel_id: int | None = None
    ) -> None:
        """Wake the host's end of a channel."""

    def note(self, text: str) -> None: ...


class GuestBus:
    """The bus of one guest; everything happens in its loop's thread."""

    def __init__(self, guest: BusGuest) -> None:
        self._guest = guest
        self._open: dict[int, _OpenChannel] = {}
        self._gpadls: dict[int, Promise[int]] = {}
        self._teardowns: dict[int, Promise[None]] = {}
        self._modified: dict[int, Promise[None]] = {}
        self._sockets: dict[tuple[UUID, UUID], Promise[int]] = {}

    @property
    def loop(self) -> Loop:
        return self._guest.loop

    @property
    def memory(self) -> GuestMemory:
        return self._guest.memory

    @property
    def pages(self) -> PageAllocator:
        return self._guest.pages

    @property
    def can_name_pages(self) -> bool:
        return True

    @property
    def processors(self) -> int:
        return self._guest.vp_count

    def wait(self, promise: Promise[T], timeout: float = 30.0) -> T:
        self.loop.run(lambda: promise.done or self._guest.gone is not None, timeout=timeout)
        if not promise.done:
            raise self._guest.gone or DriverError(f"the host did not answer within {timeout:g} seconds")
        return promise.result()

    # Channels

    def open(
        self,
        offer: ChannelOffer,
        ring_pages_out: int = 16,
        ring_pages_in: int = 16,
        user_data: bytes = b"",
        target_vp: int = 0,
    ) -> Promise[Channel]:
        """Open a channel with rings of so many data pages each."""
        opened: Promise[Channel] = Promise()
        pfns = self.pages.allocate(2 + ring_pages_out + ring_pages_in)
        rings = map_ring_pair(self.memory, pfns, 1 + ring_pages_out, is_guest=True)
        opening = _OpenChannel(offer, pfns, rings, target_vp, user_data, opened)
        self._open[offer.channel_id] = opening

        def shared(gpadl: Promise[int]) -> None:
            try:
                opening.ring_gpadl = gpadl.result()
                self._guest.control.open(
                    offer.channel_id,
                    opening.ring_gpadl,
                    1 + ring_pages_out,
                    target_vp=target_vp,
                    user_data=user_data,
                )
            except VmbusError as error:
                self._give_up(opening, error)
                return
            self._guest.post()

        self._share(offer.channel_id, pfns).then(shared)
        return opened

    def open_finished(self, event: events.OpenFinished) -> None:
        opening = self._open.get(event.channel_id)
        if opening is None or opening.opened.done:
            return
        if event.status != Status.SUCCESS:
            self._give_up(opening, DriverError(f"the host did not open channel {event.channel_id}: {event.status:#x}"))
            return
        offer = opening.offer
        connection_id = self._guest.control.channels[offer.channel_id].connection_id
        monitor_id = offer.monitor_id if offer.monitor_allocated & 1 else None
        channel = Channel(
            ChannelIdentity(
                offer.channel_id,
                offer.interface_id,
                offer.instance_id,
                offer.subchannel_index,
                bytes(offer.user_defined),
                opening.user_data,
            ),
            rings=opening.rings,
            memory=self.memory,
            loop=self.loop,
            signal=lambda: self._guest.signal(
                connection_id, channel.target_vp or 0, monitor_id, channel_id=offer.channel_id
            ),
            receives=Direction.HOST_TO_GUEST,
            tap=self._guest.tap,
            on_failure=lambda failed, error: self._guest.note(f"{failed!r} fails: {error}"),
        )
        channel.target_vp = opening.target_vp
        opening.channel = channel
        self._guest.channels[offer.channel_id] = channel
        opening.opened.resolve(channel)
        self.loop.call_soon(channel.service)

    def _give_up(self, opening: _OpenChannel, error: VmbusError) -> None:
        self._open.pop(opening.offer.channel_id, None)
        opening.rings.close()
        self.pages.free(opening.pfns)
        opening.opened.reject(error)

    def close(self, channel: Channel) -> None:
        """Close a channel; its pages come back when the host has let them go."""
        opening = self._open.pop(channel.channel_id, None)
        channel.close()
        self._guest.channels.pop(channel.channel_id, None)
        if opening is None:
            return
        state = self._guest.control.channels.get(channel.channel_id)
        if state is None or not self._guest.control.is_connected:
            self.pages.free(opening.pfns)
            return
        self._guest.control.close(channel.channel_id)
        torn_down = self.teardown_gpadl(channel, opening.ring_gpadl)
        torn_down.then(lambda _: self.pages.free(opening.pfns))

    def modify(self, channel: Channel, target_vp: int) -> Promise[None]:
        """Let the host interrupt another processor for the channel.

        When the promise is settled the old one hears no more of it. Hosts before 5.3 do not say so: it is settled at
        once, and the old processor may be interrupted once more.
        """
        promise: Promise[None] = Promise()
        self._guest.control.modify_channel(channel.channel_id, target_vp)
        if self._guest.control.channels[channel.channel_id].modifying:
            self._modified[channel.channel_id] = promise
            promise.then(lambda done: self._moved(channel, target_vp, done))
        else:
            channel.target_vp = target_vp
            promise.resolve(None)
        self._guest.post()
        return promise

    def _moved(self, channel: Channel, target_vp: int, done: Promise[None]) -> None:
        with suppress(VmbusError):  # refused: it stays where it was
            done.result()
            channel.target_vp = target_vp

    def channel_modified(self, event: events.ChannelModified) -> None:
        promise = self._modified.pop(event.channel_id, None)
        if promise is None:
            return
        if event.status == Status.SUCCESS:
            promise.resolve(None)
        else:
            promise.reject(DriverError(f"the host did not modify channel {event.channel_id}"))

    # Sockets

    def connect_socket(self, service_id: UUID, endpoint_id: UUID) -> Promise[int]:
        """Ask the host for a socket to one of its services; the promise is of its channel's id.

        The channel is offered like any other, with the two ids as interface and instance.
        """
        promise: Promise[int] = Promise()
        self._sockets[endpoint_id, service_id] = promise
        self._guest.control.tl_connect(endpoint_id, service_id)
        self._guest.post()
        return promise

    def socket_connected(self, event: events.TlConnectFinished) -> None:
        promise = self._sockets.pop((event.endpoint_id, event.service_id), None)
        if promise is None:
            return
        if event.channel_id is not None:
            promise.resolve(event.channel_id)
        else:
            promise.reject(DriverError(f"the host refused a socket to {event.service_id}"))

    # Memory

    def create_gpadl(self, channel: Channel, pfns: Sequence[int]) -> Promise[int]:
        return self._share(channel.channel_id, pfns)

    def _share(self, channel_id: int, pfns: Sequence[int]) -> Promise[int]:
        promise: Promise[int] = Promise()
        whole = GpaRange(len(pfns) * PAGE_SIZE, 0, tuple(pfns))
        gpadl_id = self._guest.control.create_gpadl(channel_id, [whole])
        self._gpadls[gpadl_id] = promise
        self._guest.post()
        return promise

    def gpadl_finished(self, event: events.GpadlFinished) -> None:
        promise = self._gpadls.pop(event.gpadl_id, None)
        if promise is None:
            return
        if event.status == Status.SUCCESS:
            promise.resolve(event.gpadl_id)
        else:
            promise.reject(DriverError(f"the host refused GPADL {event.gpadl_id:#x}: {event.status:#x}"))

    def share_buffer(self, channel: Channel, use: BufferUse, pages: int) -> Promise[SharedBuffer]:
        return share_pages(self, channel, pages)

    def teardown_gpadl(self, channel: Channel, gpadl_id: int) -> Promise[None]:
        promise: Promise[None] = Promise()
        self._teardowns[gpadl_id] = promise
        self._guest.control.teardown_gpadl(gpadl_id)
        self._guest.post()
        return promise

    def gpadl_torn_down(self, event: events.GpadlTornDown) -> None:
        promise = self._teardowns.pop(event.gpadl_id, None)
        if promise is not None:
            promise.resolve(None)

    # Ending

    def rescinded(self, channel_id: int) -> None:
        """The host took a channel back: nobody waits for it any more, and its pages are ours again.

        What the host sent before is still handled.
        """
        opening = self._open.pop(channel_id, None)
        if opening is None:
            return
        self._guest.channels.pop(channel_id, None)
        if opening.channel is not None:
            opening.channel.service()
            opening.channel.close()
        else:
            opening.rings.close()
        opening.opened.reject(DriverError(f"the host rescinded channel {channel_id}"))
        self.pages.free(opening.pfns)

    def fail_all(self, error: VmbusError) -> None:
        """The host is gone: whoever waits is told so."""
        for opening in self._open.values():
            opening.opened.reject(error)
            if opening.channel is not None:
                opening.channel.close()
            else:
                opening.rings.close()
        self._open.clear()
        for promise in self._gpadls.values():
            promise.reject(error)
        for waiting in (*self._teardowns.values(), *self._modified.values()):
            waiting.reject(error)
        for wanted in self._sockets.values():
            wanted.reject(error)
        self._sockets.clear()
        self._gpadls.clear()
        self._teardowns.clear()
        self._modified.clear()

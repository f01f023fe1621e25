"""One device of the machine we run in, driven from user space: the bus that our drivers see, over ``uio_hv_generic``.

::

    with UioBus.of(find_device("net")) as bus:
        driver = NetworkDriver()
        bus.attach(driver)
        bus.wait(driver.ready)
        card = NetworkCard(bus, driver, "10.7.0.2")

The kernel has made the rings, opened the channel, and shared a receive and a send buffer with the host; this joins them
to a :class:`~vmbus.channel.Channel`. One file descriptor interrupts for all channels of the device. The host is
signalled by the channel's bit in the monitor page or, if it has none, by the kernel.

What a driver can share are the kernel's two buffers. A network card needs no more. A disk's requests name pages: user
space does not know where its own lie, but root is told where those of the receive buffer do, and a driver that has no
other use for that buffer takes its pages from there.

Sources: Linux 6.12 ``drivers/uio/uio_hv_generic.c``; DPDK ``drivers/bus/vmbus/vmbus_channel.c`` (``vmbus_set_event``),
``linux/vmbus_uio.c`` (``vmbus_uio_get_subchan``: subchannels appear in sysfs, and nothing tells of it).
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

from vmbus.channel import Channel, ChannelIdentity
from vmbus.control.messages import build_message
from vmbus.drivers.buffers import BufferUse, SharedBuffer
from vmbus.drivers.driver import ChannelOffer, Driver
from vmbus.drivers.errors import DriverError
from vmbus.drivers.promise import Promise
from vmbus.errors import VmbusError
from vmbus.loop import Loop
from vmbus.memory import PAGE_SIZE, GuestMemory, Mapping
from vmbus.monitor_page import MonitorPageView
from vmbus.pages import PageAllocator
from vmbus.ring.pair import divide_ring_pair
from vmbus.tap import Direction, NoteKind, Tap
from vmbus.transport.uio import ChannelFile, DeviceGone, SysfsDevice, UioError, UioFile, UioMap, bind
from vmbus.transport.uio.pages import BufferMemory, BufferPages, frames_of
from vmbus.transport.uio.sysfs import read_subchannels
from vmbus.wire import control
from vmbus.wire.control_values import Status
from vmbus.wire.offer import OfferChannel

T = TypeVar("T")

FIRST_LOOK, LAST_LOOK = 0.02, 1.0
"""Seconds between two looks into sysfs for subchannels: short when a driver comes, then longer and longer."""


class KernelBuffer:
    """One of the two buffers that the kernel has shared with the host: a :class:`~vmbus.drivers.buffers.SharedBuffer`.

    It is the kernel's, and stays mapped until the device is closed.
    """

    def __init__(self, mapping: Mapping, gpadl_id: int) -> None:
        self.view = mapping.view
        self.gpadl_id = gpadl_id
        self._mapping = mapping

    def free(self) -> None:
        """Unmap it."""
        self.view = memoryview(b"")
        self._mapping.close()


class UioBus:
    """The bus of one device; everything happens in its loop's thread. ``gone`` is the error once the device is."""

    processors = 1

    def __init__(
        self,
        device: SysfsDevice,
        file: ChannelFile,
        *,
        tap: Tap | None = None,
        loop: Loop | None = None,
        pure: bool = False,
    ) -> None:
        """``file`` is the opened device, and is this object's from now on. ``pure`` keeps the rings to pure Python."""
        self.offer = device
        self.loop = loop or Loop()
        self.tap = tap
        self.gone: VmbusError | None = None
        self.channels: dict[int, Channel] = {}
        self._left: set[int] = set()
        self._file = file
        self._pure = pure
        self._no_memory = GuestMemory.create(PAGE_SIZE, "vmbus-none")
        self._pages: PageAllocator | None = None
        self._page_mapping: Mapping | None = None
        self._shared: set[UioMap] = set()
        self._driver: Driver | None = None
        self._owns_loop = loop is None
        self._monitor_page: MonitorPageView | None = None
        self._monitor_mapping: Mapping | None = None
        self._closed = False
        self.loop.watch(file.fileno(), self._interrupted)

    @classmethod
    def of(
        cls, device: SysfsDevice, *, bind_it: bool = False, tap: Tap | None = None, loop: Loop | None = None
    ) -> Self:
        """Open a device; ``bind_it`` hands it to user space first, where it is with another driver.

        Raises a :class:`~vmbus.transport.uio.UioError`.
        """
        if bind_it:
            device = bind(device)
        return cls(device, UioFile(device), tap=tap, loop=loop)

    # Channels

    def attach(self, driver: Driver) -> None:
        """Let a driver have the device, and its subchannels as they appear."""
        self._driver = driver
        driver.attach(self, self.offer)
        if type(driver).subchannel_offered is not Driver.subchannel_offered:
            self._look_for_subchannels(FIRST_LOOK)

    def open(
        self,
        offer: ChannelOffer,
        ring_pages_out: int = 0,
        ring_pages_in: int = 0,
        user_data: bytes = b"",
        target_vp: int = 0,
    ) -> Promise[Channel]:
        """The channel, which the kernel has opened: its size of rings, no user data, its choice of processor."""
        opened: Promise[Channel] = Promise()
        try:
            opened.resolve(self._join(offer))
        except VmbusError as error:
            opened.reject(error)
        return opened

    def _join(self, offer: ChannelOffer) -> Channel:
        if self.gone is not None:
            raise self.gone
        if offer.channel_id in self.channels:
            raise DriverError(f"channel {offer.channel_id} is open already")
        if offer.subchannel_index:
            assert isinstance(offer, SysfsDevice)
            mapping = self._file.map_subchannel(offer)
        else:
            mapping = self._file.map(UioMap.RINGS)
        rings = divide_ring_pair(mapping, mmap.PAGESIZE, pure=self._pure)
        channel = self.channels[offer.channel_id] = Channel(
            ChannelIdentity(offer.channel_id, offer.interface_id, offer.instance_id, offer.subchannel_index),
            rings=rings,
            memory=self._no_memory,
            loop=self.loop,
            signal=self._signal_of(offer),
            receives=Direction.HOST_TO_GUEST,
            tap=self.tap,
            on_failure=self._channel_left,
        )
        if self.tap is not None:
            _tell_in_force(self.tap, offer, len(mapping.view) // 2 // PAGE_SIZE)
        self.loop.call_soon(channel.service)
        return channel

    def close(self, channel: Channel) -> None:
        """Leave a channel; the kernel closes it for the host when the device is closed."""
        self._channel_left(channel)
        channel.close()

    def _channel_left(self, channel: Channel, error: VmbusError | None = None) -> None:
        self.channels.pop(channel.channel_id, None)
        self._left.add(channel.channel_id)

    # Signals and interrupts

    def _signal_of(self, offer: ChannelOffer) -> Callable[[], None]:
        if not offer.monitor_allocated & 1:
            return self._signal_through_kernel
        if self._monitor_page is None:
            self._monitor_mapping = self._file.map(UioMap.MONITOR_PAGE)
            self._monitor_page = MonitorPageView(self._monitor_mapping.view[:PAGE_SIZE])
        page, monitor_id = self._monitor_page, offer.monitor_id

        def set_bit() -> None:
            page.set(monitor_id)

        return set_bit

    def _signal_through_kernel(self) -> None:
        try:
            self._file.signal()
        except DeviceGone as error:
            self.loop.call_soon(partial(self._end, error))

    def _interrupted(self) -> None:
        try:
            self._file.take_interrupts()
        except DeviceGone as error:
            self._end(error)
            return
        for channel in list(self.channels.values()):
            channel.on_signal()

    def _look_for_subchannels(self, interval: float) -> None:
        """Nothing tells a process in user space of a new subchannel: look as long as the device is open."""
        if self.gone is not None or self._driver is None:
            return
        for subchannel in read_subchannels(self.offer):
            if subchannel.channel_id not in self.channels and subchannel.channel_id not in self._left:
                self._driver.subchannel_offered(subchannel)
        self.loop.call_later(interval, lambda: self._look_for_subchannels(min(1.5 * interval, LAST_LOOK)))

    # Memory

    @property
    def can_name_pages(self) -> bool:
        """Whether :attr:`pages` has any: for root, on a device whose receive buffer has no other use."""
        try:
            return self.pages.free_pages > 0
        except VmbusError:
            return False

    @property
    def pages(self) -> PageAllocator:
        """Pages that packets may name: those of the receive buffer. :class:`UioError` when that cannot be."""
        if self._pages is None:
            if UioMap.RECEIVE_BUFFER in self._shared:
                raise UioError(f"{self.offer}: its receive buffer is in use as such, no pages of it can be named")
            mapping = self._file.map(UioMap.RECEIVE_BUFFER)
            try:
                pfns = frames_of(mapping.view)
            except UioError:
                mapping.close()
                raise
            self._page_mapping = mapping
            self._pages = BufferPages(BufferMemory(mapping, pfns), pfns)
        return self._pages

    @property
    def memory(self) -> GuestMemory:
        return self.pages.memory

    def share_buffer(self, channel: Channel, use: BufferUse, pages: int) -> Promise[SharedBuffer]:
        """The kernel's buffer for that use, whatever its size: 31 MiB to receive in, 16 MiB to send from."""
        shared: Promise[SharedBuffer] = Promise()
        which = UioMap.RECEIVE_BUFFER if use is BufferUse.RECEIVE else UioMap.SEND_BUFFER
        try:
            if self.gone is not None:
                raise self.gone
            if which is UioMap.RECEIVE_BUFFER and self._pages is not None:
                raise DriverError("the receive buffer is in use for its pages")
            gpadl_id = self._file.gpadl(which)
            self._shared.add(which)
            shared.resolve(KernelBuffer(self._file.map(which), gpadl_id))
        except VmbusError as error:
            shared.reject(error)
        return shared

    def create_gpadl(self, channel: Channel, pfns: Sequence[int]) -> Promise[int]:
        """Impossible here."""
        refused: Promise[int] = Promise()
        refused.reject(DriverError("a driver in user space cannot share memory of its own with the host"))
        return refused

    def teardown_gpadl(self, channel: Channel, gpadl_id: int) -> Promise[None]:
        """Nothing is to be done: the kernel takes its buffers back when the device leaves it."""
        done: Promise[None] = Promise()
        done.resolve(None)
        return done

    def wait(self, promise: Promise[T], timeout: float = 30.0) -> T:
        """Run the loop until the promise is settled, the device is gone or the time is over."""
        self.loop.run(lambda: promise.done or self.gone is not None, timeout=timeout)
        if not promise.done:
            raise self.gone or DriverError(f"the host did not answer within {timeout:g} seconds")
        try:
            return promise.result()
        except VmbusError as error:
            raise self.gone or error from None

    # The end

    def _end(self, error: VmbusError) -> None:
        if self.gone is not None:
            return
        self.gone = error
        self.loop.unwatch(self._file.fileno())
        if self.tap is not None:
            self.tap.note(NoteKind.PROBLEM, str(error))
        self._leave_channels()

    def _leave_channels(self) -> None:
        for channel in list(self.channels.values()):
            self.close(channel)
        if self._driver is not None:
            self._driver.detach()
            self._driver = None
        if self._pages is not None and self._page_mapping is not None:
            self._pages.memory.close()
            self._page_mapping.close()
            self._pages = self._page_mapping = None
        if self._monitor_page is not None and self._monitor_mapping is not None:
            self._monitor_page.release()
            self._monitor_mapping.close()
            self._monitor_page = self._monitor_mapping = None

    def shut(self) -> None:
        """Leave the device: the kernel closes its channel. Harmless when it is gone or shut already."""
        if self._closed:
            return
        self._closed = True
        self.gone = self.gone or DriverError("this device has been closed")
        self.loop.unwatch(self._file.fileno())
        self._leave_channels()
        self._file.close()
        self._no_memory.close()
        if self._owns_loop:
            self.loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shut()


def _tell_in_force(tap: Tap, offer: ChannelOffer, ring_pages: int) -> None:
    """Tell a recording what led here: the offer, as far as sysfs has it, and that the channel is open."""
    said = OfferChannel(
        interface_id=offer.interface_id,
        instance_id=offer.instance_id,
        subchannel_index=offer.subchannel_index,
        channel_id=offer.channel_id,
        monitor_id=offer.monitor_id,
        monitor_allocated=offer.monitor_allocated,
        connection_id=0,
    )
    asked = control.OpenChannel(channel_id=offer.channel_id, ring_gpadl_id=0, downstream_page_offset=ring_pages)
    answered = control.OpenResult(channel_id=offer.channel_id, open_id=0, status=Status.SUCCESS)
    tap.in_force(Direction.HOST_TO_GUEST, build_message(said))
    tap.in_force(Direction.GUEST_TO_HOST, build_message(asked))
    tap.in_force(Direction.HOST_TO_GUEST, build_message(answered))

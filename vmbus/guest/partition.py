"""The life of a Python guest: hello, synic, version, offers, drivers, unload."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any
from uuid import UUID, uuid4

from vmbus.channel import Channel
from vmbus.control import guest_events as events
from vmbus.control.client import ControlClient
from vmbus.control.events import MonitorPages
from vmbus.drivers.driver import ChannelOffer, Driver
from vmbus.drivers.errors import DriverError
from vmbus.errors import VmbusError
from vmbus.guest.bus import GuestBus
from vmbus.interrupt_page import SHARED_EVENT_FLAG, InterruptPageView
from vmbus.loop import Loop
from vmbus.memory import PAGE_SHIFT, GuestMemory
from vmbus.monitor_page import MonitorPageView
from vmbus.pages import PageAllocator
from vmbus.synic import GuestSynicVp
from vmbus.tap import Direction, NoteKind, Tap
from vmbus.transport.client import HostConnection, HostGone, new_interrupts
from vmbus.wire.control_values import (
    ALL_FEATURES,
    ALL_VERSIONS,
    EVENT_CONNECTION_ID,
    SYNIC_MESSAGE_TYPE,
    VMBUS_SINT,
    FeatureFlags,
    Version,
)
from vmbus.wire.hypervisor import HvStatus
from vmbus.wire.partition import HOST_PAGE_COUNT, PartitionFeatures

DEFAULT_MEMORY = 128 << 20


class Guest:
    """A guest with ``vp_count`` virtual processors and drivers for what it is offered.

    Call ``boot()``, then use ``driver(...)``; or run ``loop``.  ``gone`` is the error when the host has ended the
    connection.
    """

    def __init__(
        self,
        connection: socket.socket,
        *,
        drivers: Iterable[type[Driver]] = (),
        memory_size: int = DEFAULT_MEMORY,
        vp_count: int = 1,
        versions: Sequence[Version] = ALL_VERSIONS,
        features: FeatureFlags = ALL_FEATURES,
        tap: Tap | None = None,
        loop: Loop | None = None,
        guest_id: UUID | None = None,
        host_pages: bool = True,
        message_vp: int = 0,
    ) -> None:
        """``host_pages``: the host may provide the monitor pages; otherwise they are this guest's own.

        ``message_vp`` is the processor whose message slot gets the host's control messages.
        """
        self.loop = loop or Loop()
        self.memory = GuestMemory.create(memory_size)
        self.pages = PageAllocator(self.memory, spared=HOST_PAGE_COUNT)
        self.monitor_page: MonitorPageView | None = None
        """Where pending bits signal the host, while the connection has monitor pages."""
        self.interrupt_page: InterruptPageView | None = None
        """Where bits say which channel a signal is for, before 2.4."""
        self._interrupt_page_at = 0
        self._host_pages = host_pages
        self.tap = tap
        self.gone: VmbusError | None = None
        self.channels: dict[int, Channel] = {}
        self.offers: dict[int, ChannelOffer] = {}
        self.drivers: list[Driver] = []
        self.control = ControlClient()
        self.bus = GuestBus(self)
        self.log: list[str] = []
        self._driver_types = tuple(drivers)
        self._by_device: dict[tuple[UUID, UUID], Driver] = {}
        self._versions = tuple(sorted(versions, reverse=True))
        self._features = features
        self._connection = HostConnection(connection)
        self.vp_count = vp_count
        self.flags_seen: Counter[tuple[int, int]] = Counter()
        """How often a processor found a channel's event flag, by processor and channel id."""
        self._message_vp = message_vp
        self._interrupts = new_interrupts(vp_count)
        self._guest_id = guest_id or uuid4()
        self._vps: list[GuestSynicVp] = []
        self._offers_delivered = self._unloaded = self._closed = False
        self._connect_failure: DriverError | None = None
        self._act_on: dict[type[events.GuestEvent], Callable[[Any], None]] = {
            events.Connected: self._connected,
            events.ConnectFailed: self._connect_failed,
            events.ChannelOffered: self._channel_offered,
            events.OffersDelivered: self._all_offers_delivered,
            events.ChannelRescinded: self._channel_rescinded,
            events.ChannelGone: self._channel_gone,
            events.GpadlFinished: self.bus.gpadl_finished,
            events.GpadlTornDown: self.bus.gpadl_torn_down,
            events.OpenFinished: self.bus.open_finished,
            events.ChannelModified: self.bus.channel_modified,
            events.TlConnectFinished: self.bus.socket_connected,
            events.UnloadFinished: self._unload_finished,
            events.HostViolation: lambda event: self.note(str(event)),
        }

    # Life

    def boot(self, timeout: float = 30.0) -> None:
        """Introduce this guest, agree on a version and attach drivers to all offers.

        Raises ``HostRefused``, ``HostGone`` or ``DriverError``.
        """
        features = PartitionFeatures.HOST_PAGES if self._host_pages else PartitionFeatures(0)
        self._connection.hello(self.memory, self._interrupts, self._guest_id, features)
        self.loop.watch(self._connection.fileno(), self._host_spoke)
        for index, interrupt in enumerate(self._interrupts):
            message_page, flags_page = self.pages.allocate(2)
            vp = GuestSynicVp(index, self.memory, message_page, flags_page, self._write_register)
            vp.enable(VMBUS_SINT)
            self._vps.append(vp)
            self.loop.watch(interrupt, partial(self._interrupted, vp, interrupt))
        to_guest, to_host, self._interrupt_page_at = (pfn << PAGE_SHIFT for pfn in self.pages.allocate(3))
        self.control.connect(
            versions=self._versions,
            features=self._features,
            target_message_vp=self._message_vp,
            monitor_pages=MonitorPages(to_guest, to_host),
            interrupt_page=self._interrupt_page_at,
        )
        self.post()
        self._run_until(lambda: self._offers_delivered, timeout, "the host did not deliver its offers")

    def unload(self, timeout: float = 30.0) -> None:
        """Detach the drivers and end the connection in good order."""
        for driver in self.drivers:
            driver.detach()
        self.act_on(self.control.unload())
        self._run_until(lambda: self._unloaded, timeout, "the host did not answer the unload")
        for vp in self._vps:
            vp.disable(VMBUS_SINT)

    def close(self) -> None:
        """End without a word, as when the guest is killed; releases everything."""
        if self._closed:
            return
        self._closed = True
        self._end(self.gone or HostGone("this guest has closed its connection"))
        self._drop_pages()
        for vp in self._vps:
            vp.close()
        self.loop.unwatch(self._connection.fileno())
        for interrupt in self._interrupts:
            self.loop.unwatch(interrupt)
            os.close(interrupt)
        self._connection.close()
        self.loop.run_once(0.0)
        self.memory.close()
        self.loop.close()

    def driver(self, kind: type[Any], number: int = 0) -> Any:
        """The ``number``-th attached driver of that class."""
        found = [driver for driver in self.drivers if isinstance(driver, kind)]
        if number >= len(found):
            raise DriverError(f"the host offers {len(found)} devices for {kind.__name__}")
        return found[number]

    def note(self, text: str) -> None:
        """A line for whoever watches this guest; the host gets it too."""
        self.log.append(text)
        if self.tap is not None:
            self.tap.note(NoteKind.TEXT, text)
        if self.gone is None and self._vps:
            self._connection.note(text)

    def _run_until(self, condition: Callable[[], bool], timeout: float, complaint: str) -> None:
        def ended() -> bool:
            return condition() or self.gone is not None or self._connect_failure is not None

        if not self.loop.run(ended, timeout=timeout):
            raise DriverError(f"{complaint} within {timeout:g} seconds")
        error = self._connect_failure or (None if condition() else self.gone)
        if error is not None:
            raise error

    # To the host

    def _write_register(self, vp: int, number: int, value: int) -> None:
        try:
            self._connection.set_register(vp, number, value)
        except HostGone as error:
            self._end(error)

    def post(self) -> None:
        """Post what the control plane has to say."""
        for message in self.control.outgoing():
            if self.gone is not None:
                return
            if self.tap is not None:
                self.tap.message(
                    Direction.GUEST_TO_HOST, 0, 0, message.connection_id, SYNIC_MESSAGE_TYPE, message.payload
                )
            try:
                status = self._connection.post_message(0, message.connection_id, SYNIC_MESSAGE_TYPE, message.payload)
            except HostGone as error:
                self._end(error)
                return
            if status != HvStatus.SUCCESS:
                self.note(f"the host did not take a control message: {HvStatus(status)}")

    def signal(
        self, connection_id: int, vp: int = 0, monitor_id: int | None = None, *, channel_id: int | None = None
    ) -> None:
        """Wake the host's end of a channel: by its bit in the monitor page, or by a hypercall."""
        if self.gone is not None:
            return
        if channel_id is not None and connection_id == EVENT_CONNECTION_ID and self.interrupt_page is not None:
            self.interrupt_page.to_host.set(channel_id)
        if monitor_id is not None and self.monitor_page is not None:
            self.monitor_page.set(monitor_id)
            return
        try:
            self._connection.signal_event(vp, connection_id)
        except HostGone as error:
            self._end(error)

    # From the host

    def _host_spoke(self) -> None:
        if self._connection.host_is_gone():
            self._end(HostGone("the host closed the connection"))

    def _end(self, error: VmbusError) -> None:
        if self.gone is not None:
            return
        self.gone = error
        self.bus.fail_all(error)
        for driver in self.drivers:
            driver.detach()
        self.drivers.clear()
        self.channels.clear()
        self.loop.unwatch(self._connection.fileno())

    def _interrupted(self, vp: GuestSynicVp, interrupt: int) -> None:
        try:
            os.eventfd_read(interrupt)
        except BlockingIOError:
            return
        while (message := vp.take_message(VMBUS_SINT)) is not None:
            if self.tap is not None:
                self.tap.message(
                    Direction.HOST_TO_GUEST, vp.index, VMBUS_SINT, 0, message.message_type, message.payload
                )
            if message.message_type == SYNIC_MESSAGE_TYPE:
                self.act_on(self.control.receive(message.payload))
        flags = vp.take_event_flags(VMBUS_SINT)
        if self.interrupt_page is not None and SHARED_EVENT_FLAG in flags:
            flags = self.interrupt_page.to_guest.take()
        for flag in flags:
            channel = self.channels.get(flag)
            if channel is not None:
                self.flags_seen[vp.index, flag] += 1
                channel.on_signal()

    def act_on(self, happened: Sequence[events.GuestEvent]) -> None:
        """Act on events of the control plane, and post what it has to say."""
        for event in happened:
            act = self._act_on.get(type(event))
            if act is not None:
                act(event)
        self.post()

    def _connected(self, event: events.Connected) -> None:
        self._drop_pages()
        if event.monitor_pages is not None:
            self.monitor_page = MonitorPageView.at(self.memory, event.monitor_pages.child_to_parent)
        if event.version < Version.V2_4:
            self.interrupt_page = InterruptPageView.at(self.memory, self._interrupt_page_at)

    def _drop_pages(self) -> None:
        for page in (self.monitor_page, self.interrupt_page):
            if page is not None:
                page.release()
        self.monitor_page = self.interrupt_page = None

    def _connect_failed(self, event: events.ConnectFailed) -> None:
        why = "no version in common" if event.state is None else str(event.state)
        self._connect_failure = DriverError(f"the host does not connect: {why}")

    def _all_offers_delivered(self, event: events.OffersDelivered) -> None:
        self._offers_delivered = True

    def _unload_finished(self, event: events.UnloadFinished) -> None:
        self._drop_pages()
        self._unloaded = True

    def _channel_offered(self, event: events.ChannelOffered) -> None:
        offer: Any = event.offer
        self.offers[offer.channel_id] = offer
        device = (offer.interface_id, offer.instance_id)
        if offer.subchannel_index:
            driver = self._by_device.get(device)
            if driver is not None:
                driver.subchannel_offered(offer)
            return
        for kind in self._driver_types:
            if kind.probe(offer):
                driver = kind()
                self.drivers.append(driver)
                self._by_device[device] = driver
                driver.attach(self.bus, offer)
                return

    def _channel_gone(self, event: events.ChannelGone) -> None:
        self.offers.pop(event.channel_id, None)

    def _channel_rescinded(self, event: events.ChannelRescinded) -> None:
        offer: Any = self.offers.get(event.channel_id)
        if offer is not None and not offer.subchannel_index:
            driver = self._by_device.pop((offer.interface_id, offer.instance_id), None)
            if driver is not None:
                self.drivers.remove(driver)
                driver.detach()
        self.bus.rescinded(event.channel_id)
        if event.channel_id in self.control.channels:
            self.act_on(self.control.release(event.channel_id))

"""The channels of one guest: offered, opened, given memory, moved, closed and failed, one by one.

This is the part of ``HostPartition`` that joins devices with the control plane's events.  A guest that breaks a ring's
rules loses that channel and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from vmbus.channel import Channel, ChannelIdentity
from vmbus.channel.spinning import Spinner
from vmbus.control import host_events as events
from vmbus.control.offers import OfferTraits as ControlTraits
from vmbus.control.server import ControlServer
from vmbus.control.server_base import ServerConfig
from vmbus.devices.device import OfferTraits
from vmbus.errors import VmbusError
from vmbus.gpadl import Gpadl
from vmbus.host.bus import DeviceSlot
from vmbus.host.monitor import Monitored, PageMonitor
from vmbus.interrupt_page import SHARED_EVENT_FLAG, InterruptPageView
from vmbus.loop import Loop
from vmbus.memory import GuestMemory
from vmbus.ring.pair import map_ring_pair
from vmbus.synic import SynicVp
from vmbus.tap import Direction, NoteKind, Tap
from vmbus.wire.control_values import VMBUS_SINT, Status
from vmbus.wire.offer import OfferFlags, PipeType


class ChannelKeeper(Protocol):
    """What keeps channels for the next process (``vmbus.host.servicing.Servicing``)."""

    def channel_closed(self, channel_id: int) -> None: ...


class ChannelHost(Protocol):
    """What the channels of a guest need of its host (``vmbus.host.server.Host``)."""

    @property
    def loop(self) -> Loop: ...

    @property
    def spinner(self) -> Spinner | None: ...

    @property
    def tap(self) -> Tap | None: ...

    @property
    def servicing(self) -> ChannelKeeper | None: ...

    def note(self, text: str, kind: NoteKind = NoteKind.TEXT) -> None: ...


class PartitionChannels:
    """A guest's memory, processors and channels; ``react`` is what the rest of the partition adds."""

    def __init__(self, host: ChannelHost) -> None:
        self.host = host
        self.memory: GuestMemory | None = None
        self.vps: list[SynicVp] = []
        self.control = ControlServer(ServerConfig())
        self.gpadls: dict[int, dict[int, Gpadl]] = {}
        """GPADLs by channel id and id."""
        self.channels: dict[int, Channel] = {}
        """Open channels by id."""
        self.monitor = PageMonitor(host.loop)
        self.interrupt_page: InterruptPageView | None = None
        """Where channels are signalled before 2.4."""
        self._monitor_ids: dict[int, int] = {}
        """Monitored notifications by channel id."""
        self._by_connection: dict[int, Channel] = {}
        self._wake: dict[int, Callable[[], None]] = {}
        """Signals the guest's end of an open channel, by channel id."""
        self._slots: dict[int, tuple[DeviceSlot, int]] = {}
        """Which device and subchannel a channel id is an offer of."""
        self._ring_gpadls: dict[int, int] = {}
        """The GPADL that an open channel's rings are in."""
        self._teardowns_due: set[tuple[int, int]] = set()
        """Channel and id of GPADLs that are to be let go of when their channel is closed."""
        self.channel_events: dict[type[events.HostEvent], Callable[[Any], None]] = {
            events.OpenRequested: self._open_requested,
            events.CloseRequested: self._close_requested,
            events.GpadlRequested: self._gpadl_requested,
            events.GpadlTeardownRequested: self._gpadl_teardown_requested,
            events.ChannelReleased: self._channel_released,
            events.ModifyChannelRequested: self._modify_requested,
        }

    def react(self, happened: Sequence[events.HostEvent]) -> None:
        """Carry events out, in order, and deliver what the control plane has to say."""
        raise NotImplementedError

    def channel_opened(self, slot: DeviceSlot, channel: Channel) -> None:
        """A device has a channel."""
        raise NotImplementedError

    def signal_event(self, vp: int, connection_id: int, flag: int) -> None:
        """The guest has signalled a connection."""
        raise NotImplementedError

    # Offers

    def offer(self, slot: DeviceSlot) -> None:
        """Offer a device, and such of its subchannels as are not offered yet.

        A device that was taken back is offered when the guest has let go of its last channel, and not before: Linux
        may take up the new one while it still closes the old one, and a device has one conversation at a time.
        """
        if self.memory is None or not slot.is_offered or self._is_leaving(slot):
            return
        device = slot.device
        for index in range(slot.subchannels + 1):
            if index in slot.channel_ids:
                continue
            channel_id = self.control.offer(
                device.interface_id, device.instance_id, control_traits(device.offer), subchannel_index=index
            )
            slot.channel_ids[index] = channel_id
            self._slots[channel_id] = (slot, index)
        self.react(())

    def _is_leaving(self, slot: DeviceSlot) -> bool:
        """Whether the guest still has the primary channel of an offer that was taken back."""
        return any(
            of is slot and index == 0 and slot.channel_ids.get(0) != channel_id
            for channel_id, (of, index) in self._slots.items()
        )

    def rescind(self, slot: DeviceSlot) -> None:
        """Take a device's offers back, subchannels first.

        The channels are served until the guest lets go of them: Linux waits for every completion that is due before it
        does (``rndis_filter_halt_device`` in drivers/net/hyperv), and it has no time limit.
        """
        for _, channel_id in sorted(slot.channel_ids.items(), reverse=True):
            self.react(self.control.rescind(channel_id))
        slot.channel_ids.clear()

    def _rescind_subchannels(self, slot: DeviceSlot) -> None:
        """The primary channel is closed: its subchannels go with it, and the device offers new ones when it is asked.

        Linux's netvsc waits for new offers after each open of the primary (``rndis_set_subchannel``); openvmm does the
        same (``vmbus_channel/src/channel.rs``, ``handle_close``).
        """
        slot.subchannels = 0
        for index, channel_id in sorted(slot.channel_ids.items(), reverse=True):
            if index > 0:
                del slot.channel_ids[index]
                self._close_channel(channel_id)
                self.react(self.control.rescind(channel_id))

    def offered_channels(self) -> list[int]:
        """The ids of all channels that are offered."""
        return list(self._slots)

    def slot_of(self, channel_id: int) -> tuple[DeviceSlot | None, int]:
        """Which device and subchannel a channel id is an offer of; no device if it is none."""
        return self._slots.get(channel_id, (None, 0))

    def _gpadl_requested(self, event: events.GpadlRequested) -> None:
        assert self.memory is not None
        try:
            gpadl = Gpadl(event.gpadl_id, event.ranges, self.memory)
        except VmbusError as error:
            self.host.note(f"GPADL {event.gpadl_id:#x} refused: {error}", NoteKind.PROBLEM)
            self.react(self.control.gpadl_refused(event.channel_id, event.gpadl_id))
            return
        self.gpadls.setdefault(event.channel_id, {})[event.gpadl_id] = gpadl
        self.react(self.control.gpadl_created(event.channel_id, event.gpadl_id))

    def _gpadl_teardown_requested(self, event: events.GpadlTeardownRequested) -> None:
        """Let go of shared memory; of the rings of an open channel only when that is closed."""
        if self._ring_gpadls.get(event.channel_id) == event.gpadl_id:
            self._teardowns_due.add((event.channel_id, event.gpadl_id))
            return
        self.gpadls.get(event.channel_id, {}).pop(event.gpadl_id, None)
        self.react(self.control.gpadl_torn_down(event.channel_id, event.gpadl_id))

    def _open_requested(self, event: events.OpenRequested) -> None:
        channel_id, params = event.channel_id, event.params
        try:
            channel = self.open_channel(channel_id, params)
        except VmbusError as error:
            self.host.note(f"channel {channel_id} cannot be opened: {error}", NoteKind.PROBLEM)
            self.react(self.control.open_finished(channel_id, Status.UNSUCCESSFUL))
            return
        self.react(self.control.open_finished(channel_id, Status.SUCCESS))
        # Only now: a guest that gets packets before the result of its open ignores the interrupt (openvmm #1834).
        self.host.loop.call_soon(channel.service)

    def open_channel(self, channel_id: int, params: events.OpenParams) -> Channel:
        """Map a channel's rings and let its device open it; raises a ``VmbusError`` if either is impossible."""
        assert self.memory is not None
        slot, index = self._slots[channel_id]
        gpadls = self.gpadls.setdefault(channel_id, {})
        ring = gpadls.get(params.ring_gpadl_id)
        if ring is None:
            raise VmbusError(f"its ring GPADL {params.ring_gpadl_id:#x} does not exist")
        device = slot.device
        rings = map_ring_pair(self.memory, ring.page_run(), params.downstream_page_offset, is_guest=False)
        monitor = params.monitor if self.monitor.has_pages else None

        def raise_flag() -> None:
            self._signal(channel, params.event_flag)

        def signal() -> None:
            if monitor is None:
                raise_flag()
            else:
                self.monitor.signal_guest(monitor.monitor_id)

        channel = Channel(
            ChannelIdentity(
                channel_id,
                device.interface_id,
                device.instance_id,
                index,
                user_defined=device.offer.user_defined,
                open_data=params.user_data,
            ),
            rings=rings,
            memory=self.memory,
            loop=self.host.loop,
            signal=signal,
            receives=Direction.GUEST_TO_HOST,
            gpadls=gpadls,
            tap=self.host.tap,
            on_failure=self._channel_failed,
            spinner=self.host.spinner,
        )
        channel.target_vp = params.target_vp
        try:
            channel.handler = device.open(channel)
        except VmbusError:
            channel.close()
            raise
        self.channels[channel_id] = channel
        self._ring_gpadls[channel_id] = params.ring_gpadl_id
        slot.channels[index] = channel
        self._by_connection[params.connection_id] = channel
        if monitor is not None:
            self._monitor_ids[channel_id] = monitor.monitor_id
            self.monitor.watch(
                monitor.monitor_id,
                Monitored(
                    latency=monitor.latency,
                    connection_id=params.connection_id,
                    signal_host=lambda: self.signal_event(0, params.connection_id, 0),
                    signal_guest=raise_flag,
                ),
            )
        self._wake[channel_id] = lambda: self._signal(channel, params.event_flag)
        self.channel_opened(slot, channel)
        return channel

    def _signal(self, channel: Channel, event_flag: int) -> None:
        vp = channel.target_vp
        if vp is None or vp >= len(self.vps):
            return
        if self.host.tap is not None:
            self.host.tap.signal(Direction.HOST_TO_GUEST, channel.channel_id, 0, event_flag)
        if self.interrupt_page is not None:
            self.interrupt_page.to_guest.set(event_flag)
            event_flag = SHARED_EVENT_FLAG
        self.vps[vp].signal_event(VMBUS_SINT, event_flag)

    def use_interrupt_page(self, gpa: int | None) -> None:
        """Signal through the page at this address, or no longer through any."""
        if self.interrupt_page is not None:
            self.interrupt_page.release()
            self.interrupt_page = None
        if gpa is not None:
            assert self.memory is not None
            self.interrupt_page = InterruptPageView.at(self.memory, gpa)

    def shared_event(self) -> None:
        """The guest has signalled the connection that stands for all channels: the page says which."""
        if self.interrupt_page is not None:
            for flag in self.interrupt_page.to_host.take():
                if channel := self.channels.get(flag):
                    channel.on_signal()

    def _channel_failed(self, channel: Channel, error: VmbusError) -> None:
        """The guest broke a rule of this channel: it loses the device, and only that."""
        slot, _ = self._slots[channel.channel_id]
        self.host.note(f"{slot.device.name}: {channel!r} closed: {error}", NoteKind.PROBLEM)
        self._close_channel(channel.channel_id)
        self.host.loop.call_soon(slot.rescind)

    def _close_requested(self, event: events.CloseRequested) -> None:
        slot, index = self.slot_of(event.channel_id)
        if slot is not None and index == 0:
            self._rescind_subchannels(slot)
        self._close_channel(event.channel_id)
        self.react(self.control.close_finished(event.channel_id))
        for channel_id, gpadl_id in [due for due in self._teardowns_due if due[0] == event.channel_id]:
            self._teardowns_due.discard((channel_id, gpadl_id))
            self._gpadl_teardown_requested(events.GpadlTeardownRequested(channel_id, gpadl_id))

    def _close_channel(self, channel_id: int) -> None:
        channel = self.channels.pop(channel_id, None)
        if channel is None:
            return
        slot, index = self._slots[channel_id]
        for connection_id, other in list(self._by_connection.items()):
            if other is channel:
                del self._by_connection[connection_id]
        monitor_id = self._monitor_ids.pop(channel_id, None)
        if monitor_id is not None:
            self.monitor.unwatch(monitor_id)
        channel.close()
        self._ring_gpadls.pop(channel_id, None)
        self._wake.pop(channel_id, None)
        if self.host.servicing is not None:
            self.host.servicing.channel_closed(channel_id)
        slot.channel_closed(index, channel)

    def _channel_released(self, event: events.ChannelReleased) -> None:
        self._close_channel(event.channel_id)
        self._teardowns_due = {due for due in self._teardowns_due if due[0] != event.channel_id}
        self.gpadls.pop(event.channel_id, None)
        if event.gone:
            slot, _ = self._slots.pop(event.channel_id, (None, 0))
            if slot is not None:
                self.offer(slot)

    def _modify_requested(self, event: events.ModifyChannelRequested) -> None:
        channel = self.channels.get(event.channel_id)
        valid = channel is not None and event.target_vp < len(self.vps)
        if channel is not None and valid:
            channel.target_vp = event.target_vp
        self.react(self.control.modify_finished(event.channel_id, Status.SUCCESS if valid else Status.UNSUCCESSFUL))
        if channel is not None:
            self.host.loop.call_soon(channel.service)


def control_traits(traits: OfferTraits) -> ControlTraits:
    """A device's offer in the control plane's words."""
    if traits.hvsocket is not None:
        socket = ControlTraits.hvsocket(to_guest=traits.hvsocket == "connects", silo_id=traits.silo_id)
        return replace(socket, monitor_latency=traits.monitor_latency)
    if traits.pipe is not None:
        pipe_type = PipeType.MESSAGE if traits.pipe == "message" else PipeType.BYTE
        pipe = ControlTraits.pipe(pipe_type, user_defined=traits.user_defined)
        return replace(pipe, monitor_latency=traits.monitor_latency)
    return ControlTraits(
        flags=OfferFlags(traits.flags) | OfferFlags.ENUMERATE_DEVICE_INTERFACE,
        user_defined=traits.user_defined,
        mmio_megabytes=traits.mmio_megabytes,
        monitor_latency=traits.monitor_latency,
    )

"""What a host offers: the traits of a channel, its state, and the book of all channel ids.

Channel ids are given when a device is offered and stay with the offer for as long as it exists, so that a guest which
connects again (after hibernation, or with a second kernel) finds the same ids.  An id is free again only when its
offer is gone: rescinded by the host *and* released by the guest.

Sources: openvmm ``vmbus_server/src/channels.rs`` (``OfferParamsInternal``, ``Channel``, ``AssignedChannels``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import NamedTuple
from uuid import UUID

from vmbus.control.errors import ChannelReleased, TooManyChannels, UnknownChannel, UnknownChannelId
from vmbus.control.host_events import MonitorUse, OpenParams
from vmbus.control.host_states import HostChannel
from vmbus.control.monitors import MonitorIds
from vmbus.control.outbox import Target
from vmbus.wire.control_values import (
    INTERRUPTS_DISABLED,
    MAX_CHANNEL_ID,
    NO_MONITOR,
    FeatureFlags,
    Version,
    signal_connection_id,
)
from vmbus.wire.offer import (
    CONFIDENTIAL,
    HvsockUserDefined,
    OfferChannel,
    OfferFlags,
    PipeFlags,
    PipeType,
    PipeUserDefined,
)
from vmbus.wire.schema import NIL_GUID

NO_OFFER_FLAGS = OfferFlags(0)


@dataclass(frozen=True, slots=True)
class OfferTraits:
    """What a device says about its channel, beside the two ids that name it."""

    flags: OfferFlags = NO_OFFER_FLAGS
    """Bits that the connection's features do not cover are left out of the offer."""
    user_defined: bytes = b""
    """At most 120 bytes for the driver."""
    mmio_megabytes: int = 0
    mmio_megabytes_optional: int = 0
    monitor_latency: int | None = None
    """How late the guest's signals may be, in units of 100 ns, if it may use the monitor page; None: it may not."""
    relayed_monitor_id: int | None = None
    """The monitored notification of a channel that is passed on from another host, which polls for it."""
    order: int | None = None
    """Channels with an order are offered first, lowest first."""

    @classmethod
    def pipe(
        cls, pipe_type: PipeType = PipeType.MESSAGE, *, user_defined: bytes = b"", gpa_direct: bool = False
    ) -> OfferTraits:
        """A device whose packets are framed as a pipe (openvmm ``ChannelType::Pipe``)."""
        flags = PipeFlags.GPA_DIRECT if gpa_direct else PipeFlags(0)
        layout = PipeUserDefined(pipe_type=pipe_type, user_defined=user_defined, flags=flags)
        return cls(OfferFlags.ENUMERATE_DEVICE_INTERFACE | OfferFlags.NAMED_PIPE_MODE, layout.build())

    @classmethod
    def hvsocket(cls, *, to_guest: bool, container: bool = False, silo_id: UUID = NIL_GUID) -> OfferTraits:
        """A Hyper-V socket (openvmm ``ChannelType::HvSocket``); ``to_guest``: the host connects to the guest."""
        layout = HvsockUserDefined(
            is_for_guest_accept=int(to_guest), is_for_guest_container=int(container), silo_id=silo_id
        )
        flags = OfferFlags.ENUMERATE_DEVICE_INTERFACE | OfferFlags.TLNPI_PROVIDER | OfferFlags.NAMED_PIPE_MODE
        return cls(flags, layout.build())


class OfferKey(NamedTuple):
    """What makes an offer the same device as another one."""

    interface_id: UUID
    instance_id: UUID
    subchannel_index: int = 0

    def __str__(self) -> str:
        return f"{self.interface_id} {self.instance_id} {self.subchannel_index}"


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """An OPEN_CHANNEL or OPEN_RESERVED_CHANNEL, as the connection's features let the host understand it."""

    open_id: int
    ring_gpadl_id: int
    downstream_page_offset: int
    target_vp: int
    """INTERRUPTS_DISABLED for none."""
    user_data: bytes
    event_flag: int | None = None
    connection_id: int | None = None
    redirect_interrupt: bool = False


@dataclass(frozen=True, slots=True)
class Reserved:
    """That a channel is in use as a reserved one, outside of any connection (openvmm ``ReservedState``)."""

    target: Target
    """Where answers about it go."""
    version: Version
    features: FeatureFlags
    """What the connection spoke in which it was opened."""
    is_orphan: bool = False
    """That connection is over.  Who is connected now may be another kernel, which was not offered the channel."""


class Restoring(Enum):
    """Where a channel stands between ``restore`` and ``finish_restore`` (openvmm ``RestoreState``)."""

    NOT = "it is not being restored, or it is complete"
    UNMATCHED = "no device has claimed it"
    MATCHED = "its device is back, and has not said whether it goes on"


@dataclass(slots=True)
class Channel:
    """An offered channel at the host's end."""

    key: OfferKey
    traits: OfferTraits
    channel_id: int
    connection_id: int
    monitor_id: int | None = None
    state: HostChannel = HostChannel.RELEASED
    request: OpenRequest | None = None
    """How it is open or being opened."""
    reopen: OpenRequest | None = None
    """How it is to be opened again, in state REOPENING."""
    reserved: Reserved | None = None
    """Not None while it is in use as a reserved channel."""
    modifying: bool = False
    """A ModifyChannelRequested is not answered yet."""
    pending_vp: int | None = None
    """A modification that came meanwhile, below 5.3."""
    restoring: Restoring = Restoring.NOT

    @property
    def name(self) -> str:
        return f"channel {self.channel_id}"

    @property
    def answers_to(self) -> Target | None:
        """Where answers about it go; None: where all messages of the connection go."""
        return self.reserved.target if self.reserved else None

    @property
    def is_orphan(self) -> bool:
        """It is open as a reserved channel, and its connection is over."""
        return self.state is HostChannel.OPEN and self.reserved is not None and self.reserved.is_orphan

    def forget_requests(self) -> None:
        """No device has it open, or will."""
        self.request = self.reopen = self.reserved = None

    def offer_message(self, features: FeatureFlags, *, monitored: bool) -> OfferChannel:
        """The offer, without what this connection cannot use (openvmm ``send_offer``)."""
        traits, flags = self.traits, self.traits.flags
        if not features & FeatureFlags.CONFIDENTIAL_CHANNELS:
            flags &= ~CONFIDENTIAL
        if not features & FeatureFlags.GPA_PINNING:
            flags &= ~OfferFlags.REQUIRE_PINNED_EXTERNAL_MEMORY
        monitor_id = self.monitor_id if monitored else None
        return OfferChannel(
            interface_id=self.key.interface_id,
            instance_id=self.key.instance_id,
            flags=flags,
            mmio_megabytes=traits.mmio_megabytes,
            user_defined=traits.user_defined,
            subchannel_index=self.key.subchannel_index,
            mmio_megabytes_optional=traits.mmio_megabytes_optional,
            channel_id=self.channel_id,
            monitor_id=NO_MONITOR if monitor_id is None else monitor_id,
            monitor_allocated=int(monitor_id is not None),
            connection_id=self.connection_id,
        )

    def open_params(self, request: OpenRequest) -> OpenParams:
        """What the device is told when the channel is opened (openvmm ``OpenParams::from_request``).

        A guest that polls, or that uses the channel as a reserved one, does not use the monitor page for it.
        """
        polls = request.target_vp == INTERRUPTS_DISABLED
        monitor = None
        if self.monitor_id is not None and self.traits.monitor_latency is not None and not polls and not self.reserved:
            monitor = MonitorUse(self.monitor_id, self.traits.monitor_latency)
        return OpenParams(
            ring_gpadl_id=request.ring_gpadl_id,
            downstream_page_offset=request.downstream_page_offset,
            target_vp=None if polls else request.target_vp,
            user_data=request.user_data,
            event_flag=self.channel_id if request.event_flag is None else request.event_flag,
            connection_id=self.connection_id if request.connection_id is None else request.connection_id,
            monitor=monitor,
            redirect_interrupt=request.redirect_interrupt,
            reserved=self.answers_to,
        )

    def with_target_vp(self, target_vp: int) -> None:
        """Remember a changed processor, so that it survives saving."""
        assert self.request is not None
        self.request = replace(self.request, target_vp=target_vp)


@dataclass(slots=True)
class OfferBook:
    """All offered channels by id, and the monitored notifications that they use."""

    vtl: int = 0
    first_channel_id: int = 1
    """Lower ids belong to another server of the same guest."""
    channels: dict[int, Channel] = field(default_factory=dict)
    monitors: MonitorIds = field(default_factory=MonitorIds)

    def __iter__(self) -> Iterator[Channel]:
        return iter(tuple(self.channels.values()))

    def add(self, key: OfferKey, traits: OfferTraits) -> Channel:
        """Give a new offer the lowest free channel id."""
        channel_id = next((n for n in range(self.first_channel_id, MAX_CHANNEL_ID + 1) if n not in self.channels), None)
        if channel_id is None:
            raise TooManyChannels(f"all channel ids from {self.first_channel_id} to {MAX_CHANNEL_ID} are in use")
        channel = Channel(key, traits, channel_id, signal_connection_id(channel_id, vtl=self.vtl))
        self._assign_monitor(channel)
        self.channels[channel_id] = channel
        return channel

    def offer_again(self, channel: Channel, traits: OfferTraits) -> None:
        """The device of a rescinded channel is back, perhaps with other traits."""
        self._free_monitor(channel)
        channel.traits = traits
        self._assign_monitor(channel)

    def remove(self, channel: Channel) -> None:
        """The offer is gone: its id and its monitored notification are free."""
        del self.channels[channel.channel_id]
        self._free_monitor(channel)

    def _assign_monitor(self, channel: Channel) -> None:
        if channel.traits.relayed_monitor_id is not None:
            channel.monitor_id = channel.traits.relayed_monitor_id
        elif channel.traits.monitor_latency is not None:
            channel.monitor_id = self.monitors.assign()

    def _free_monitor(self, channel: Channel) -> None:
        if channel.monitor_id is not None and channel.traits.relayed_monitor_id is None:
            self.monitors.release(channel.monitor_id)
        channel.monitor_id = None

    def find(self, key: OfferKey) -> Channel | None:
        return next((channel for channel in self.channels.values() if channel.key == key), None)

    def own(self, channel_id: int) -> Channel:
        """A channel that our own side names."""
        channel = self.channels.get(channel_id)
        if channel is None:
            raise UnknownChannelId(f"no channel {channel_id} is offered")
        return channel

    def named_by_guest(self, channel_id: int) -> Channel:
        """A channel that the guest names; it must know of it."""
        channel = self.channels.get(channel_id)
        if channel is None:
            raise UnknownChannel(f"channel {channel_id} is not offered")
        if channel.state.is_released:
            raise ChannelReleased(f"channel {channel_id} was not offered to this guest, or it has released it")
        return channel

    def in_order(self) -> list[Channel]:
        """The channels in the order in which a guest is told of them."""

        def position(channel: Channel) -> tuple[bool, int, int]:
            order = channel.traits.order
            return order is None, order or 0, channel.channel_id

        return sorted(self.channels.values(), key=position)

"""What a ``ControlClient`` tells its runtime."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from vmbus.control.events import MonitorPages, ReportedViolation
from vmbus.wire.control_values import ConnectionState, FeatureFlags, Status, Version
from vmbus.wire.offer import OfferChannel, OfferChannelPre7


class GuestEvent:
    """Base of everything that a ``ControlClient`` returns."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Connected(GuestEvent):
    """A version is agreed; the offers have been asked for."""

    version: Version
    features: FeatureFlags
    monitor_pages: MonitorPages | None
    """The pages to use: the host's own, if it provides any."""
    host_monitor_pages: bool


@dataclass(frozen=True, slots=True)
class ConnectFailed(GuestEvent):
    """There is no connection: the host speaks none of the versions, or it said why not."""

    state: ConnectionState | None
    """None: no version in common."""


@dataclass(frozen=True, slots=True)
class ChannelOffered(GuestEvent):
    """The host has a channel."""

    offer: OfferChannel | OfferChannelPre7
    connection_id: int
    """What the guest signals."""

    @property
    def channel_id(self) -> int:
        return self.offer.channel_id


@dataclass(frozen=True, slots=True)
class OffersDelivered(GuestEvent):
    """Those were all that the host had when it was asked."""


@dataclass(frozen=True, slots=True)
class ChannelRescinded(GuestEvent):
    """The host took a channel back: come to an end, then ``release`` it."""

    channel_id: int


@dataclass(frozen=True, slots=True)
class ChannelGone(GuestEvent):
    """A channel has been released: its id may come back as another device."""

    channel_id: int


@dataclass(frozen=True, slots=True)
class GpadlFinished(GuestEvent):
    """The host has taken a GPADL, or not."""

    channel_id: int
    gpadl_id: int
    status: Status


@dataclass(frozen=True, slots=True)
class GpadlTornDown(GuestEvent):
    """The memory of a GPADL is the guest's alone again."""

    channel_id: int
    gpadl_id: int


@dataclass(frozen=True, slots=True)
class OpenFinished(GuestEvent):
    """A channel is open, or not."""

    channel_id: int
    status: Status


@dataclass(frozen=True, slots=True)
class ReservedClosed(GuestEvent):
    """A reserved channel is closed."""

    channel_id: int


@dataclass(frozen=True, slots=True)
class ChannelModified(GuestEvent):
    """A channel interrupts another processor now, or not."""

    channel_id: int
    status: Status


@dataclass(frozen=True, slots=True)
class ConnectionModified(GuestEvent):
    """The connection uses other monitor pages now, or not."""

    state: ConnectionState


@dataclass(frozen=True, slots=True)
class TlConnectFinished(GuestEvent):
    """A socket to the host: its channel, or None if the host refused."""

    endpoint_id: UUID
    service_id: UUID
    channel_id: int | None
    status: Status


@dataclass(frozen=True, slots=True)
class HostSilent(GuestEvent):
    """The host has heard the pause: no message comes until ``resume``."""


@dataclass(frozen=True, slots=True)
class UnloadFinished(GuestEvent):
    """The connection is over; nothing of the guest's memory is shared any more."""


@dataclass(frozen=True, slots=True)
class HostViolation(ReportedViolation, GuestEvent):
    """The host broke a rule."""

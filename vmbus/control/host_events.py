"""What a ``ControlServer`` tells its runtime.  Each request is answered by the method that its docstring names."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from vmbus.control.events import MonitorPages, ReportedViolation
from vmbus.control.outbox import Target
from vmbus.gpadl import GpaRange
from vmbus.wire.control_values import FeatureFlags, Version


@dataclass(frozen=True, slots=True)
class MonitorUse:
    """The monitored notification by which a guest signals a channel."""

    monitor_id: int
    latency: int
    """How late the signal may be, in units of 100 ns."""


@dataclass(frozen=True, slots=True)
class OpenParams:
    """How the guest wants a channel to be opened."""

    ring_gpadl_id: int
    downstream_page_offset: int
    """In pages: where in the GPADL the host-to-guest ring starts."""
    target_vp: int | None
    """The processor to interrupt; None: the guest polls."""
    user_data: bytes
    event_flag: int
    """The flag in the guest's SIEFP page by which the host signals."""
    connection_id: int
    """The connection that the guest will signal."""
    monitor: MonitorUse | None = None
    redirect_interrupt: bool = False
    """Interrupt the redirected SINT and VTL, where there are such."""
    reserved: Target | None = None
    """Not None for a reserved channel: where its answers go."""


class HostEvent:
    """Base of everything that a ``ControlServer`` returns."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Agreement(HostEvent):
    """What a guest asks for and gets, as far as both ends have it."""

    version: Version
    features: FeatureFlags
    monitor_pages: MonitorPages | None
    interrupt_page: int | None
    """Below 2.4: the page with the shared event flags, the host's half first."""
    target_message_vp: int
    client_id: UUID
    trusted: bool


@dataclass(frozen=True, slots=True)
class ContactRequested(Agreement):
    """A guest asks for a connection; answer with ``contact_finished``.  Only from a server that confirms."""


@dataclass(frozen=True, slots=True)
class VersionNegotiated(Agreement):
    """There is a connection."""

    host_monitor_pages: bool
    """The monitor pages are those that the host provided."""


@dataclass(frozen=True, slots=True)
class VersionRefused(HostEvent):
    """A guest asked for a version that is not spoken here; it will ask for another one."""

    version: Version


@dataclass(frozen=True, slots=True)
class ContactForOtherVtl(HostEvent):
    """A guest asks for a server of another VTL; pass the message on to it, if there is one."""

    vtl: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Disconnected(HostEvent):
    """The connection is over and nothing of it is in use: forget its monitor and interrupt pages."""


@dataclass(frozen=True, slots=True)
class Unloaded(HostEvent):
    """The guest has said goodbye (always after ``Disconnected``, if there was a connection)."""


@dataclass(frozen=True, slots=True)
class ResetFinished(HostEvent):
    """The reset that was asked for is complete."""


@dataclass(frozen=True, slots=True)
class OffersRequested(HostEvent):
    """The guest asked for the offers, and they are on their way."""


@dataclass(frozen=True, slots=True)
class OpenRequested(HostEvent):
    """Open a channel; answer with ``open_finished``."""

    channel_id: int
    params: OpenParams


@dataclass(frozen=True, slots=True)
class CloseRequested(HostEvent):
    """Stop using a channel; answer with ``close_finished``."""

    channel_id: int


@dataclass(frozen=True, slots=True)
class GpadlRequested(HostEvent):
    """The guest shares memory; answer with ``gpadl_created`` or ``gpadl_refused``.

    The ranges are consistent in themselves, but nobody has checked that the pages exist: ``vmbus.gpadl.Gpadl`` does.
    """

    channel_id: int
    gpadl_id: int
    ranges: tuple[GpaRange, ...]


@dataclass(frozen=True, slots=True)
class GpadlTeardownRequested(HostEvent):
    """Stop using shared memory; answer with ``gpadl_torn_down``."""

    channel_id: int
    gpadl_id: int


@dataclass(frozen=True, slots=True)
class ChannelReleased(HostEvent):
    """The guest has let go of a channel.  ``gone``: it was rescinded, and its id is free again."""

    channel_id: int
    gone: bool


@dataclass(frozen=True, slots=True)
class ModifyChannelRequested(HostEvent):
    """Interrupt another processor for a channel; answer with ``modify_finished``."""

    channel_id: int
    target_vp: int


@dataclass(frozen=True, slots=True)
class ModifyConnectionRequested(HostEvent):
    """Use other monitor pages, or none; answer with ``modify_connection_finished`` if the server confirms."""

    monitor_pages: MonitorPages | None


@dataclass(frozen=True, slots=True)
class TlConnectRequested(HostEvent):
    """The guest wants a socket to a service: offer a channel with these ids, or call ``tl_connect_result``."""

    endpoint_id: UUID
    service_id: UUID
    silo_id: UUID
    hosted_silo_unaware: bool
    """The guest's version (below 5.2) does not know silos."""


@dataclass(frozen=True, slots=True)
class Paused(HostEvent):
    """The guest wants silence: messages queue up until it resumes."""


@dataclass(frozen=True, slots=True)
class Resumed(HostEvent):
    """The silence is over."""


@dataclass(frozen=True, slots=True)
class ProtocolViolation(ReportedViolation, HostEvent):
    """The guest broke a rule."""


@dataclass(frozen=True, slots=True)
class StrayReply(HostEvent):
    """Our own side answered something that nobody waits for any more, or ever did; it was ignored."""

    what: str

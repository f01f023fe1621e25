"""What all parts of the host's control plane share: its state, its outbox and the events of one call."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from uuid import UUID

from vmbus.control.events import MonitorPages
from vmbus.control.host_events import HostEvent, StrayReply, TlConnectRequested
from vmbus.control.host_states import HostChannel, HostConnection
from vmbus.control.messages import NO_FEATURES, build_message
from vmbus.control.offers import Channel, OfferBook
from vmbus.control.outbox import Outbox, OutgoingMessage, Target
from vmbus.wire.control_values import (
    ALL_FEATURES,
    ALL_VERSIONS,
    MULTICLIENT_CONNECTION_ID,
    FeatureFlags,
    Version,
)
from vmbus.wire.schema import NIL_GUID, Format


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """How a host's control plane is set up; it does not change while the server lives."""

    vtl: int = 0
    message_connection_id: int = MULTICLIENT_CONNECTION_ID
    """Where a guest of 5.0 or newer is told to post its further messages."""
    first_channel_id: int = 1
    max_version: Version = ALL_VERSIONS[-1]
    """The newest version that is spoken."""
    features: FeatureFlags = ALL_FEATURES
    """The features that are offered; CONFIDENTIAL_CHANNELS also needs a trusted contact."""
    monitor_pages: MonitorPages | None = None
    """Pages that the host provides to guests with SERVER_SPECIFIED_MONITOR_PAGES."""
    only_own_monitor_pages: bool = False
    """Monitor pages of the guest cannot be used (a paravisor of a confidential guest)."""
    confirm: bool = False
    """Contacts, modifications and the end of connections wait for our own side (a relay asks its host first)."""
    memory_size: int | None = None
    """Bytes of guest memory; monitor and interrupt pages beyond are refused. None: they are not checked."""
    max_gpadl_words: int = 1 << 20
    """Page numbers that a guest may have announced at one time: 4 GiB worth of pages."""


@dataclass(frozen=True, slots=True)
class Contact:
    """An INITIATE_CONTACT, as its version lets the host understand it."""

    version: Version
    features: FeatureFlags
    target: Target
    target_vtl: int
    parent_to_child: int
    child_to_parent: int
    interrupt_page: int | None
    client_id: UUID
    trusted: bool
    payload: bytes = b""

    @property
    def monitor_pages(self) -> MonitorPages | None:
        return MonitorPages(self.parent_to_child, self.child_to_parent) if self.parent_to_child else None

    @property
    def has_half_of_monitor_pages(self) -> bool:
        return bool(self.parent_to_child) != bool(self.child_to_parent)


@dataclass(slots=True)
class ConnectionInfo:
    """What was agreed with the guest."""

    version: Version
    features: FeatureFlags = NO_FEATURES
    trusted: bool = False
    offers_sent: bool = False
    interrupt_page: int | None = None
    monitor_pages: MonitorPages | None = None
    host_monitor_pages: bool = False
    target_message_vp: int = 0
    modifying: bool = False
    client_id: UUID = NIL_GUID

    @property
    def agreement(self) -> tuple[Version, FeatureFlags, MonitorPages | None, int | None, int, UUID, bool]:
        """The fields of an ``Agreement``."""
        place = self.interrupt_page, self.target_message_vp, self.client_id
        return self.version, self.features, self.monitor_pages, *place, self.trusted


class After(Enum):
    """What is to be done when a connection has ended."""

    NOTHING = "nothing"
    RESET = "reset"
    UNLOAD = "unload"
    UNLOAD_0_13 = "unload, without saying that it is complete"
    CONTACT = "contact"


class ServerBase:
    """State of the host's end, and the two ways out of it: events for our own side, messages for the guest."""

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.connection = HostConnection.DISCONNECTED
        self.info: ConnectionInfo | None = None
        """Not None while connecting or connected."""
        self.after = After.NOTHING
        self.next_contact: Contact | None = None
        """The contact that follows, if ``after`` is CONTACT."""
        self.drained = False
        """Disconnecting, and our own side was asked to confirm it."""
        self.max_version = config.max_version
        self.max_features = config.features
        self._limit_after_unload: tuple[Version, FeatureFlags] | None = None
        self._tl_requests: dict[tuple[UUID, UUID], TlConnectRequested] = {}
        """Sockets that this connection's guest waits for, by endpoint and service id."""
        self.offers = OfferBook(config.vtl, config.first_channel_id)
        self._outbox = Outbox(config.vtl)
        self._events: list[HostEvent] = []

    @property
    def version(self) -> Version | None:
        """The negotiated version while connected."""
        return self.info.version if self.info and self.connection is HostConnection.CONNECTED else None

    @property
    def features(self) -> FeatureFlags:
        """The negotiated features while connected."""
        return self.info.features if self.info and self.connection is HostConnection.CONNECTED else NO_FEATURES

    def outgoing(self) -> list[OutgoingMessage]:
        """The messages for the guest; each is returned once, and is now the caller's to deliver."""
        return self._outbox.take()

    def put_back(self, messages: list[OutgoingMessage]) -> None:
        """Return messages that could not be delivered, before the state is saved."""
        self._outbox.put_back(messages)

    def _speaks(self, version: Version) -> bool:
        return self.version is not None and self.version >= version

    def _emit(self, event: HostEvent) -> None:
        self._events.append(event)

    def _stray(self, what: str) -> None:
        self._emit(StrayReply(what))

    def _take_events(self) -> list[HostEvent]:
        events, self._events = self._events, []
        return events

    def _send(self, body: Format, target: Target | None = None) -> None:
        self._outbox.post(build_message(body), target)

    def _tell(self, body: Format) -> None:
        """Send what belongs to the connection, if there still is one: reserved channels outlive theirs."""
        if self.version is not None:
            self._send(body)

    def _send_offer(self, channel: Channel) -> None:
        assert self.info is not None
        channel.state = HostChannel.OFFERED
        self._send(channel.offer_message(self.info.features, monitored=self.info.monitor_pages is not None))

"""What all parts of the guest's control plane share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from vmbus.control.errors import NotNegotiated, UnknownChannel, UnknownChannelId, WrongState
from vmbus.control.events import MonitorPages
from vmbus.control.guest_events import GuestEvent
from vmbus.control.guest_states import GUEST_CHANNEL, GUEST_GPADL, GuestChannel, GuestConnection, GuestGpadl
from vmbus.control.messages import NO_FEATURES, build_message, sent_in
from vmbus.control.transitions import Step, advance
from vmbus.wire.control_values import (
    MESSAGE_CONNECTION_ID,
    FeatureFlags,
    MessageType,
    Version,
)
from vmbus.wire.offer import OfferChannel, OfferChannelPre7
from vmbus.wire.schema import NIL_GUID, Format


class PostedMessage(NamedTuple):
    """A control message for the host and the connection id that it is posted to."""

    payload: bytes
    connection_id: int


@dataclass(frozen=True, slots=True)
class ContactWish:
    """How the guest wants to connect."""

    versions: tuple[Version, ...]
    """Newest first; those not tried yet."""
    features: FeatureFlags
    target_message_vp: int = 0
    target_sint: int = 2
    target_vtl: int = 0
    monitor_pages: MonitorPages | None = None
    interrupt_page: int = 0
    client_id: UUID = NIL_GUID


@dataclass(slots=True)
class ClientGpadl:
    """Memory that the guest shares."""

    gpadl_id: int
    channel_id: int
    state: GuestGpadl = GuestGpadl.CREATING

    def advance(self, step: Step) -> GuestGpadl:
        self.state = advance(GUEST_GPADL, self.state, step, WrongState, f"GPADL {self.gpadl_id:#x}")
        return self.state

    @property
    def waits(self) -> bool:
        return self.state is not GuestGpadl.CREATED


@dataclass(slots=True)
class ClientChannel:
    """An offered channel at the guest's end."""

    offer: OfferChannel | OfferChannelPre7
    connection_id: int
    """What the guest signals; an open request may change it."""
    state: GuestChannel = GuestChannel.OFFERED
    open_id: int = 0
    event_flag: int = 0
    """What the host sets to interrupt the guest, from the last open request on."""
    is_redirected: bool = False
    """The last open request asked for its interrupts at the redirected SINT."""
    modifying: bool = False
    released: bool = False
    """The driver has let go; the host hears of it when nothing is due any more."""
    gpadls: dict[int, ClientGpadl] = field(default_factory=dict)

    @property
    def channel_id(self) -> int:
        return self.offer.channel_id

    @property
    def name(self) -> str:
        return f"channel {self.offer.channel_id}"

    @property
    def redirected_flag(self) -> int | None:
        """The event flag of the redirected SINT that is its own, while it is open or being opened."""
        in_use = self.state in (GuestChannel.OPENING, GuestChannel.OPEN)
        return self.event_flag if self.is_redirected and in_use else None

    def advance(self, step: Step) -> GuestChannel:
        self.state = advance(GUEST_CHANNEL, self.state, step, WrongState, self.name)
        return self.state

    @property
    def waits(self) -> bool:
        """Whether an answer about it is due."""
        return self.modifying or any(gpadl.waits for gpadl in self.gpadls.values())


class ClientBase:
    """State of the guest's end, and the two ways out of it: events for our own side, messages for the host."""

    def __init__(self) -> None:
        self.connection = GuestConnection.DISCONNECTED
        self.version: Version | None = None
        """Agreed, or being asked for."""
        self.features = NO_FEATURES
        self.monitor_pages: MonitorPages | None = None
        self.host_monitor_pages = False
        self.channels: dict[int, ClientChannel] = {}
        self._wish = ContactWish((), NO_FEATURES)
        self._message_connection = MESSAGE_CONNECTION_ID
        self._unload_when_answered = False
        self._reserved_version = Version.V4_0
        """What was spoken when the last reserved channel was opened."""
        self._modifying = False
        self._pauses_unanswered = 0
        self._held: list[PostedMessage] | None = None
        """Not None while the host is asked for silence: messages wait here until ``resume``."""
        self._tl_requests: list[tuple[UUID, UUID]] = []
        """Endpoint and service ids of sockets that were asked for and not answered."""
        self._outbox: list[PostedMessage] = []
        self._events: list[GuestEvent] = []

    def outgoing(self) -> list[PostedMessage]:
        """The messages for the host; each is returned once, and is now the caller's to post, in order."""
        posted, self._outbox = self._outbox, []
        return posted

    @property
    def is_connected(self) -> bool:
        """A version is agreed and the guest has not ended the connection."""
        return self.connection in (GuestConnection.GETTING_OFFERS, GuestConnection.CONNECTED)

    def _emit(self, event: GuestEvent) -> None:
        self._events.append(event)

    def _take_events(self) -> list[GuestEvent]:
        events, self._events = self._events, []
        return events

    @property
    def is_paused(self) -> bool:
        """The host was asked for silence, and our own messages wait too."""
        return self._held is not None

    def _send(self, body: Format) -> None:
        queue = self._outbox if self._held is None else self._held
        queue.append(PostedMessage(build_message(body), self._message_connection))

    def _require(self, message_type: MessageType) -> None:
        """Raise unless the connection is there and has this message."""
        if not self.is_connected or self.version is None:
            raise WrongState("there is no connection to the host")
        if not sent_in(message_type, self.version, self.features):
            raise NotNegotiated(f"{message_type} needs another version or features than {self.version.number} has here")

    def _own(self, channel_id: int) -> ClientChannel:
        """A channel that our own side names."""
        channel = self.channels.get(channel_id)
        if channel is None:
            raise UnknownChannelId(f"the host offers no channel {channel_id}")
        return channel

    def _named_by_host(self, channel_id: int) -> ClientChannel:
        """A channel that the host names."""
        channel = self.channels.get(channel_id)
        if channel is None:
            raise UnknownChannel(f"channel {channel_id} was not offered")
        return channel

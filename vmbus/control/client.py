"""The guest's end of the control plane: bytes in, events and bytes out.

    client = ControlClient()
    client.connect(monitor_pages=pages)
    for message in client.outgoing():
        ...                                     # post it to message.connection_id
    for event in client.receive(payload):
        ...                                     # ChannelOffered: create a GPADL for the rings, open

The rules are in ``guest_states`` (essay and tables) and in ``client_channels``;
``client_saved`` carries them across a restart.  Nothing that a host sends
raises; asking for what the state or the negotiated version does not allow does (``Misuse``).

Source: openvmm ``vmbus_client/src/lib.rs`` (``ClientTask``) and ``hvsock.rs``; Linux 6.12
``drivers/hv/connection.c``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from uuid import UUID

from vmbus.control.client_base import ContactWish
from vmbus.control.client_saved import ClientSaved
from vmbus.control.errors import (
    BadMonitorPages,
    MalformedMessage,
    Misuse,
    UnsolicitedMessage,
    Violation,
    WrongDirection,
    WrongState,
)
from vmbus.control.events import MonitorPages
from vmbus.control.guest_events import (
    Connected,
    ConnectFailed,
    ConnectionModified,
    GuestEvent,
    HostSilent,
    HostViolation,
    OffersDelivered,
    TlConnectFinished,
    UnloadFinished,
)
from vmbus.control.guest_states import GUEST_CONNECTION, RESERVED, GuestConnection
from vmbus.control.messages import NO_FEATURES, parse_message, sent_in
from vmbus.control.transitions import Step, advance
from vmbus.wire import control
from vmbus.wire.control_values import (
    ALL_FEATURES,
    ALL_VERSIONS,
    MESSAGE_CONNECTION_ID,
    MULTICLIENT_CONNECTION_ID,
    REDIRECT_MESSAGE_CONNECTION_ID,
    REDIRECT_VTL,
    ConnectionState,
    FeatureFlags,
    MessageType,
    Status,
    Version,
)
from vmbus.wire.offer import HvsockUserDefined, OfferChannel, OfferChannelPre7, OfferFlags
from vmbus.wire.schema import NIL_GUID, Buffer, Format

_WITHOUT_A_CONNECTION = frozenset(
    {
        MessageType.VERSION_RESPONSE,
        MessageType.UNLOAD_COMPLETE,
        MessageType.OPEN_CHANNEL_RESULT,
        MessageType.CLOSE_RESERVED_RESPONSE,
    }
)
"""What may come while there is none; the latter two because of reserved channels."""


class ControlClient(ClientSaved):
    """A guest's control plane."""

    def __init__(self) -> None:
        super().__init__()
        handlers: dict[MessageType, Callable[..., object]] = {
            MessageType.OFFER_CHANNEL: self._on_any_offer,
            MessageType.RESCIND_CHANNEL_OFFER: self._on_rescind,
            MessageType.ALL_OFFERS_DELIVERED: lambda body: self._on_all_offers_delivered(),
            MessageType.OPEN_CHANNEL_RESULT: self._on_open_result,
            MessageType.GPADL_CREATED: self._on_gpadl_created,
            MessageType.GPADL_TORNDOWN: self._on_gpadl_torndown,
            MessageType.VERSION_RESPONSE: self._on_version_response,
            MessageType.UNLOAD_COMPLETE: lambda body: self._on_unload_complete(),
            MessageType.CLOSE_RESERVED_RESPONSE: self._on_close_reserved_response,
            MessageType.TL_CONNECT_RESULT: self._on_tl_connect_result,
            MessageType.MODIFY_CHANNEL_RESPONSE: self._on_modify_channel_response,
            MessageType.MODIFY_CONNECTION_RESPONSE: self._on_modify_connection_response,
            MessageType.PAUSE_RESPONSE: lambda body: self._on_pause_response(),
        }
        self._handlers = handlers

    def receive(self, payload: Buffer) -> list[GuestEvent]:
        """Take one control message from the message slot, and say what follows from it."""
        payload = bytes(payload)
        try:
            message = parse_message(payload, self._spoken, self.features)
            handler = self._handlers.get(message.message_type)
            if handler is None:
                raise WrongDirection(f"{message.message_type} is a message that only guests send")
            if self.is_connected or message.message_type in _WITHOUT_A_CONNECTION:
                handler(message.body)
            elif self.connection is GuestConnection.DISCONNECTING:
                self._on_crossing(message.body)
            else:
                raise UnsolicitedMessage(f"{message.message_type} came without a connection")
        except Violation as error:
            self._emit(HostViolation(error, payload))
        return self._take_events()

    @property
    def _spoken(self) -> Version | None:
        """The version of what the host may send now; answers about reserved channels are of their own version."""
        # While it is being negotiated, the version is only a wish.
        version = None if self.connection is GuestConnection.CONNECTING else self.version
        if not any(channel.state in RESERVED for channel in self.channels.values()):
            return version
        return self._reserved_version if version is None else max(version, self._reserved_version)

    # Connection

    def connect(
        self,
        *,
        versions: Iterable[Version] = ALL_VERSIONS,
        features: FeatureFlags = ALL_FEATURES,
        target_message_vp: int = 0,
        target_sint: int = 2,
        target_vtl: int = 0,
        monitor_pages: MonitorPages | None = None,
        interrupt_page: int = 0,
        client_id: UUID = NIL_GUID,
    ) -> None:
        """Ask for a connection, trying the versions from the newest to the oldest.

        ``Connected`` or ``ConnectFailed`` follows, then ``ChannelOffered`` for each channel and ``OffersDelivered``.
        """
        if self.connection is not GuestConnection.DISCONNECTED:
            raise WrongState(f"the connection is {self.connection.value}: it cannot be made now")
        tried = tuple(sorted(versions, reverse=True))
        if not tried:
            raise Misuse("no version to connect with")
        self._wish = ContactWish(
            versions=tried,
            features=features,
            target_message_vp=target_message_vp,
            target_sint=target_sint,
            target_vtl=target_vtl,
            monitor_pages=monitor_pages,
            interrupt_page=interrupt_page,
            client_id=client_id,
        )
        self._advance(Step.CONTACT)
        self._try_next_version()

    def _try_next_version(self) -> None:
        wish = self._wish
        version, self._wish = wish.versions[0], replace(wish, versions=wish.versions[1:])
        self.version, self.features = version, NO_FEATURES
        pages = wish.monitor_pages or MonitorPages(0, 0)
        if version < Version.V5_0:
            self._message_connection = MESSAGE_CONNECTION_ID
            self._send(
                control.InitiateContact(
                    version=version,
                    target_message_vp=wish.target_message_vp,
                    interrupt_page=wish.interrupt_page,
                    parent_to_child_monitor_page=pages.parent_to_child,
                    child_to_parent_monitor_page=pages.child_to_parent,
                )
            )
            return
        redirected = wish.target_vtl == REDIRECT_VTL
        self._message_connection = REDIRECT_MESSAGE_CONNECTION_ID if redirected else MULTICLIENT_CONNECTION_ID
        contact = control.InitiateContact6(
            version=version,
            target_message_vp=wish.target_message_vp,
            target_sint=wish.target_sint,
            target_vtl=wish.target_vtl,
            features=wish.features if version >= Version.V6_0 else NO_FEATURES,
            parent_to_child_monitor_page=pages.parent_to_child,
            child_to_parent_monitor_page=pages.child_to_parent,
            client_id=wish.client_id,
        )
        self._send(contact if version >= Version.V6_0 else control.InitiateContact5.parse(contact.build()))

    def _on_version_response(self, body: control.VersionResponse) -> None:
        if self.connection is GuestConnection.DISCONNECTING:
            return  # it crossed our unload
        if self.connection is not GuestConnection.CONNECTING or self.version is None:
            raise UnsolicitedMessage("a version was answered, but none was asked for")
        if self._unload_when_answered:
            self._unload_when_answered = False
            self._advance(Step.UNLOAD)
            if body.version_supported:
                self._send(control.Unload())
            self._on_unload_complete()
            return
        if not body.version_supported:
            if self._wish.versions:
                self._try_next_version()
            else:
                self._connect_failed(None)
            return
        # Hosts before 2.4 say nothing but yes or no.
        if self.version >= Version.V2_4 and body.connection_state is not ConnectionState.SUCCESSFUL:
            self._connect_failed(body.connection_state)
            return
        self._accept(body, self.version)

    def _connect_failed(self, state: ConnectionState | None) -> None:
        self._advance(Step.DECLINED)
        self.version = None
        self._emit(ConnectFailed(state))

    def _accept(self, body: control.VersionResponse, version: Version) -> None:
        features = NO_FEATURES
        if version >= Version.V6_0 and isinstance(body, control.VersionResponse2):
            # A host cannot give more than was asked for.
            features = body.features & self._wish.features
        pages, from_host = self._wish.monitor_pages, False
        if features & FeatureFlags.SERVER_SPECIFIED_MONITOR_PAGES:
            if not isinstance(body, control.VersionResponse3) or not body.child_to_parent_monitor_page:
                self._connect_failed(ConnectionState.FAILED_UNKNOWN_FAILURE)
                raise BadMonitorPages("the host says that it provides monitor pages, and does not")
            pages = MonitorPages(body.parent_to_child_monitor_page, body.child_to_parent_monitor_page)
            from_host = True
        self.features, self.monitor_pages, self.host_monitor_pages = features, pages, from_host
        if version >= Version.V5_0:
            self._message_connection = body.version_or_connection_id
        self._advance(Step.ACCEPTED)
        self._emit(Connected(version, features, pages, from_host))
        self._send(control.RequestOffers())

    def _on_all_offers_delivered(self) -> None:
        if self.connection is not GuestConnection.GETTING_OFFERS:
            raise UnsolicitedMessage("all offers were delivered already")
        self._advance(Step.DELIVERED)
        self._emit(OffersDelivered())

    def unload(self) -> list[GuestEvent]:
        """End the connection.  ``UnloadFinished`` follows; until then the host may use the guest's memory.

        A host of 0.13 does not confirm it, so it follows at once.  Reserved channels stay.
        """
        if self.connection is GuestConnection.DISCONNECTED:
            self._emit(UnloadFinished())
            return self._take_events()
        if self.connection is GuestConnection.DISCONNECTING:
            raise WrongState("the connection is being ended already")
        confirmed = self.version is not None and sent_in(MessageType.UNLOAD_COMPLETE, self.version)
        if self.connection is GuestConnection.CONNECTING and not confirmed:
            # Without a confirmation, a late answer to this contact would be taken for one to the next.
            self._unload_when_answered = True
            return self._take_events()
        if self._held:
            self.resume()  # what waited may be about reserved channels, which stay
        self._advance(Step.UNLOAD)
        self._held = None  # an unload ends a pause
        self._send(control.Unload())
        if not confirmed:
            self._on_unload_complete()
        return self._take_events()

    def _on_unload_complete(self) -> None:
        if self.connection is not GuestConnection.DISCONNECTING:
            raise UnsolicitedMessage("an unload was confirmed, but none was asked for")
        self._advance(Step.DRAINED)
        self._modifying, self._pauses_unanswered = False, 0
        self._tl_requests.clear()
        for channel in list(self.channels.values()):
            if channel.state not in RESERVED:
                self._drop(channel)
        for gpadl in [gpadl for gpadl in self.gpadls.values() if gpadl.waits]:
            self._forget_gpadl(gpadl)  # of a reserved channel: no answer comes any more
        self.monitor_pages, self.host_monitor_pages = None, False
        self.version, self.features = None, NO_FEATURES
        self._emit(UnloadFinished())

    def _on_crossing(self, body: Format) -> None:
        """What the host said before it heard of our unload matters to reserved channels alone: those stay."""
        if isinstance(body, control.RescindChannelOffer):
            channel = self.channels.get(body.channel_id)
            if channel is not None and channel.state in RESERVED:
                self._on_rescind(body)

    def modify_connection(self, monitor_pages: MonitorPages | None) -> None:
        """Use other monitor pages, or none.  ``ConnectionModified`` follows."""
        self._require(MessageType.MODIFY_CONNECTION)
        if self._modifying:
            raise WrongState("the connection is being modified already")
        if self.host_monitor_pages:
            raise WrongState("the host provides the monitor pages")
        self._modifying = True
        self.monitor_pages = monitor_pages
        pages = monitor_pages or MonitorPages(0, 0)
        self._send(
            control.ModifyConnection(
                parent_to_child_monitor_page=pages.parent_to_child,
                child_to_parent_monitor_page=pages.child_to_parent,
            )
        )

    def _on_modify_connection_response(self, body: control.ModifyConnectionResponse) -> None:
        if not self._modifying:
            raise UnsolicitedMessage("the connection is not being modified")
        self._modifying = False
        self._emit(ConnectionModified(body.connection_state))

    def pause(self) -> None:
        """Ask the host for silence, so that the message slot can be drained.  ``HostSilent`` follows.

        Until ``resume`` the host wants to hear nothing either, so what is sent meanwhile waits (openvmm ``pause``).
        """
        self._require(MessageType.PAUSE)
        if self._held is not None:
            raise WrongState("the host was asked for silence already")
        self._send(control.Pause())
        self._held = []
        self._pauses_unanswered += 1

    def _on_pause_response(self) -> None:
        if not self._pauses_unanswered:
            raise UnsolicitedMessage("no pause was asked for")
        self._pauses_unanswered -= 1
        self._emit(HostSilent())

    def resume(self) -> None:
        """End the silence: what has waited is sent."""
        self._require(MessageType.RESUME)
        if self._held is None:
            raise WrongState("the host was not asked for silence")
        held, self._held = self._held, None
        self._send(control.Resume())
        self._outbox += held

    # Sockets

    def tl_connect(self, endpoint_id: UUID, service_id: UUID, *, silo_id: UUID = NIL_GUID) -> None:
        """Ask for a socket to a service of the host.

        An offer and ``TlConnectFinished`` follow, but a host may also never answer.
        """
        self._require(MessageType.TL_CONNECT_REQUEST)
        if (endpoint_id, service_id) in self._tl_requests:
            raise WrongState(f"a socket of {endpoint_id} to {service_id} has been asked for already")
        self._tl_requests.append((endpoint_id, service_id))
        request = control.TlConnectRequest2(endpoint_id=endpoint_id, service_id=service_id, silo_id=silo_id)
        newer = self.version is not None and self.version >= Version.V5_2
        self._send(request if newer else control.TlConnectRequest.parse(request.build()))

    def _on_tl_connect_result(self, body: control.TlConnectResult) -> None:
        request = (body.endpoint_id, body.service_id)
        if body.status.succeeded:
            raise MalformedMessage("a socket's success is said by its offer, not by a result")
        if request not in self._tl_requests:
            raise UnsolicitedMessage(f"no socket to {body.service_id} was asked for")
        self._tl_requests.remove(request)
        self._emit(TlConnectFinished(*request, None, body.status))

    def _on_any_offer(self, offer: OfferChannel | OfferChannelPre7) -> None:
        channel = self._on_offer(offer)
        request = (offer.instance_id, offer.interface_id)
        is_socket = offer.flags & OfferFlags.TLNPI_PROVIDER
        answers = is_socket and not HvsockUserDefined.parse(offer.user_defined).is_for_guest_accept
        if answers and request in self._tl_requests:
            self._tl_requests.remove(request)
            self._emit(TlConnectFinished(*request, channel.channel_id, Status.SUCCESS))

    def _advance(self, step: Step) -> None:
        self.connection = advance(GUEST_CONNECTION, self.connection, step, WrongState, "the connection")

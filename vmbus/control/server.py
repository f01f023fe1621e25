"""The host's end of the control plane: bytes in, events and bytes out.

    server = ControlServer()
    channel_id = server.offer(interface_id, instance_id, OfferTraits())
    for event in server.receive(payload):
        ...                                     # open the device, map the memory, answer
    for message in server.outgoing():
        ...                                     # put it into the guest's message slot

The rules are in ``host_states`` (essay and tables) and in the modules that this class is made of:
``server_connection`` over ``server_channels`` over ``server_gpadls`` over ``server_base``.  Nothing that a guest
sends raises; our own side's mistakes do (``Misuse``), but for answers that crossed something, which are reported as
``StrayReply``.

Every method that can make something happen returns the events of that call.
"""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from vmbus.control.errors import (
    AlreadyOffered,
    MessageDuringReset,
    MessageWhilePaused,
    UntrustedMessage,
    Violation,
    WrongDirection,
    WrongState,
)
from vmbus.control.events import MonitorPages
from vmbus.control.host_events import HostEvent, ProtocolViolation, ResetFinished, Resumed
from vmbus.control.host_states import HOST_CHANNEL, HostChannel, HostConnection
from vmbus.control.messages import ControlMessage, parse_message
from vmbus.control.offers import Channel, OfferKey, OfferTraits, Restoring
from vmbus.control.server_base import After, ServerConfig
from vmbus.control.server_saved import ServerSaved
from vmbus.control.transitions import Step, advance
from vmbus.wire import control
from vmbus.wire.control_values import (
    MULTICLIENT_CONNECTION_ID,
    ConnectionState,
    FeatureFlags,
    MessageType,
    Status,
    Version,
)
from vmbus.wire.schema import Buffer

_ALLOWED_WHILE_PAUSED = frozenset({MessageType.RESUME, MessageType.UNLOAD, MessageType.INITIATE_CONTACT})


class ControlServer(ServerSaved):
    """One guest's control plane, at the host."""

    def __init__(self, config: ServerConfig | None = None) -> None:
        super().__init__(config or ServerConfig())
        handlers: dict[MessageType, Callable[..., None]] = {
            MessageType.REQUEST_OFFERS: lambda body: self._on_request_offers(),
            MessageType.OPEN_CHANNEL: self._on_open_channel,
            MessageType.CLOSE_CHANNEL: self._on_close_channel,
            MessageType.GPADL_HEADER: self._on_gpadl_header,
            MessageType.GPADL_BODY: self._on_gpadl_body,
            MessageType.GPADL_TEARDOWN: self._on_gpadl_teardown,
            MessageType.REL_ID_RELEASED: self._on_rel_id_released,
            MessageType.UNLOAD: lambda body: self._on_unload(),
            MessageType.OPEN_RESERVED_CHANNEL: self._on_open_reserved,
            MessageType.CLOSE_RESERVED_CHANNEL: self._on_close_reserved,
            MessageType.TL_CONNECT_REQUEST: self._on_tl_connect,
            MessageType.MODIFY_CHANNEL: self._on_modify_channel,
            MessageType.MODIFY_CONNECTION: self._on_modify_connection,
            MessageType.PAUSE: lambda body: self._on_pause(),
            MessageType.RESUME: lambda body: None,
        }
        self._handlers = handlers

    # From the guest

    def receive(
        self, payload: Buffer, *, connection_id: int = MULTICLIENT_CONNECTION_ID, trusted: bool = False
    ) -> list[HostEvent]:
        """Take one control message that the guest posted, and say what follows from it.

        ``connection_id`` is where it was posted: only on others than 1 does a contact choose a SINT and VTL.
        ``trusted``: it came through the paravisor's own synic, not through the hypervisor's.
        """
        payload = bytes(payload)
        try:
            self._dispatch(payload, connection_id, trusted)
        except Violation as error:
            self._emit(ProtocolViolation(error, payload))
        return self._take_events()

    def _dispatch(self, payload: bytes, connection_id: int, trusted: bool) -> None:
        if self.is_resetting:
            raise MessageDuringReset("a message came while the virtual machine is being reset")
        message = parse_message(payload, self.version, self.features)
        if self.info and self.info.trusted and not trusted:
            raise UntrustedMessage(f"{message.message_type} came untrusted for a trusted connection")
        self._end_pause(message)
        if message.message_type is MessageType.INITIATE_CONTACT:
            body = message.body
            assert isinstance(body, control.InitiateContact | control.InitiateContact5)
            self._on_initiate_contact(body, payload, connection_id, trusted)
            return
        handler = self._handlers.get(message.message_type)
        if handler is None:
            raise WrongDirection(f"{message.message_type} is a message that only hosts send")
        handler(message.body)
        self._check_drained()

    def _end_pause(self, message: ControlMessage) -> None:
        if not self._outbox.paused:
            return
        if message.message_type not in _ALLOWED_WHILE_PAUSED:
            raise MessageWhilePaused(f"{message.message_type} came while the connection is paused")
        self._outbox.resume()
        self._emit(Resumed())

    # From our own side

    def offer(
        self,
        interface_id: UUID,
        instance_id: UUID,
        traits: OfferTraits | None = None,
        *,
        subchannel_index: int = 0,
    ) -> int:
        """Offer a channel and return its id; a guest that has asked for offers is told at once.

        A device that was rescinded, and that the guest has not released yet, keeps its id and is offered again after
        the release.  Raises ``AlreadyOffered`` and ``TooManyChannels``.
        """
        traits = traits or OfferTraits()
        key = OfferKey(interface_id, instance_id, subchannel_index)
        known = self.offers.find(key)
        if known is not None and known.restoring is Restoring.UNMATCHED:
            return self._match_restored(known, traits)
        if known is not None and known.state is HostChannel.RESCINDED:
            known.state = advance(HOST_CHANNEL, known.state, Step.OFFER, AlreadyOffered, known.name)
            self.offers.offer_again(known, traits)
            return known.channel_id
        if known is not None:
            raise AlreadyOffered(f"{key} is offered already, as channel {known.channel_id}")
        channel = self.offers.add(key, traits)
        self._tl_requests.pop((instance_id, interface_id), None)
        if self.info and self.info.offers_sent and self.connection is HostConnection.CONNECTED:
            self._send_offer(channel)
        return channel.channel_id

    def rescind(self, channel_id: int) -> list[HostEvent]:
        """Take a channel back.  The device must let go of it itself, its memory included; no more is asked of it."""
        self._rescind(self.offers.own(channel_id))
        return self._settled()

    def open_finished(self, channel_id: int, status: Status = Status.SUCCESS) -> list[HostEvent]:
        """Answer an ``OpenRequested``."""
        if channel := self._answered(channel_id):
            self._open_finished(channel, status)
        return self._settled()

    def close_finished(self, channel_id: int) -> list[HostEvent]:
        """Answer a ``CloseRequested``."""
        if channel := self._answered(channel_id):
            self._close_finished(channel)
        return self._settled()

    def gpadl_created(self, channel_id: int, gpadl_id: int) -> list[HostEvent]:
        """Accept a ``GpadlRequested``."""
        self._gpadl_answered(channel_id, gpadl_id, Status.SUCCESS)
        return self._settled()

    def gpadl_refused(self, channel_id: int, gpadl_id: int, status: Status = Status.UNSUCCESSFUL) -> list[HostEvent]:
        """Refuse a ``GpadlRequested``."""
        self._gpadl_answered(channel_id, gpadl_id, status)
        return self._settled()

    def gpadl_torn_down(self, channel_id: int, gpadl_id: int) -> list[HostEvent]:
        """Answer a ``GpadlTeardownRequested``: nothing looks at the memory any more."""
        self._gpadl_torn_down(channel_id, gpadl_id)
        return self._settled()

    def modify_finished(self, channel_id: int, status: Status = Status.SUCCESS) -> list[HostEvent]:
        """Answer a ``ModifyChannelRequested``: the old processor gets no more interrupts."""
        if channel := self._answered(channel_id):
            self._modify_finished(channel, status)
        return self._settled()

    def tl_connect_result(self, endpoint_id: UUID, service_id: UUID, *, success: bool) -> list[HostEvent]:
        """Answer a ``TlConnectRequested``.  Only a refusal is a message: success is the offer (openvmm)."""
        if self._tl_requests.pop((endpoint_id, service_id), None) is None:
            self._stray(f"a socket to {service_id} was answered for, and no guest waits for it any more")
        elif not success and self._speaks(Version.V4_1):
            status = Status.CONNECTION_REFUSED
            self._send(control.TlConnectResult(endpoint_id=endpoint_id, service_id=service_id, status=status))
        return self._settled()

    def contact_finished(
        self,
        state: ConnectionState = ConnectionState.SUCCESSFUL,
        *,
        features: FeatureFlags | None = None,
        monitor_pages: MonitorPages | None = None,
    ) -> list[HostEvent]:
        """Answer a ``ContactRequested``: what the other side says, the features it has, and pages that it provides."""
        if self.connection is not HostConnection.CONNECTING or self.info is None:
            self._stray("a contact was confirmed, but nobody asked")
            return self._take_events()
        features = self.max_features if features is None else features
        wanted = self.info.features & FeatureFlags.SERVER_SPECIFIED_MONITOR_PAGES
        self._contact_finished(self.info, state, features, monitor_pages if wanted else None)
        return self._settled()

    def contact_unsupported(self) -> list[HostEvent]:
        """Answer a ``ContactRequested``: the other side does not speak the version."""
        if self.connection is not HostConnection.CONNECTING or self.info is None:
            self._stray("a contact was refused, but nobody asked")
            return self._take_events()
        version, self.info = self.info.version, None
        self._advance(Step.DECLINED)
        self._refuse(version)
        self._do_next()
        return self._settled()

    def disconnect_finished(self) -> list[HostEvent]:
        """Answer a ``Disconnected``, if this server confirms."""
        if not self.drained:
            self._stray("the end of a connection was confirmed, but nobody asked")
        else:
            self._disconnect_finished()
        return self._settled()

    def modify_connection_finished(self, state: ConnectionState = ConnectionState.SUCCESSFUL) -> list[HostEvent]:
        """Answer a ``ModifyConnectionRequested``, if this server confirms."""
        if self.info is None or not self.info.modifying:
            self._stray("the connection was modified, but nobody asked for it")
        else:
            self._modify_response(state)
        return self._settled()

    def limit(self, version: Version, features: FeatureFlags, *, after_unload: bool = False) -> None:
        """Speak no newer version and no other features in the next contact, or only after the next unload.

        The latter lets the guest's firmware connect as it likes and limits the system that it starts.
        """
        if after_unload:
            self._limit_after_unload = (version, features)
        else:
            self.max_version, self.max_features = version, features

    def reset(self) -> list[HostEvent]:
        """The virtual machine is reset: close everything, reserved channels too.  ``ResetFinished`` follows."""
        if self.is_resetting:
            raise WrongState("a reset is going on already")
        if self._end_connection(Step.RESET, After.RESET):
            self._outbox.clear()
            self._emit(ResetFinished())
        return self._settled()

    @property
    def is_resetting(self) -> bool:
        """A reset waits for devices; the guest must not speak until it is finished."""
        return self.after is After.RESET

    def _answered(self, channel_id: int) -> Channel | None:
        """The channel that an answer is about; it may have gone while the device thought about it."""
        channel = self.offers.channels.get(channel_id)
        if channel is None:
            self._stray(f"channel {channel_id} was answered for, and is not offered any more")
        return channel

    def _settled(self) -> list[HostEvent]:
        self._check_drained()
        return self._take_events()

"""The connection at the host's end: contact, offers, unload, reset, pause, monitor pages.

Source: openvmm ``vmbus_server/src/channels.rs`` (``handle_initiate_contact``, ``initiate_contact``,
``complete_initiate_contact``, ``check_version_supported``, ``send_version_response_with_target``,
``request_disconnect``, ``check_disconnected``, ``handle_unload``, ``handle_request_offers``, ``modify_connection``,
``handle_pause``).
"""

from __future__ import annotations

from dataclasses import replace

from vmbus.control.errors import BadMonitorPages, MessageTooShort, OffersAlreadySent
from vmbus.control.events import MonitorPages
from vmbus.control.host_events import (
    ContactForOtherVtl,
    ContactRequested,
    Disconnected,
    ModifyConnectionRequested,
    OffersRequested,
    Paused,
    ProtocolViolation,
    ResetFinished,
    TlConnectRequested,
    Unloaded,
    VersionNegotiated,
    VersionRefused,
)
from vmbus.control.host_states import HOST_CONNECTION, HostChannel, HostConnection
from vmbus.control.messages import NO_FEATURES, sent_in
from vmbus.control.outbox import Target
from vmbus.control.server_base import After, ConnectionInfo, Contact
from vmbus.control.server_channels import ServerChannels
from vmbus.control.transitions import Step
from vmbus.memory import PAGE_SIZE
from vmbus.wire import control
from vmbus.wire.control_values import (
    ALL_FEATURES,
    MESSAGE_CONNECTION_ID,
    VMBUS_SINT,
    ConnectionState,
    FeatureFlags,
    MessageType,
    Version,
)
from vmbus.wire.schema import NIL_GUID

_F = FeatureFlags
_LOCAL_FEATURES = _F.CLIENT_ID | _F.CONFIDENTIAL_CHANNELS | _F.GPA_PINNING
"""What a host can do without help from another host that it relays for."""

_STEPS = {
    After.CONTACT: Step.CONTACT,
    After.RESET: Step.RESET,
    After.UNLOAD: Step.UNLOAD,
    After.UNLOAD_0_13: Step.UNLOAD,
}

AnyContact = control.InitiateContact | control.InitiateContact5


class ServerConnection(ServerChannels):
    """The rules about the connection."""

    # Contact

    def _on_initiate_contact(self, body: AnyContact, payload: bytes, connection_id: int, trusted: bool) -> None:
        contact = replace(self._as_contact(body, connection_id, trusted), payload=payload)
        if contact.target_vtl != self.config.vtl:
            self._emit(ContactForOtherVtl(contact.target_vtl, payload))
        elif contact.target.sint != VMBUS_SINT:
            self._send(control.VersionResponse(version_supported=0), contact.target)
            self._emit(VersionRefused(contact.version))
        elif self._end_connection(Step.CONTACT, After.CONTACT, contact):
            self._negotiate(contact)

    def _as_contact(self, body: AnyContact, connection_id: int, trusted: bool) -> Contact:
        """The contact without the fields that its version does not have."""
        version = body.version
        sint, vtl, features, interrupt_page, client_id = VMBUS_SINT, 0, NO_FEATURES, None, NIL_GUID
        if isinstance(body, control.InitiateContact):
            # From 2.4 on every channel has its own event, so the shared page is not looked at.
            interrupt_page = body.interrupt_page or None if version < Version.V2_4 else None
        else:
            if connection_id != MESSAGE_CONNECTION_ID:
                sint = body.target_sint
                vtl = body.target_vtl if version >= Version.V5_1 else 0
            features = body.features if version >= Version.V6_0 else NO_FEATURES
        if features & FeatureFlags.CLIENT_ID:
            if not isinstance(body, control.InitiateContact6):
                raise MessageTooShort("a contact with CLIENT_ID has no client id")
            client_id = body.client_id
        # Older guests expect everything on processor 0.
        vp = body.target_message_vp if version >= Version.V3_0 else 0
        return Contact(
            version=version,
            features=features,
            target=Target(vp, sint),
            target_vtl=vtl,
            parent_to_child=body.parent_to_child_monitor_page,
            child_to_parent=body.child_to_parent_monitor_page,
            interrupt_page=interrupt_page,
            client_id=client_id,
            trusted=trusted,
        )

    def _negotiate(self, contact: Contact) -> None:
        """Decide about a contact; nothing of an earlier connection is left."""
        self._outbox.target = contact.target
        if not contact.version.is_known or contact.version > self.max_version:
            self._refuse(contact.version)
            return
        info = ConnectionInfo(
            version=contact.version,
            features=contact.features & self._spoken_features(contact),
            trusted=contact.trusted,
            interrupt_page=contact.interrupt_page,
            monitor_pages=None if self.config.only_own_monitor_pages else contact.monitor_pages,
            target_message_vp=contact.target.vp,
            client_id=contact.client_id,
        )
        pages = (contact.parent_to_child, contact.child_to_parent, contact.interrupt_page or 0)
        if contact.has_half_of_monitor_pages or not self._are_in_memory(*pages):
            self._fail(info, ConnectionState.FAILED_UNKNOWN_FAILURE)
            error = BadMonitorPages("monitor pages {:#x} and {:#x}, interrupt page {:#x}".format(*pages))
            self._emit(ProtocolViolation(error, contact.payload))
            return
        self._advance(Step.CONTACT)
        self.info = info
        self._ask_for_contact(info)

    def _ask_for_contact(self, info: ConnectionInfo) -> None:
        """Let our own side confirm, if it wants to."""
        if not self.config.confirm:
            own = self.config.monitor_pages if info.features & _F.SERVER_SPECIFIED_MONITOR_PAGES else None
            self._contact_finished(info, ConnectionState.SUCCESSFUL, ALL_FEATURES, own)
            return
        self._emit(ContactRequested(*info.agreement))

    def _spoken_features(self, contact: Contact) -> FeatureFlags:
        if contact.version < Version.V6_0:
            return NO_FEATURES
        if contact.trusted:
            return self.max_features
        return self.max_features & ~FeatureFlags.CONFIDENTIAL_CHANNELS

    def _are_in_memory(self, *pages: int) -> bool:
        size = self.config.memory_size
        return size is None or all(page + PAGE_SIZE <= size for page in pages)

    def _contact_finished(
        self, info: ConnectionInfo, state: ConnectionState, features: FeatureFlags, own: MonitorPages | None
    ) -> None:
        info.features &= (features | _LOCAL_FEATURES) & ~_F.SERVER_SPECIFIED_MONITOR_PAGES
        if own is not None:
            info.features |= _F.SERVER_SPECIFIED_MONITOR_PAGES
        if state is not ConnectionState.SUCCESSFUL:
            self._advance(Step.DECLINED)
            self._fail(info, state)
            self.info = None
            self._do_next()
            return
        if own is not None:
            info.monitor_pages, info.host_monitor_pages = own, True
        self._advance(Step.ACCEPTED)
        self._respond(info, state, own)
        self._emit(VersionNegotiated(*info.agreement, info.host_monitor_pages))
        if self.after is not After.NOTHING:
            step = _STEPS[self.after]
            self._end_connection(step, self.after, self.next_contact)

    def _refuse(self, version: Version) -> None:
        self._send(control.VersionResponse(version_supported=0))
        self._emit(VersionRefused(version))

    def _fail(self, info: ConnectionInfo, state: ConnectionState) -> None:
        """A spoken version, but no connection. Before 2.4 there was no way to say that."""
        if info.version < Version.V2_4:
            self._refuse(info.version)
        else:
            self._respond(info, state, None)
            self._emit(VersionRefused(info.version))

    def _respond(self, info: ConnectionInfo, state: ConnectionState, own: MonitorPages | None) -> None:
        selected = self.config.message_connection_id if info.version >= Version.V5_0 else int(info.version)
        answer = control.VersionResponse3(
            version_supported=1,
            connection_state=state,
            version_or_connection_id=selected,
            features=info.features,
            parent_to_child_monitor_page=own.parent_to_child if own else 0,
            child_to_parent_monitor_page=own.child_to_parent if own else 0,
        )
        if info.version < Version.V6_0:
            self._send(control.VersionResponse.parse(answer.build()))
        elif own is None:
            self._send(control.VersionResponse2.parse(answer.build()))
        else:
            self._send(answer)

    # The end

    def _on_unload(self) -> None:
        confirmed = self.version is None or sent_in(MessageType.UNLOAD_COMPLETE, self.version)
        after = After.UNLOAD if confirmed else After.UNLOAD_0_13
        if self._end_connection(Step.UNLOAD, after):
            self._finish_unload(after)

    def _end_connection(self, step: Step, after: After, contact: Contact | None = None) -> bool:
        """Let go of everything; return whether there is nothing to wait for, and no connection that has to end first.

        If there is, ``after`` is done when it has ended.
        """
        was = self.connection
        reset = after is After.RESET
        self._tl_requests.clear()
        for channel in self.offers:
            if reset or channel.reserved is None:
                self._release(channel, Step.RESET if reset else Step.DISCONNECT)
            else:
                channel.reserved = replace(channel.reserved, is_orphan=True)
                self._abandon_gpadls(channel)
        if was is HostConnection.DISCONNECTED and not (reset and not self._is_idle(reset=True)):
            return True
        if self.info is not None:
            self.info.modifying = False
        self._advance(step)
        self.after, self.next_contact = after, contact
        self._outbox.resume()
        if self.connection is HostConnection.DISCONNECTING:
            self._check_drained()
        return False

    def _is_idle(self, *, reset: bool) -> bool:
        """Whether no channel and no GPADL is in use; reserved channels count only for a reset."""
        busy = {c.channel_id for c in self.offers if c.state is not HostChannel.RELEASED}
        spared = set() if reset else {c.channel_id for c in self.offers if c.reserved is not None}
        return busy <= spared and all(channel_id in spared for channel_id, _ in self.gpadls)

    def _check_drained(self) -> None:
        """To be called whenever a device has let go of something."""
        if self.connection is not HostConnection.DISCONNECTING or self.drained:
            return
        if not self._is_idle(reset=self.after is After.RESET):
            return
        self.drained = True
        self._emit(Disconnected())
        if not self.config.confirm:
            self._disconnect_finished()

    def _disconnect_finished(self) -> None:
        self.drained = False
        self._advance(Step.DRAINED)
        self._do_next()

    def _do_next(self) -> None:
        after, contact = self.after, self.next_contact
        self.after, self.next_contact, self.info = After.NOTHING, None, None
        if after in (After.UNLOAD, After.UNLOAD_0_13):
            self._finish_unload(after)
        elif after is After.RESET:
            self._outbox.clear()
            self._emit(ResetFinished())
        elif after is After.CONTACT and contact is not None:
            self._negotiate(contact)

    def _finish_unload(self, after: After) -> None:
        if after is After.UNLOAD:
            self._send(control.UnloadComplete())
        if self._limit_after_unload is not None:
            (self.max_version, self.max_features), self._limit_after_unload = self._limit_after_unload, None
        self._emit(Unloaded())

    def _advance(self, step: Step) -> None:
        self.connection = HOST_CONNECTION[self.connection][step]

    # In between

    def _on_request_offers(self) -> None:
        assert self.info is not None
        if self.info.offers_sent:
            raise OffersAlreadySent("the offers were sent already")
        self.info.offers_sent = True
        for channel in self.offers.in_order():
            # Others are reserved channels: the guest knows those.
            if channel.state is HostChannel.RELEASED:
                self._send_offer(channel)
        self._send(control.AllOffersDelivered())
        self._emit(OffersRequested())

    def _on_tl_connect(self, body: control.TlConnectRequest) -> None:
        key = body.endpoint_id, body.service_id
        if key in self._tl_requests:
            return  # asked for again before it was answered: there will be one answer
        silo_id = body.silo_id if isinstance(body, control.TlConnectRequest2) else NIL_GUID
        self._tl_requests[key] = TlConnectRequested(*key, silo_id, hosted_silo_unaware=not self._speaks(Version.V5_2))
        self._emit(self._tl_requests[key])

    def _on_pause(self) -> None:
        self._send(control.PauseResponse())
        self._outbox.paused = True
        self._emit(Paused())

    def _on_modify_connection(self, body: control.ModifyConnection) -> None:
        assert self.info is not None
        to_guest, to_host = body.parent_to_child_monitor_page, body.child_to_parent_monitor_page
        problem = ""
        if self.info.modifying:
            problem = "the connection is being modified already"
        elif self.info.host_monitor_pages:
            problem = "the host provides the monitor pages"
        elif bool(to_guest) != bool(to_host):
            problem = f"only one monitor page: {to_guest:#x} and {to_host:#x}"
        elif not self._are_in_memory(to_guest, to_host):
            problem = f"monitor pages outside memory: {to_guest:#x} and {to_host:#x}"
        if problem:
            if not self.info.modifying:
                self._modify_response(ConnectionState.FAILED_UNKNOWN_FAILURE)
            raise BadMonitorPages(problem)
        self.info.modifying = True
        self.info.monitor_pages = MonitorPages(to_guest, to_host) if to_guest else None
        self._ask_for_modification(self.info)

    def _ask_for_modification(self, info: ConnectionInfo) -> None:
        self._emit(ModifyConnectionRequested(info.monitor_pages))
        if not self.config.confirm:
            self._modify_response(ConnectionState.SUCCESSFUL)

    def _modify_response(self, state: ConnectionState) -> None:
        assert self.info is not None
        self.info.modifying = False
        self._send(control.ModifyConnectionResponse(connection_state=state))

"""The host's control plane across a restart: saved as JSON values, restored by another process or a newer program.

    state = server.save()                       # after put_back of what could not be delivered
    ...
    server = ControlServer(config)
    server.restore(state)
    for device in devices:
        channel_id = server.offer(...)          # finds its saved channel and keeps its id
        server.channel_restored(channel_id, is_open=device.is_open)
    events = server.finish_restore()            # what was half done is asked again

What nobody claims is rescinded.  A channel whose device is offered but not said to be restored is rescinded and
offered afresh.  Devices that were letting go when the state was saved have let go by now: their processes are
gone.

The format is described in docs/control-plane.md.  Source: openvmm ``vmbus_server/src/channels/saved_state.rs``
and ``channels.rs`` (``restore_channel``, ``revoke_unclaimed_channels``).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vmbus.control.errors import BadSavedState, WrongState
from vmbus.control.host_events import (
    CloseRequested,
    GpadlRequested,
    GpadlTeardownRequested,
    HostEvent,
    ModifyChannelRequested,
    OpenRequested,
)
from vmbus.control.host_states import HOST_CHANNEL, HostChannel, HostConnection, HostGpadl
from vmbus.control.messages import NO_FEATURES
from vmbus.control.offers import Channel, OfferTraits, Restoring
from vmbus.control.saved_values import (
    channel_from_json,
    channel_to_json,
    check_format,
    connection_from_json,
    connection_to_json,
    contact_from_json,
    contact_to_json,
    gpadl_from_json,
    gpadl_to_json,
    limit_from_json,
    messages_from_json,
    messages_to_json,
    target_from_json,
    tl_requests_from_json,
    tl_requests_to_json,
)
from vmbus.control.server_base import After
from vmbus.control.server_connection import ServerConnection
from vmbus.control.server_gpadls import ServerGpadl
from vmbus.control.transitions import Step
from vmbus.gpadl import GpadlError
from vmbus.wire.control_values import MAX_CHANNEL_ID, FeatureFlags, Status, Version
from vmbus.wire.hypervisor import MONITOR_COUNT

FORMAT = "vmbus control plane, host"
FORMAT_VERSION = 1

_DEVICES_HAVE_LET_GO = {
    HostChannel.OPENING_RELEASED: HostChannel.RELEASED,
    HostChannel.CLOSING_RELEASED: HostChannel.RELEASED,
    # The device says itself whether it is back.
    HostChannel.REOFFERED: HostChannel.RESCINDED,
}
_FITS_OPEN = frozenset({HostChannel.OPENING, HostChannel.OPEN, HostChannel.CLOSING, HostChannel.REOPENING})
_FITS_CLOSED = frozenset(
    {
        HostChannel.RELEASED,
        HostChannel.OFFERED,
        HostChannel.OPENING,
        HostChannel.CLOSING,
        HostChannel.REOPENING,
    }
)
_LET_GO = frozenset({HostGpadl.OFFERED_RELEASED, HostGpadl.TEARING_DOWN_RELEASED})


class ServerSaved(ServerConnection):
    """Saving and restoring."""

    def save(self) -> dict[str, Any]:
        """The whole state as JSON values.  Raises ``WrongState`` in the middle of a reset or a restore."""
        if self.after is After.RESET or any(channel.restoring is not Restoring.NOT for channel in self.offers):
            raise WrongState("the state cannot be saved during a reset or a restore")
        ready, held = self._outbox.queues()
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "connection": self.connection.name,
            "info": connection_to_json(self.info) if self.info else None,
            "paused": self._outbox.paused,
            "message_target": list(self._outbox.target),
            "after": self.after.name,
            "next_contact": contact_to_json(self.next_contact) if self.next_contact else None,
            "limit": [int(self.max_version), int(self.max_features)],
            "limit_after_unload": [int(n) for n in self._limit_after_unload] if self._limit_after_unload else None,
            "channels": [channel_to_json(channel) for channel in self.offers],
            "gpadls": [gpadl_to_json(gpadl) for gpadl in self.gpadls.values()],
            "tl_requests": tl_requests_to_json(self._tl_requests.values()),
            "ready_messages": messages_to_json(ready),
            "held_messages": messages_to_json(held),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a saved state, into a server that is new.

        Raises ``BadSavedState``; the server is of no use then.
        """
        if self.offers.channels or self.connection is not HostConnection.DISCONNECTED:
            raise WrongState("a state is restored into a new server only")
        check_format(state, FORMAT, FORMAT_VERSION)
        try:
            self._restore(state)
        except BadSavedState:
            raise
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError, GpadlError) as error:
            raise BadSavedState(f"the saved state is damaged: {type(error).__name__}: {error}") from error

    def _restore(self, state: dict[str, Any]) -> None:
        self.connection = HostConnection[state["connection"]]
        self.info = connection_from_json(state["info"]) if state["info"] else None
        self.after = After[state["after"]]
        self.next_contact = contact_from_json(state["next_contact"]) if state["next_contact"] else None
        self._check_version()
        self.max_version, self.max_features = limit_from_json(state["limit"])
        self._limit_after_unload = limit_from_json(state["limit_after_unload"]) if state["limit_after_unload"] else None
        self._outbox.load(messages_from_json(state["ready_messages"]), messages_from_json(state["held_messages"]))
        self._outbox.paused = bool(state["paused"])
        self._outbox.target = target_from_json(state["message_target"])
        for saved in state["channels"]:
            self._restore_channel(channel_from_json(saved))
        for saved in state["gpadls"]:
            self._restore_gpadl(gpadl_from_json(saved))
        for request in tl_requests_from_json(state.get("tl_requests", ())):  # older states have none
            self._tl_requests[request.endpoint_id, request.service_id] = request

    def _check_version(self) -> None:
        """Whether this program, as it is set up, can go on with the connection."""
        if (self.info is None) != (self.connection is HostConnection.DISCONNECTED):
            raise BadSavedState(f"the connection is {self.connection.name}, and what was agreed does not go with that")
        if self.info is None:
            return
        self._check_spoken("the connection", self.info.version, self.info.features)

    def _check_spoken(self, what: str, version: Version, features: FeatureFlags) -> None:
        if not version.is_known or version > self.config.max_version:
            raise BadSavedState(f"{what} speaks version {version.number}, and this host does not")
        allowed = self.config.features if version >= Version.V6_0 else NO_FEATURES
        if features & ~allowed:
            raise BadSavedState(f"{what} has the features {features}, and this host only {allowed}")

    def _restore_channel(self, channel: Channel) -> None:
        name, book = channel.name, self.offers
        if not 0 < channel.channel_id <= MAX_CHANNEL_ID or channel.channel_id in book.channels:
            raise BadSavedState(f"{name} is there twice, or has no valid id")
        if book.find(channel.key) is not None:
            raise BadSavedState(f"{name}: {channel.key} is there twice")
        if channel.reserved:
            self._check_spoken(name, channel.reserved.version, channel.reserved.features)
        monitor_id = channel.monitor_id
        if monitor_id is not None and not 0 <= monitor_id < MONITOR_COUNT:
            raise BadSavedState(f"{name} has no valid monitor id: {monitor_id}")
        if monitor_id is not None and channel.traits.relayed_monitor_id is None and not book.monitors.claim(monitor_id):
            raise BadSavedState(f"{name} and another channel have monitor id {monitor_id}")
        channel.state = _DEVICES_HAVE_LET_GO.get(channel.state, channel.state)
        if channel.state is HostChannel.RELEASED:
            channel.forget_requests()
        if not channel.state.is_rescinded:
            channel.restoring = Restoring.UNMATCHED
        book.channels[channel.channel_id] = channel

    def _restore_gpadl(self, gpadl: ServerGpadl) -> None:
        channel = self.offers.channels.get(gpadl.channel_id)
        if channel is None or (gpadl.channel_id, gpadl.gpadl_id) in self.gpadls:
            raise BadSavedState(f"GPADL {gpadl.gpadl_id:#x} is there twice, or has no channel")
        if gpadl.state in _LET_GO:
            return  # the process that used it is gone
        self._remember(gpadl)
        if gpadl.state is HostGpadl.IN_PROGRESS:
            self._in_progress[gpadl.gpadl_id] = gpadl

    # Devices come back

    def _match_restored(self, channel: Channel, traits: OfferTraits) -> int:
        if traits.relayed_monitor_id is not None and traits.relayed_monitor_id != channel.monitor_id:
            raise BadSavedState(f"{channel.name} had monitor id {channel.monitor_id}, not {traits.relayed_monitor_id}")
        if channel.monitor_id is not None and traits.monitor_latency is None:
            # The guest signals through the monitor page, and nobody has told it to stop.
            traits = replace(traits, monitor_latency=channel.traits.monitor_latency)
        channel.traits = traits
        channel.restoring = Restoring.MATCHED
        return channel.channel_id

    def restored_gpadls(self, channel_id: int) -> list[GpadlRequested]:
        """The memory that the guest shared for a channel and that the device had accepted."""
        channel = self.offers.own(channel_id)
        return [
            GpadlRequested(gpadl.channel_id, gpadl.gpadl_id, gpadl.ranges)
            for gpadl in self._gpadls_of(channel)
            if gpadl.state is HostGpadl.ACCEPTED
        ]

    def restored_open(self, channel_id: int) -> OpenRequested | None:
        """How a channel is open, so that its device can go on with it; None if it is not."""
        channel = self.offers.own(channel_id)
        if channel.state is not HostChannel.OPEN or channel.request is None:
            return None
        return OpenRequested(channel_id, channel.open_params(channel.request))

    def channel_restored(self, channel_id: int, *, is_open: bool) -> list[HostEvent]:
        """A device has its state back: ``is_open`` if it goes on using the channel.

        Raises ``BadSavedState`` if the guest has the channel open and the device has not, or the other way round.
        """
        channel = self.offers.own(channel_id)
        if channel.restoring is not Restoring.MATCHED:
            if is_open:
                raise BadSavedState(f"{channel.name} is not a restored channel, and its device has it open")
            return self._take_events()
        fits = _FITS_OPEN if is_open else _FITS_CLOSED
        if channel.state not in fits:
            device = "is open" if is_open else "is not open"
            raise BadSavedState(f"{channel.name} ({channel.state.value}) and its device, which {device}, do not agree")
        channel.restoring = Restoring.NOT
        if is_open and channel.state is HostChannel.OPENING:
            self._open_finished(channel, Status.SUCCESS)
        elif is_open and channel.state is not HostChannel.OPEN:
            self._emit(CloseRequested(channel_id))
        elif channel.state is HostChannel.OPENING and channel.request is not None:
            self._emit(OpenRequested(channel_id, channel.open_params(channel.request)))
        elif not is_open and channel.state in (HostChannel.CLOSING, HostChannel.REOPENING):
            self._close_finished(channel)
        return self._take_events()

    def finish_restore(self) -> list[HostEvent]:
        """All devices are back.  Returns what has to be asked again; channels that nobody wanted are rescinded."""
        for channel in self.offers:
            was, channel.restoring = channel.restoring, Restoring.NOT
            if was is Restoring.UNMATCHED:
                self._take_back(channel)
            elif was is Restoring.MATCHED and channel.state is not HostChannel.RELEASED:
                # The device begins anew, so the guest has to as well.
                self._take_back(channel)
                channel.state = HOST_CHANNEL[channel.state][Step.OFFER]
            self._release_if_unknown(channel)
        self._ask_again()
        self._check_drained()
        return self._take_events()

    def _ask_again(self) -> None:
        info = self.info
        if info is not None and self.connection is HostConnection.CONNECTING:
            self._ask_for_contact(info)
        if info is not None and info.modifying:
            self._ask_for_modification(info)
        for request in self._tl_requests.values():
            self._emit(request)
        for channel in self.offers:
            if channel.modifying and channel.request is not None:
                self._emit(ModifyChannelRequested(channel.channel_id, channel.request.target_vp))
        for gpadl in self.gpadls.values():
            if gpadl.state is HostGpadl.OFFERED:
                self._emit(GpadlRequested(gpadl.channel_id, gpadl.gpadl_id, gpadl.ranges))
            elif gpadl.state is HostGpadl.TEARING_DOWN:
                self._emit(GpadlTeardownRequested(gpadl.channel_id, gpadl.gpadl_id))

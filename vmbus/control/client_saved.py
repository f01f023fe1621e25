"""The guest's control plane across a restart, as JSON values.

A state can be saved whenever no version is being negotiated; what the host was asked is still answered after the
restore.  ``client.channels`` then has the channels, open ones included: who restores them closes what it does not
want.

Source: openvmm ``vmbus_client/src/saved_state.rs`` and ``lib.rs`` (``handle_save``, ``handle_restore``).
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from vmbus.control.client_base import ClientChannel, ClientGpadl, PostedMessage
from vmbus.control.client_channels import ClientChannels
from vmbus.control.errors import BadSavedState, WrongState
from vmbus.control.events import MonitorPages
from vmbus.control.guest_states import GuestChannel, GuestConnection, GuestGpadl
from vmbus.control.saved_values import check_format
from vmbus.wire.control_values import MAX_MESSAGE_SIZE, FeatureFlags, Version
from vmbus.wire.offer import OfferChannel, OfferChannelPre7
from vmbus.wire.schema import WireError

FORMAT = "vmbus control plane, guest"
FORMAT_VERSION = 1


class ClientSaved(ClientChannels):
    """Saving and restoring."""

    def save(self) -> dict[str, Any]:
        """The whole state as JSON values, with the messages not yet taken by ``outgoing``."""
        if self.connection is GuestConnection.CONNECTING:
            raise WrongState("the state cannot be saved while a version is being negotiated")
        pages = self.monitor_pages
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "connection": self.connection.name,
            "version": None if self.version is None else int(self.version),
            "features": int(self.features),
            "monitor_pages": [pages.parent_to_child, pages.child_to_parent] if pages else None,
            "host_monitor_pages": self.host_monitor_pages,
            "message_connection": self._message_connection,
            "reserved_version": int(self._reserved_version),
            "late_modifications": sorted(self._late_modifications),
            "let_go": sorted(self._let_go),
            "modifying": self._modifying,
            "pauses_unanswered": self._pauses_unanswered,
            "next_gpadl_id": self._next_gpadl_id,
            "tl_requests": [[str(endpoint), str(service)] for endpoint, service in self._tl_requests],
            "channels": [_channel_to_json(channel) for channel in self.channels.values()],
            "messages": _messages_to_json(self._outbox),
            "held_messages": None if self._held is None else _messages_to_json(self._held),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a saved state, into a client that is new.  Raises ``BadSavedState``; it is of no use then."""
        if self.connection is not GuestConnection.DISCONNECTED or self.channels:
            raise WrongState("a state is restored into a new client only")
        check_format(state, FORMAT, FORMAT_VERSION)
        try:
            self._restore(state)
        except (KeyError, ValueError, TypeError, AttributeError, WireError) as error:
            raise BadSavedState(f"the saved state is damaged: {type(error).__name__}: {error}") from error

    def _restore(self, state: dict[str, Any]) -> None:
        self.connection = GuestConnection[state["connection"]]
        version = state["version"]
        self.version = None if version is None else Version(version)
        self.features = FeatureFlags(state["features"])
        if self.is_connected and (self.version is None or not self.version.is_known):
            raise BadSavedState(f"the connection speaks version {version!r}, and this program does not")
        if self.features and (self.version is None or self.version < Version.V6_0):
            raise BadSavedState(f"a connection of version {version!r} has no features")
        pages = state["monitor_pages"]
        self.monitor_pages = MonitorPages(int(pages[0]), int(pages[1])) if pages else None
        self.host_monitor_pages = bool(state["host_monitor_pages"])
        self._message_connection = int(state["message_connection"])
        self._reserved_version = Version(state["reserved_version"])
        self._late_modifications = {int(n) for n in state["late_modifications"]}
        self._let_go = {int(n) for n in state["let_go"]}
        self._modifying, self._pauses_unanswered = bool(state["modifying"]), int(state["pauses_unanswered"])
        self._next_gpadl_id = int(state["next_gpadl_id"])
        self._tl_requests = [(UUID(endpoint), UUID(service)) for endpoint, service in state["tl_requests"]]
        for saved in state["channels"]:
            self._restore_channel(saved)
        self._outbox = _messages_from_json(state["messages"])
        self._held = None if state["held_messages"] is None else _messages_from_json(state["held_messages"])

    def _restore_channel(self, saved: dict[str, Any]) -> None:
        content = bytes.fromhex(saved["offer"])
        offer = (OfferChannel if len(content) >= OfferChannel.SIZE else OfferChannelPre7).parse(content)
        channel = ClientChannel(
            offer,
            int(saved["connection_id"]),
            GuestChannel[saved["state"]],
            open_id=int(saved["open_id"]),
            # Older states do not say.
            event_flag=int(saved.get("event_flag", 0)),
            is_redirected=bool(saved.get("is_redirected", False)),
            modifying=bool(saved["modifying"]),
            released=bool(saved["released"]),
        )
        if channel.channel_id in self.channels:
            raise BadSavedState(f"{channel.name} is there twice")
        self.channels[channel.channel_id] = channel
        for gpadl_id, gpadl_state in saved["gpadls"]:
            if gpadl_id in self.gpadls:
                raise BadSavedState(f"GPADL {gpadl_id:#x} is there twice")
            gpadl = ClientGpadl(int(gpadl_id), channel.channel_id, GuestGpadl[gpadl_state])
            self.gpadls[gpadl.gpadl_id] = channel.gpadls[gpadl.gpadl_id] = gpadl


def _channel_to_json(channel: ClientChannel) -> dict[str, Any]:
    return {
        "offer": channel.offer.build().hex(),
        "connection_id": channel.connection_id,
        "state": channel.state.name,
        "open_id": channel.open_id,
        "event_flag": channel.event_flag,
        "is_redirected": channel.is_redirected,
        "modifying": channel.modifying,
        "released": channel.released,
        "gpadls": [[gpadl.gpadl_id, gpadl.state.name] for gpadl in channel.gpadls.values()],
    }


def _messages_to_json(messages: list[PostedMessage]) -> list[list[Any]]:
    return [[message.payload.hex(), message.connection_id] for message in messages]


def _messages_from_json(value: list[list[Any]]) -> list[PostedMessage]:
    messages = [PostedMessage(bytes.fromhex(payload), int(connection_id)) for payload, connection_id in value]
    if any(len(message.payload) > MAX_MESSAGE_SIZE for message in messages):
        raise ValueError(f"a message of more than {MAX_MESSAGE_SIZE} bytes")
    return messages

"""The parts of a saved host as JSON values, and back: plain dictionaries, numbers, strings and hex.

Readers raise ``KeyError``, ``ValueError`` or ``TypeError`` for what is damaged; ``server_saved`` makes one error
of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any
from uuid import UUID

from vmbus.control.errors import BadSavedState
from vmbus.control.events import MonitorPages
from vmbus.control.host_events import TlConnectRequested
from vmbus.control.host_states import HostChannel, HostGpadl
from vmbus.control.offers import Channel, OfferKey, OfferTraits, OpenRequest, Reserved
from vmbus.control.outbox import OutgoingMessage, Target
from vmbus.control.server_base import ConnectionInfo, Contact
from vmbus.control.server_gpadls import ServerGpadl
from vmbus.wire.control_values import MAX_MESSAGE_SIZE, FeatureFlags, Version
from vmbus.wire.offer import OfferFlags

Json = dict[str, Any]


def check_format(state: Json, name: str, version: int) -> None:
    """Raise ``BadSavedState`` unless the state says that it is of this format and version."""
    if state.get("format") != name or state.get("format_version") != version:
        raise BadSavedState(
            f"this is not a state that can be restored: {state.get('format')!r}, "
            f"version {state.get('format_version')!r} (wanted {name!r}, version {version})"
        )


def _number(value: object, bits: int = 64) -> int:
    if not isinstance(value, int) or not 0 <= value < 1 << bits:
        raise ValueError(f"{value!r} is no number of {bits} bits")
    return value


def _optional(value: object, bits: int = 64) -> int | None:
    return None if value is None else _number(value, bits)


def target_from_json(value: list[int]) -> Target:
    vp, sint = value
    return Target(_number(vp, 32), _number(sint, 8))


def limit_from_json(value: list[int]) -> tuple[Version, FeatureFlags]:
    version, features = value
    return Version(_number(version, 32)), FeatureFlags(_number(features, 32))


def connection_to_json(info: ConnectionInfo) -> Json:
    pages = info.monitor_pages
    return {
        "version": int(info.version),
        "features": int(info.features),
        "trusted": info.trusted,
        "offers_sent": info.offers_sent,
        "interrupt_page": info.interrupt_page,
        "monitor_pages": [pages.parent_to_child, pages.child_to_parent] if pages else None,
        "host_monitor_pages": info.host_monitor_pages,
        "target_message_vp": info.target_message_vp,
        "modifying": info.modifying,
        "client_id": str(info.client_id),
    }


def connection_from_json(value: Json) -> ConnectionInfo:
    pages = value["monitor_pages"]
    return ConnectionInfo(
        version=Version(_number(value["version"], 32)),
        features=FeatureFlags(_number(value["features"], 32)),
        trusted=bool(value["trusted"]),
        offers_sent=bool(value["offers_sent"]),
        interrupt_page=_optional(value["interrupt_page"]),
        monitor_pages=MonitorPages(_number(pages[0]), _number(pages[1])) if pages else None,
        host_monitor_pages=bool(value["host_monitor_pages"]),
        target_message_vp=_number(value["target_message_vp"], 32),
        modifying=bool(value["modifying"]),
        client_id=UUID(value["client_id"]),
    )


def contact_to_json(contact: Contact) -> Json:
    return {
        "version": int(contact.version),
        "features": int(contact.features),
        "target": list(contact.target),
        "target_vtl": contact.target_vtl,
        "parent_to_child": contact.parent_to_child,
        "child_to_parent": contact.child_to_parent,
        "interrupt_page": contact.interrupt_page,
        "client_id": str(contact.client_id),
        "trusted": contact.trusted,
        "payload": contact.payload.hex(),
    }


def contact_from_json(value: Json) -> Contact:
    return Contact(
        version=Version(_number(value["version"], 32)),
        features=FeatureFlags(_number(value["features"], 32)),
        target=target_from_json(value["target"]),
        target_vtl=_number(value["target_vtl"], 8),
        parent_to_child=_number(value["parent_to_child"]),
        child_to_parent=_number(value["child_to_parent"]),
        interrupt_page=_optional(value["interrupt_page"]),
        client_id=UUID(value["client_id"]),
        trusted=bool(value["trusted"]),
        payload=bytes.fromhex(value["payload"]),
    )


def _request_to_json(request: OpenRequest | None) -> Json | None:
    return None if request is None else {**asdict(request), "user_data": request.user_data.hex()}


def _request_from_json(value: Json | None) -> OpenRequest | None:
    if value is None:
        return None
    return OpenRequest(
        open_id=_number(value["open_id"], 32),
        ring_gpadl_id=_number(value["ring_gpadl_id"], 32),
        downstream_page_offset=_number(value["downstream_page_offset"], 32),
        target_vp=_number(value["target_vp"], 32),
        user_data=bytes.fromhex(value["user_data"]),
        event_flag=_optional(value["event_flag"], 16),
        connection_id=_optional(value["connection_id"], 32),
        redirect_interrupt=bool(value["redirect_interrupt"]),
    )


def _reserved_to_json(reserved: Reserved | None) -> Json:
    return {
        "reserved": list(reserved.target) if reserved else None,
        "reserved_version": int(reserved.version) if reserved else 0,
        "reserved_features": int(reserved.features) if reserved else 0,
        "reserved_is_orphan": reserved is not None and reserved.is_orphan,
    }


def _reserved_from_json(value: Json) -> Reserved | None:
    if value["reserved"] is None:
        return None
    return Reserved(
        target_from_json(value["reserved"]),
        Version(_number(value["reserved_version"], 32)),
        FeatureFlags(_number(value["reserved_features"], 32)),
        # Older states do not say.
        bool(value.get("reserved_is_orphan", False)),
    )


def channel_to_json(channel: Channel) -> Json:
    traits = channel.traits
    return {
        "interface_id": str(channel.key.interface_id),
        "instance_id": str(channel.key.instance_id),
        "subchannel_index": channel.key.subchannel_index,
        "traits": {**asdict(traits), "flags": int(traits.flags), "user_defined": traits.user_defined.hex()},
        "channel_id": channel.channel_id,
        "connection_id": channel.connection_id,
        "monitor_id": channel.monitor_id,
        "state": channel.state.name,
        "request": _request_to_json(channel.request),
        "reopen": _request_to_json(channel.reopen),
        **_reserved_to_json(channel.reserved),
        "modifying": channel.modifying,
        "pending_vp": channel.pending_vp,
    }


def channel_from_json(value: Json) -> Channel:
    key = OfferKey(UUID(value["interface_id"]), UUID(value["instance_id"]), _number(value["subchannel_index"], 16))
    traits = value["traits"]
    return Channel(
        key=key,
        traits=OfferTraits(
            flags=OfferFlags(_number(traits["flags"], 16)),
            user_defined=bytes.fromhex(traits["user_defined"]),
            mmio_megabytes=_number(traits["mmio_megabytes"], 16),
            mmio_megabytes_optional=_number(traits["mmio_megabytes_optional"], 16),
            monitor_latency=_optional(traits["monitor_latency"]),
            relayed_monitor_id=_optional(traits["relayed_monitor_id"], 8),
            order=_optional(traits["order"]),
        ),
        channel_id=_number(value["channel_id"], 32),
        connection_id=_number(value["connection_id"], 32),
        monitor_id=_optional(value["monitor_id"], 8),
        state=HostChannel[value["state"]],
        request=_request_from_json(value["request"]),
        reopen=_request_from_json(value["reopen"]),
        reserved=_reserved_from_json(value),
        modifying=bool(value["modifying"]),
        pending_vp=_optional(value["pending_vp"], 32),
    )


def gpadl_to_json(gpadl: ServerGpadl) -> Json:
    range_count, content = gpadl.collected()
    return {
        "channel_id": gpadl.channel_id,
        "gpadl_id": gpadl.gpadl_id,
        "state": gpadl.state.name,
        "words": gpadl.words,
        "range_count": range_count,
        "ranges": content.hex(),
    }


def gpadl_from_json(value: Json) -> ServerGpadl:
    """Read a GPADL by the way that the guest's messages take; a description in progress goes on afterwards."""
    state = HostGpadl[value["state"]]
    content = bytes.fromhex(value["ranges"])
    words = _number(value["words"], 16)
    in_progress = state is HostGpadl.IN_PROGRESS
    gpadl = ServerGpadl(_number(value["channel_id"], 32), _number(value["gpadl_id"], 32), words)
    # Behind the ranges of a complete description there may have been words without a meaning.
    if (
        gpadl.begin(_number(value["range_count"], 16), content if in_progress else content.ljust(words * 8, b"\0"))
        is in_progress
    ):
        raise ValueError(f"GPADL {gpadl.gpadl_id:#x} is {state.name}, and its description does not go with that")
    gpadl.state = state
    return gpadl


def tl_requests_to_json(requests: Iterable[TlConnectRequested]) -> list[list[Any]]:
    return [[str(r.endpoint_id), str(r.service_id), str(r.silo_id), r.hosted_silo_unaware] for r in requests]


def tl_requests_from_json(value: Iterable[list[Any]]) -> list[TlConnectRequested]:
    return [
        TlConnectRequested(UUID(endpoint), UUID(service), UUID(silo), bool(unaware))
        for endpoint, service, silo, unaware in value
    ]


def messages_to_json(messages: Iterable[OutgoingMessage]) -> list[list[Any]]:
    return [[message.payload.hex(), message.vp, message.sint, message.vtl] for message in messages]


def messages_from_json(value: Iterable[list[Any]]) -> list[OutgoingMessage]:
    messages = []
    for payload, vp, sint, vtl in value:
        content = bytes.fromhex(payload)
        if len(content) > MAX_MESSAGE_SIZE:
            raise ValueError(f"a message of {len(content)} bytes")
        messages.append(OutgoingMessage(content, _number(vp, 32), _number(sint, 8), _number(vtl, 8)))
    return messages

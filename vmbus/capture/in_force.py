"""The control messages that are in force on a connection that is older than its recording.

A host that goes on with a guest after a restart has none of the messages that led to its state, but it has the state.
These are the messages that would lead to it: a recording that begins with them decodes by itself. They are what both
ends would say now, not always what they said then: ids of opens and numbers of bodies are not kept, and come out as
0.
"""

from __future__ import annotations

from collections.abc import Iterator

from vmbus.control.host_states import HostChannel, HostGpadl
from vmbus.control.messages import build_message
from vmbus.control.offers import Channel
from vmbus.control.server import ControlServer
from vmbus.control.server_base import ConnectionInfo
from vmbus.control.server_gpadls import ServerGpadl
from vmbus.gpadl import build_ranges
from vmbus.tap import Direction
from vmbus.wire import control
from vmbus.wire.control_values import (
    INTERRUPTS_DISABLED,
    FeatureFlags,
    OpenChannelFlags,
    Status,
    Version,
)
from vmbus.wire.schema import Format

_CHOSEN_SIGNALS = FeatureFlags.GUEST_SPECIFIED_SIGNAL_PARAMETERS | FeatureFlags.CHANNEL_INTERRUPT_REDIRECTION
_SHARED = frozenset({HostGpadl.ACCEPTED, HostGpadl.TEARING_DOWN})

Said = tuple[Direction, bytes]


def messages_in_force(server: ControlServer) -> Iterator[Said]:
    """Direction and payload of each message that leads to the server's state; nothing without a connection."""
    info = server.info
    if info is None:
        return
    yield _guest(_contact(info))
    yield _host(_version_response(info, server.config.message_connection_id))
    if not info.offers_sent:
        return
    yield _guest(control.RequestOffers())
    known = [channel for channel in server.offers if not channel.state.is_released]
    for channel in known:
        yield _host(channel.offer_message(info.features, monitored=info.monitor_pages is not None))
    yield _host(control.AllOffersDelivered())
    for gpadl in server.gpadls.values():
        if gpadl.state in _SHARED:
            yield from _gpadl(gpadl)
    for channel in known:
        if channel.state is HostChannel.OPEN and channel.request is not None:
            yield _guest(_open(channel, info))
            result = control.OpenResult(
                channel_id=channel.channel_id, open_id=channel.request.open_id, status=Status.SUCCESS
            )
            yield _host(result)


def _guest(body: Format) -> Said:
    return Direction.GUEST_TO_HOST, build_message(body)


def _host(body: Format) -> Said:
    return Direction.HOST_TO_GUEST, build_message(body)


def _contact(info: ConnectionInfo) -> Format:
    pages = info.monitor_pages
    to_guest, to_host = (pages.parent_to_child, pages.child_to_parent) if pages else (0, 0)
    if info.version < Version.V5_0:
        return control.InitiateContact(
            version=info.version,
            target_message_vp=info.target_message_vp,
            interrupt_page=info.interrupt_page or 0,
            parent_to_child_monitor_page=to_guest,
            child_to_parent_monitor_page=to_host,
        )
    contact = control.InitiateContact6(
        version=info.version,
        target_message_vp=info.target_message_vp,
        features=info.features,
        parent_to_child_monitor_page=to_guest,
        child_to_parent_monitor_page=to_host,
        client_id=info.client_id,
    )
    return contact if info.version >= Version.V6_0 else control.InitiateContact5.parse(contact.build())


def _version_response(info: ConnectionInfo, connection_id: int) -> Format:
    selected = int(info.version) if info.version < Version.V5_0 else connection_id
    if info.version < Version.V6_0:
        return control.VersionResponse(version_supported=1, version_or_connection_id=selected)
    if not info.host_monitor_pages or info.monitor_pages is None:
        return control.VersionResponse2(version_supported=1, version_or_connection_id=selected, features=info.features)
    return control.VersionResponse3(
        version_supported=1,
        version_or_connection_id=selected,
        features=info.features,
        parent_to_child_monitor_page=info.monitor_pages.parent_to_child,
        child_to_parent_monitor_page=info.monitor_pages.child_to_parent,
    )


def _gpadl(gpadl: ServerGpadl) -> Iterator[Said]:
    data = build_ranges(gpadl.ranges)
    words = tuple(int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8))
    yield _guest(
        control.GpadlHeader(
            channel_id=gpadl.channel_id,
            gpadl_id=gpadl.gpadl_id,
            range_bytes=len(data),
            range_count=len(gpadl.ranges),
            words=words[: control.MAX_HEADER_WORDS],
        )
    )
    for start in range(control.MAX_HEADER_WORDS, len(words), control.MAX_BODY_WORDS):
        yield _guest(control.GpadlBody(gpadl_id=gpadl.gpadl_id, words=words[start : start + control.MAX_BODY_WORDS]))
    yield _host(control.GpadlCreated(channel_id=gpadl.channel_id, gpadl_id=gpadl.gpadl_id, status=Status.SUCCESS))


def _open(channel: Channel, info: ConnectionInfo) -> Format:
    request = channel.request
    assert request is not None
    params = channel.open_params(request)
    opening = control.OpenChannel2(
        channel_id=channel.channel_id,
        open_id=request.open_id,
        ring_gpadl_id=request.ring_gpadl_id,
        target_vp=INTERRUPTS_DISABLED if params.target_vp is None else params.target_vp,
        downstream_page_offset=request.downstream_page_offset,
        user_data=request.user_data,
        connection_id=params.connection_id,
        event_flag=params.event_flag,
        flags=OpenChannelFlags.REDIRECT_INTERRUPT if request.redirect_interrupt else OpenChannelFlags(0),
    )
    return opening if info.features & _CHOSEN_SIGNALS else control.OpenChannel.parse(opening.build())

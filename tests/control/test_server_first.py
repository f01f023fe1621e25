"""One ordinary life of a channel, at the host."""

from __future__ import annotations

from uuid import uuid4

from vmbus.control.host_events import CloseRequested, GpadlRequested, OpenRequested, Unloaded, VersionNegotiated
from vmbus.control.messages import build_message, read_message
from vmbus.control.server import ControlServer
from vmbus.wire import control, guids
from vmbus.wire.control_values import Version


def test_a_channel_is_offered_opened_closed_and_released() -> None:
    server = ControlServer()
    channel_id = server.offer(guids.SCSI, uuid4())

    def say(body: control.Format) -> list[type]:
        return [type(event) for event in server.receive(build_message(body))]

    def heard() -> list[type]:
        return [type(read_message(m.payload, Version.V5_3).body) for m in server.outgoing()]

    assert say(control.InitiateContact5(version=Version.V5_3)) == [VersionNegotiated]
    say(control.RequestOffers())
    assert heard()[-1] is control.AllOffersDelivered
    words = (32 * 4096, *range(26))
    say(control.GpadlHeader(channel_id=channel_id, gpadl_id=7, range_bytes=264, range_count=1, words=words))
    assert say(control.GpadlBody(gpadl_id=7, words=tuple(range(6)))) == [GpadlRequested]
    server.gpadl_created(channel_id, 7)
    assert say(control.OpenChannel(channel_id=channel_id, ring_gpadl_id=7, downstream_page_offset=16)) == [
        OpenRequested
    ]
    server.open_finished(channel_id)
    assert heard() == [control.GpadlCreated, control.OpenResult]
    assert say(control.CloseChannel(channel_id=channel_id)) == [CloseRequested]
    server.close_finished(channel_id)
    server.rescind(channel_id)
    say(control.RelIdReleased(channel_id=channel_id))
    assert say(control.Unload())[-1] is Unloaded
    assert heard() == [control.RescindChannelOffer, control.UnloadComplete]

"""A card's state goes to another host process, and the guest notices nothing."""

from __future__ import annotations

import json
from collections.abc import Callable

from vmbus.devices.network import NetworkProvider
from vmbus.testing.kept_frames import KeptFrames
from vmbus.testing.network import Wire
from vmbus.testing.raw_card import RawCard, frame_message
from vmbus.wire.nvsp import NvspMessageType, NvspRevokeReceiveBuffer, NvspRevokeSendBuffer

MakeWire = Callable[..., Wire]
MAC = bytes.fromhex("00155d0a0b0c")
FRAME = MAC + bytes(6) + b"\x08\x00" + bytes(60)


def moved(wire: Wire, backend: KeptFrames) -> NetworkProvider:
    """The provider's state in a new provider, on the same channel."""
    state = json.loads(json.dumps(wire.provider.save()))
    handler = wire.pair.host.handler
    handler.on_close()
    after = NetworkProvider(backend, mac=bytes(6))
    after.restore(state)
    after.attach(wire)
    wire.provider = after
    wire.pair.host.handler = after.open(wire.pair.host)
    return after


def test_frames_flow_both_ways_after_a_move(make_wire: MakeWire) -> None:
    backend = KeptFrames()
    wire = make_wire(KeptFrames())
    card = RawCard(wire).bring_up()
    after = moved(wire, backend)
    assert after.card.mac == MAC and backend.deliver is not None
    card.messages.clear()
    assert backend.deliver([FRAME]) == 1
    card.rndis(frame_message(FRAME), section=1)
    assert backend.frames == [FRAME]
    assert len(card.messages) == 1 and card.failure is None


def test_packets_under_way_are_completed_to_the_new_process(make_wire: MakeWire) -> None:
    first, second = KeptFrames(), KeptFrames()
    wire = make_wire(first)
    card = RawCard(wire).bring_up()
    card.auto_complete = False
    card.received.clear()
    assert first.deliver is not None
    first.deliver([FRAME] * 3)
    card.pair.pump()
    after = moved(wire, second)
    assert after.session is not None and after.session.receive_buffer is not None
    buffer = after.session.receive_buffer
    assert len(buffer.free) == buffer.count - 3
    card.complete(card.received[0].transaction_id)
    card.pair.pump()
    assert len(buffer.free) == buffer.count and card.failure is None


def test_ids_of_packets_in_a_buffer_that_was_taken_back_are_not_given_again_after_a_move(make_wire: MakeWire) -> None:
    first, second = KeptFrames(), KeptFrames()
    wire = make_wire(first)
    card = RawCard(wire).bring_up()
    assert first.deliver is not None and first.deliver([FRAME]) == 1
    card.pair.pump()
    earlier = card.received[-1].transaction_id
    card.ask(NvspMessageType.REVOKE_RECEIVE_BUFFER, NvspRevokeReceiveBuffer(id=0xCAFE))
    card.ask(NvspMessageType.REVOKE_SEND_BUFFER, NvspRevokeSendBuffer(id=0))
    moved(wire, second)
    card.lend_buffers()
    card.set_filter(0x0D)
    assert second.deliver is not None and second.deliver([FRAME]) == 1
    card.pair.pump()
    assert card.received[-1].transaction_id > earlier and card.failure is None


def test_a_card_that_nobody_opened_moves_too(make_wire: MakeWire) -> None:
    wire = make_wire(KeptFrames())
    wire.provider.set_link(False)
    after = moved(wire, KeptFrames())
    assert not after.card.link_up and after.card.mac == MAC


def test_a_card_says_what_it_does(make_wire: MakeWire) -> None:
    wire = make_wire(KeptFrames())
    RawCard(wire).bring_up()
    state = json.loads(json.dumps(wire.provider.inspect()))
    assert state["mac"] == "00:15:5d:0a:0b:0c"
    assert state["session"]["nvsp_version"] == "V61"
    assert state["session"]["rndis"] == "operational"
    assert state["session"]["receive_buffer"]["outstanding_packets"] == 0


def test_sections_that_a_killed_host_lent_stay_the_guests(make_wire: MakeWire) -> None:
    first = KeptFrames()
    wire = make_wire(first)
    card = RawCard(wire).bring_up()
    card.auto_complete = False
    card.received.clear()
    assert first.deliver is not None
    first.deliver([FRAME] * 3)
    card.pair.pump()
    lent = card.received[0]
    handler = wire.pair.host.handler
    left_behind = json.loads(json.dumps(wire.provider.checkpoint()))
    handler.on_close()
    after = NetworkProvider(KeptFrames(), mac=bytes(6))
    after.restore(left_behind)
    after.attach(wire)
    wire.provider = after
    wire.pair.host.handler = after.open(wire.pair.host)
    wire.pair.host.adopt([], {lent.transaction_id: lent.extension}, 0)
    assert after.session is not None and after.session.receive_buffer is not None
    buffer = after.session.receive_buffer
    assert len(buffer.free) == buffer.count - 3
    card.complete(lent.transaction_id)
    card.pair.pump()
    assert len(buffer.free) == buffer.count and card.failure is None

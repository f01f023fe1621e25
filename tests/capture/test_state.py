"""A snapshot holds what is still in force, and nothing that is over."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import pytest

from vmbus.capture import encode
from vmbus.capture.reader import Interface, Record, packet_record
from vmbus.capture.state import FIRST_PACKETS, StateKeeper, offered_channel
from vmbus.capture.walk import Block
from vmbus.wire.capture import LINK_TYPE, RecordKind
from vmbus.wire.control import (
    CloseChannel,
    GpadlBody,
    GpadlCreated,
    GpadlHeader,
    GpadlTeardown,
    GpadlTorndown,
    InitiateContact,
    ModifyChannel,
    OpenChannel,
    OpenResult,
    RelIdReleased,
    RescindChannelOffer,
    Unload,
    VersionResponse,
)
from vmbus.wire.control_values import MessageType, Status, Version
from vmbus.wire.offer import OfferChannel
from vmbus.wire.schema import Format

Say = Callable[[MessageType, Format], None]
T = MessageType


@pytest.fixture
def keeper() -> StateKeeper:
    return StateKeeper()


@pytest.fixture
def say(keeper: StateKeeper, control_message: Callable[[MessageType, Format], bytes]) -> Say:
    def follow(kind: MessageType, body: Format) -> None:
        keeper.follow(encode.message(1, 1, 0, 0, 1, 1, control_message(kind, body)))

    return follow


def snapshot(keeper: StateKeeper) -> list[Record]:
    interface = Interface(0, LINK_TYPE, resolution=9)
    found = [packet_record(Block(0, 6, block[8:-4], "<"), [interface] * 100, 1) for block in keeper.blocks()]
    assert all(record.is_snapshot and not record.problem for record in found)
    return found


def types(keeper: StateKeeper) -> list[int]:
    return [record.body[0] for record in snapshot(keeper) if record.kind is RecordKind.MESSAGE]


def connect(say: Say) -> None:
    say(T.INITIATE_CONTACT, InitiateContact(version=Version.V4_0))
    say(T.VERSION_RESPONSE, VersionResponse(version_supported=1))


def offer(say: Say, channel_id: int = 7) -> None:
    nil = UUID(int=1)
    say(T.OFFER_CHANNEL, OfferChannel(interface_id=nil, instance_id=nil, channel_id=channel_id, connection_id=1))


def make_gpadl(say: Say, channel_id: int = 7, gpadl_id: int = 9) -> None:
    say(
        T.GPADL_HEADER, GpadlHeader(channel_id=channel_id, gpadl_id=gpadl_id, range_bytes=32, range_count=1, words=(1,))
    )
    say(T.GPADL_BODY, GpadlBody(gpadl_id=gpadl_id, words=(2, 3)))
    say(T.GPADL_CREATED, GpadlCreated(channel_id=channel_id, gpadl_id=gpadl_id, status=Status(0)))


def open_it(say: Say, channel_id: int = 7) -> None:
    say(T.OPEN_CHANNEL, OpenChannel(channel_id=channel_id, ring_gpadl_id=9, downstream_page_offset=1))
    say(T.OPEN_CHANNEL_RESULT, OpenResult(channel_id=channel_id, open_id=0, status=Status(0)))


def packets(keeper: StateKeeper, count: int, channel_id: int = 7) -> None:
    for number in range(count):
        if channel_id in keeper.negotiating:
            keeper.follow(encode.packets(2, 1, channel_id, [(6, 0, number, b"", b"12345678")], 0, 0, 0, 4096))


def test_an_open_channel_is_told_from_contact_to_its_first_packets(keeper: StateKeeper, say: Say) -> None:
    connect(say)
    offer(say)
    make_gpadl(say)
    open_it(say)
    packets(keeper, FIRST_PACKETS + 10)
    assert types(keeper) == [14, 15, 1, 8, 9, 10, 5, 6]
    assert sum(record.kind is RecordKind.PACKET for record in snapshot(keeper)) == FIRST_PACKETS
    assert not keeper.negotiating


def test_what_is_closed_torn_down_or_released_is_forgotten(keeper: StateKeeper, say: Say) -> None:
    connect(say)
    offer(say)
    make_gpadl(say)
    open_it(say)
    packets(keeper, 3)
    say(T.CLOSE_CHANNEL, CloseChannel(channel_id=7))
    assert types(keeper) == [14, 15, 1, 8, 9, 10]
    say(T.GPADL_TEARDOWN, GpadlTeardown(channel_id=7, gpadl_id=9))
    assert types(keeper) == [14, 15, 1, 8, 9, 10, 11]
    say(T.GPADL_TORNDOWN, GpadlTorndown(gpadl_id=9))
    say(T.RESCIND_CHANNEL_OFFER, RescindChannelOffer(channel_id=7))
    assert types(keeper) == [14, 15, 1, 2]
    say(T.REL_ID_RELEASED, RelIdReleased(channel_id=7))
    assert types(keeper) == [14, 15]
    say(T.UNLOAD, Unload())
    assert (types(keeper), keeper.kept_bytes) == ([], 0)


def test_only_the_last_of_many_changes_of_processor_is_told(keeper: StateKeeper, say: Say) -> None:
    connect(say)
    offer(say)
    open_it(say)
    for processor in range(100):
        say(T.MODIFY_CHANNEL, ModifyChannel(channel_id=7, target_vp=processor))
    assert types(keeper) == [14, 15, 1, 5, 6, 22]
    assert ModifyChannel.parse(snapshot(keeper)[-1].body, 8).target_vp == 99


def test_a_channel_offered_again_or_a_guest_that_connects_again_starts_anew(keeper: StateKeeper, say: Say) -> None:
    connect(say)
    offer(say)
    make_gpadl(say)
    open_it(say)
    offer(say)
    assert types(keeper) == [14, 15, 1]
    connect(say)
    assert types(keeper) == [14, 15]
    assert keeper.kept_bytes == 0


def test_what_belongs_to_no_channel_is_let_go(keeper: StateKeeper, say: Say) -> None:
    say(T.GPADL_BODY, GpadlBody(gpadl_id=1, words=()))
    say(T.GPADL_CREATED, GpadlCreated(channel_id=1, gpadl_id=1, status=Status(0)))
    say(T.GPADL_TORNDOWN, GpadlTorndown(gpadl_id=1))
    say(T.REL_ID_RELEASED, RelIdReleased(channel_id=1))
    keeper.follow(encode.signal(1, 1, 7, 0, 0))
    keeper.follow(encode.message(1, 1, 0, 0, 1, 1, b""))
    assert types(keeper) == []


def test_a_channel_opened_before_the_capture_began_is_told_as_far_as_it_is_known(keeper: StateKeeper, say: Say) -> None:
    open_it(say)
    packets(keeper, 2)
    assert types(keeper) == [5, 6]


def test_what_is_kept_is_bounded(keeper: StateKeeper, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmbus.capture.state.MAX_KEPT", 2000)
    connect(say)
    for gpadl_id in range(100):
        make_gpadl(say, 7, gpadl_id)
    assert keeper.kept_bytes <= 2000


def test_only_a_whole_offer_offers_a_channel() -> None:
    whole = encode.message(1, 2, 0, 2, 0, 1, b"\1" + bytes(195))
    assert offered_channel(whole) == 0
    assert offered_channel(encode.message(1, 2, 0, 2, 0, 1, b"\1" + bytes(100))) is None
    assert offered_channel(encode.message(1, 2, 0, 2, 0, 1, b"\2" + bytes(195))) is None

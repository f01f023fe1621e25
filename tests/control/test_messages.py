"""The table of messages: which bytes are which message for whom."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmbus.control.errors import MessageTooShort, UnsupportedMessage
from vmbus.control.messages import (
    MESSAGES,
    Sender,
    build_message,
    parse_message,
    read_message,
    sent_in,
)
from vmbus.wire import control
from vmbus.wire.control_values import (
    ALL_FEATURES,
    ALL_VERSIONS,
    MAX_MESSAGE_SIZE,
    FeatureFlags,
    MessageType,
    Status,
    Version,
    message_connection_id,
    signal_connection_id,
)
from vmbus.wire.offer import (
    HvsockUserDefined,
    LegacyOfferFlags,
    OfferChannel,
    OfferChannelPre7,
    OfferFlags,
    PipeUserDefined,
    offer_flags,
    user_defined_format,
)

SIGNAL = FeatureFlags.GUEST_SPECIFIED_SIGNAL_PARAMETERS
REDIRECT = FeatureFlags.CHANNEL_INTERRUPT_REDIRECTION


def payload(number, *body):
    return bytes([number, 0, 0, 0, 0, 0, 0, 0]) + b"".join(body)


def test_all_29_messages_are_there_and_fit_a_hypervisor_message():
    assert [int(number) for number in MESSAGES] == list(range(1, 30))
    for row in MESSAGES.values():
        assert all(8 + variant.body.SIZE <= MAX_MESSAGE_SIZE for variant in row.variants)
        assert row.message_type.is_known and row.purpose and row.variants


def test_known_bytes_are_built():
    # Literal vectors of openvmm vmbus_core/src/lib.rs.
    assert build_message(control.CloseChannel(channel_id=5)) == payload(7, b"\5\0\0\0")
    assert build_message(control.Unload()) == payload(16)
    header = control.GpadlHeader(channel_id=5, gpadl_id=1, range_bytes=7, range_count=6)
    assert build_message(header) == payload(8, b"\5\0\0\0\1\0\0\0\7\0\6\0")


@pytest.mark.parametrize(
    ("version", "features", "body"),
    [
        (Version.V5_3, SIGNAL, control.OpenChannel),
        (Version.V6_0, FeatureFlags(0), control.OpenChannel),
        (Version.V6_0, SIGNAL, control.OpenChannel2),
        (Version.V6_0, REDIRECT, control.OpenChannel2),
    ],
)
def test_the_form_of_an_open_request_follows_from_version_and_features(version, features, body):
    message = parse_message(payload(5, bytes(200)), version, features)
    assert type(message.body) is body
    assert len(message.trailing) == 200 - body.SIZE


def test_an_open_request_that_is_too_short_for_its_form_is_not_taken_for_the_other_one():
    with pytest.raises(MessageTooShort, match="OPEN_CHANNEL"):
        parse_message(payload(5, bytes(140)), Version.V6_0, SIGNAL)


def test_the_form_of_a_version_response_follows_from_its_size():
    sizes = {8: control.VersionResponse, 11: control.VersionResponse, 12: control.VersionResponse2}
    sizes |= {31: control.VersionResponse2, 32: control.VersionResponse3}
    for size, body in sizes.items():
        assert type(parse_message(payload(15, bytes(size))).body) is body


def test_the_form_of_a_contact_follows_from_the_version_that_it_asks_for():
    for version, size, body in (
        (Version.V4_1, 232, control.InitiateContact),
        (Version.V5_0, 32, control.InitiateContact5),
        (Version.V6_0, 47, control.InitiateContact5),
        (Version.V6_0, 48, control.InitiateContact6),
    ):
        asked = int(version).to_bytes(4, "little").ljust(size, b"\0")
        assert type(parse_message(payload(14, asked)).body) is body


def test_offers_before_1_1_are_shorter():
    assert type(parse_message(payload(1, bytes(188)), Version.V0_13).body) is OfferChannel
    assert type(parse_message(payload(1, bytes(187)), Version.V0_13).body) is OfferChannelPre7


def test_a_socket_request_has_a_silo_from_5_2_if_it_is_long_enough():
    assert type(parse_message(payload(21, bytes(48)), Version.V5_2).body) is control.TlConnectRequest2
    assert type(parse_message(payload(21, bytes(47)), Version.V5_2).body) is control.TlConnectRequest
    assert type(parse_message(payload(21, bytes(48)), Version.V5_1).body) is control.TlConnectRequest


@pytest.mark.parametrize(
    ("number", "first"),
    [
        (17, "1.1"),
        (18, "4.0"),
        (20, "4.0"),
        (21, "4.0"),
        (22, "4.1"),
        (23, "4.1"),
        (24, "5.3"),
        (25, "6.0"),
        (27, "6.0"),
    ],
)
def test_messages_begin_with_a_version(number, first):
    body = bytes(100)
    for version in ALL_VERSIONS:
        known = float(version.number if version.number != "0.13" else "0.1") >= float(first)
        assert bool(sent_in(MessageType(number), version, ALL_FEATURES)) is known
        if known:
            parse_message(payload(number, body), version, ALL_FEATURES)
        else:
            with pytest.raises(UnsupportedMessage, match=version.number):
                parse_message(payload(number, body), version, ALL_FEATURES)


def test_without_a_connection_only_four_messages_are_known():
    known = []
    for number in range(32):
        try:
            parse_message(payload(number, bytes(200)))
            known.append(number)
        except UnsupportedMessage:
            pass
    assert known == [14, 15, 16, 19]


def test_messages_of_a_feature_need_it():
    for number, feature in ((25, FeatureFlags.MODIFY_CONNECTION), (27, FeatureFlags.PAUSE_RESUME)):
        parse_message(payload(number, bytes(16)), Version.V6_0, feature)
        with pytest.raises(UnsupportedMessage):
            parse_message(payload(number, bytes(16)), Version.V6_0, ALL_FEATURES & ~feature)


def test_less_than_a_header_is_no_message():
    for parse in (parse_message, read_message):
        with pytest.raises(MessageTooShort, match="7 bytes"):
            parse(bytes(7))
    with pytest.raises(MessageTooShort):
        read_message(bytes(7), Version.V5_3)


def test_reading_from_outside_finds_something_in_everything():
    assert type(read_message(payload(5, bytes(140))).body) is control.OpenChannel
    assert type(read_message(payload(5, bytes(148))).body) is control.OpenChannel2
    assert type(read_message(payload(5, bytes(200))).body) is control.OpenChannel2, "the longest that fits"
    assert type(read_message(payload(5, bytes(200)), Version.V5_3).body) is control.OpenChannel
    assert type(read_message(payload(5, bytes(200)), Version.V6_0, SIGNAL).body) is control.OpenChannel2
    assert type(read_message(payload(27), Version.V2_4).body) is control.Pause, "sent, though it should not be"
    assert read_message(payload(99, b"xy")).body == control.UnknownMessage(content=b"xy")
    assert read_message(payload(7, b"xy"), Version.V5_3).body == control.UnknownMessage(content=b"xy")
    old = int(Version.V3_0).to_bytes(4, "little").ljust(48, b"\0")
    assert type(read_message(payload(14, old)).body) is control.InitiateContact


@settings(deadline=None)
@given(st.binary(min_size=8, max_size=240), st.sampled_from([None, *ALL_VERSIONS]), st.integers(0, 255))
def test_every_message_is_read_and_built_again_byte_by_byte(data, version, features):
    assert read_message(data, version, FeatureFlags(features)).build() == data


@settings(deadline=None)
@given(st.integers(1, 29), st.binary(max_size=232), st.sampled_from(ALL_VERSIONS), st.integers(0, 255))
def test_what_is_parsed_strictly_is_built_again_byte_by_byte(number, body, version, features):
    data = payload(number, body)
    try:
        message = parse_message(memoryview(data), version, FeatureFlags(features))
    except (MessageTooShort, UnsupportedMessage):
        return
    assert message.build() == data
    assert message.message_type == number


def test_who_sends_what():
    from_host = [int(row.message_type) for row in MESSAGES.values() if row.sender is Sender.HOST]
    assert from_host == [1, 2, 4, 6, 10, 12, 15, 17, 20, 23, 24, 26, 28]


def test_offer_flags_mean_something_else_without_confidential_channels():
    old = offer_flags(0x6, FeatureFlags(0))
    assert old == LegacyOfferFlags.SERVER_SUPPORTS_TRANSFER_PAGES | LegacyOfferFlags.SERVER_SUPPORTS_GPADLS
    new = offer_flags(0x6, FeatureFlags.CONFIDENTIAL_CHANNELS)
    assert new == OfferFlags.CONFIDENTIAL_RING_BUFFER | OfferFlags.CONFIDENTIAL_EXTERNAL_MEMORY


def test_user_defined_bytes_have_a_layout_if_the_flags_say_so():
    assert user_defined_format(OfferFlags.TLNPI_PROVIDER | OfferFlags.NAMED_PIPE_MODE) is HvsockUserDefined
    assert user_defined_format(OfferFlags.NAMED_PIPE_MODE) is PipeUserDefined
    assert user_defined_format(0) is None


def test_a_warning_is_not_a_failure_but_an_error_is():
    assert Status.SUCCESS.succeeded and Status(0x40000000).succeeded
    assert not Status.UNSUCCESSFUL.succeeded and not Status.CONNECTION_REFUSED.succeeded


def test_connection_ids_carry_sint_and_vtl():
    assert signal_connection_id(5) == 0x2005
    assert signal_connection_id(5, sint=7, vtl=2) == 2 << 16 | 7 << 12 | 5
    assert message_connection_id(sint=7, vtl=2) == 0x800074


def test_the_guid_of_an_offer_lies_in_microsofts_byte_order():
    offer = OfferChannel(
        interface_id=UUID("00112233-4455-6677-8899-aabbccddeeff"),
        instance_id=UUID(int=0),
        channel_id=1,
        connection_id=2,
    )
    assert build_message(offer)[8:24].hex() == "33221100554477668899aabbccddeeff"

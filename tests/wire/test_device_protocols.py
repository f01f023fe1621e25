"""Messages of the device protocols, as they lie in a channel."""

from __future__ import annotations

from uuid import UUID

import pytest

from vmbus.wire import guids
from vmbus.wire.crash import CrashMessage, CrashMessageType, DumpType
from vmbus.wire.dynamic_memory import BalloonResponse, MaxPageCount, MemoryMessage, MemoryMessageType, PageRange
from vmbus.wire.gel import LogBufferOffset, LogMessage
from vmbus.wire.get.message import GetMessage
from vmbus.wire.get.values import GetMessageType, HostNotification, HostRequest
from vmbus.wire.ic.framework import FRAMEWORK_1, FRAMEWORK_3, IcMessage, IcNegotiate
from vmbus.wire.ic.kvp import HOST_KEYS, KvpAddressBinary, KvpAddressText, KvpMessage, KvpMessageV5, KvpOperation
from vmbus.wire.ic.timesync import TimesyncMessage, TimesyncReferenceMessage
from vmbus.wire.ic.values import IcFlags, IcMessageType, IcStatus, IcVersion
from vmbus.wire.keyboard import KeyboardMessage, KeyboardMessageType, KeystrokeFlags
from vmbus.wire.mouse import REPORT_DESCRIPTOR, MouseMessage
from vmbus.wire.protocols import ABBREVIATIONS, GEL, GEL_INSTANCE, HVSOCKET, PROTOCOLS, Framing, protocol_of
from vmbus.wire.schema import Format
from vmbus.wire.tree import walk
from vmbus.wire.video import VideoMessage, VideoVersion
from vmbus.wire.vpci import (
    RequirementsCompletion,
    StatusCompletion,
    TranslateCompletion2,
    VpciMessage,
    VpciMessageType,
)
from vmbus.wire.vstor import ScsiCompletion, VersionCompletion


def test_a_negotiation_lists_framework_versions_and_then_service_versions() -> None:
    wire = bytes.fromhex(
        "00000000 0000 00000000 1400 00000000 00 03 0000"  # header: transaction and request, 20 bytes follow
        "0200 0100 00000000 0100 0000 0300 0000 0300 0200"
    )
    message = IcMessage.parse(wire)
    assert message.flags == IcFlags.TRANSACTION | IcFlags.REQUEST
    assert message.body == IcNegotiate(
        framework_version_count=2,
        message_version_count=1,
        framework_versions=(FRAMEWORK_1, FRAMEWORK_3),
        message_versions=(IcVersion(major=3, minor=2),),
    )
    assert message.message_size == len(message.body.build()) and message.build() == wire


def ic(message_type: IcMessageType, major: int, body: bytes) -> IcMessage:
    header = IcMessage(
        framework_version=FRAMEWORK_3,
        message_type=message_type,
        message_version=IcVersion(major=major),
        message_size=len(body),
        flags=IcFlags.TRANSACTION | IcFlags.REQUEST,
        body=body,
    )
    return IcMessage.parse(header.build())


@pytest.mark.parametrize(
    ("major", "expected"), [(1, TimesyncMessage), (3, TimesyncMessage), (4, TimesyncReferenceMessage)]
)
def test_time_messages_are_laid_out_by_the_service_version(major: int, expected: type[Format]) -> None:
    assert type(ic(IcMessageType.TIME_SYNC, major, bytes(28)).body) is expected


def test_ip_settings_are_text_before_kvp_5_and_binary_from_then_on() -> None:
    body = bytes([KvpOperation.GET_IP_ADDRESS_INFO, 0]) + bytes(0x1D02)
    old, new = ic(IcMessageType.KVP_EXCHANGE, 4, body).body, ic(IcMessageType.KVP_EXCHANGE, 5, body).body
    assert isinstance(old, KvpMessage) and type(old.body) is KvpAddressText
    assert isinstance(new, KvpMessageV5) and type(new.body) is KvpAddressBinary


def test_a_linux_guest_s_answer_to_the_first_kvp_enumeration_decodes_to_its_text() -> None:
    key, value = HOST_KEYS[0].encode("utf-16-le") + b"\0\0", "debian".encode("utf-16-le") + b"\0\0"
    pair = b"".join(n.to_bytes(4, "little") for n in (0, 1, len(key), len(value)))
    message = ic(
        IcMessageType.KVP_EXCHANGE, 4, b"\x03\x02\0\0" + pair + key.ljust(512, b"\0") + value.ljust(2048, b"\0")
    )
    node, _ = walk(IcMessage, message.build())
    assert node.find("index").value == 0
    assert node.find("text").value.startswith(value)
    assert str(IcStatus(0x80070103)) == "NO_MORE_ITEMS"


def test_an_unpublished_integration_service_keeps_its_bytes() -> None:
    assert ic(IcMessageType.RDV, 1, b"abc").body == b"abc"


def test_a_key_of_the_keyboard_is_a_raw_packet_filled_up_to_eight_bytes() -> None:
    message = KeyboardMessage.parse(bytes.fromhex("03000000 4800 0000 06000000") + bytes(4))
    assert message.message_type is KeyboardMessageType.EVENT
    assert message.body.make_code == 0x48 and message.body.flags == KeystrokeFlags.IS_BREAK | KeystrokeFlags.IS_E0
    assert message.trailing == bytes(4)


def test_the_mouse_s_report_descriptor_is_as_long_as_its_hid_descriptor_says() -> None:
    attributes = (32).to_bytes(4, "little") + bytes.fromhex("5e0421060100") + bytes(22)
    hid = bytes.fromhex("09 21 0101 00 01 22") + len(REPORT_DESCRIPTOR).to_bytes(2, "little")
    body = attributes + hid + REPORT_DESCRIPTOR.ljust(128, b"\0")
    message = MouseMessage.parse(bytes.fromhex("02000000") + len(body).to_bytes(4, "little") + body)
    assert len(body) == 169
    assert message.body.report_descriptor == REPORT_DESCRIPTOR
    assert message.body.device_attributes.vendor_id == 0x045E and len(message.body.padding) == 61


def test_a_video_version_has_its_minor_in_the_high_half() -> None:
    message = VideoMessage.parse(bytes.fromhex("01000000 0c000000 03000500"))
    assert message.body.version is VideoVersion.WIN10
    assert int(VideoVersion.WIN8) == 2 << 16 | 3


def test_page_ranges_of_a_balloon_have_40_bits_of_page_number_and_24_of_count() -> None:
    body = BalloonResponse(
        more_pages=0, range_count=1, range_array=(PageRange(start_page=0x123456789A, page_count=512),)
    )
    message = MemoryMessage(
        message_type=MemoryMessageType.BALLOON_RESPONSE, message_size=24, transaction_id=7, body=body
    )
    assert message.build().hex() == "0700180007000000" + "00000000" + "02000000" + "9a78563412000200"


def test_an_information_message_of_the_host_tells_the_most_memory() -> None:
    wire = bytes.fromhex("0c002000 01000000 00000000 10000000 00000000 08000000 0000100000000000")
    assert MemoryMessage.parse(wire).body.info == MaxPageCount(max_page_count=0x100000)


def test_message_ids_of_the_guest_emulation_transport_are_read_in_the_scope_of_their_type() -> None:
    notification = GetMessage.parse(bytes([1, GetMessageType.HOST_NOTIFICATION, 2, 0]))
    request = GetMessage.parse(bytes([1, GetMessageType.HOST_REQUEST, 2, 0]))
    assert notification.message.message_id is HostNotification.RESET
    assert request.message.message_id is HostRequest.TIME


def test_the_texts_of_a_log_event_are_found_in_its_buffer() -> None:
    def at(offset: int, size: int) -> LogBufferOffset:
        return LogBufferOffset(size=size, offset=offset)

    event = LogMessage(
        log_type=0, level=2, flags=0, name=at(0, 2), target=at(2, 3), fields=at(5, 2), message=at(7, 5),
        timestamp=1, buffer=b"hitgt{}hello",
    )  # fmt: skip
    assert (event.name_text, event.target_text, event.message_text) == (b"hi", b"tgt", b"hello")


def test_a_crash_dump_configuration_decodes() -> None:
    header = UUID(int=1).bytes_le + CrashMessageType.RESPONSE_GET_NIX_DUMP_CONFIG_V1.to_bytes(8, "little")
    message = CrashMessage.parse(header + (1 << 30).to_bytes(8, "little") + b"\1\0\0\0")
    assert message.body.dump_type is DumpType.ELF and message.body.max_dump_size == 1 << 30


def test_a_vpci_completion_is_laid_out_by_its_request() -> None:
    vpci = PROTOCOLS[guids.VPCI]
    ask = VpciMessage(message_type=VpciMessageType.CURRENT_RESOURCE_REQUIREMENTS, body=bytes(4)).build()
    assert vpci.completion_format(ask, bytes(32)) is RequirementsCompletion
    assert vpci.completion_format(ask, bytes(8)) is StatusCompletion
    assign = VpciMessageType.ASSIGNED_RESOURCES3.to_bytes(4, "little")
    assert vpci.completion_format(assign, bytes(136)) is TranslateCompletion2


def test_a_storage_completion_is_laid_out_by_its_request_and_as_scsi_if_that_was_not_seen() -> None:
    scsi = PROTOCOLS[guids.SCSI]
    assert scsi.completion_format((9).to_bytes(4, "little") + bytes(60), bytes(64)) is VersionCompletion
    assert scsi.completion_format(None, bytes(64)) is ScsiCompletion


def test_each_interface_s_protocol_says_whether_packets_have_a_pipe_header() -> None:
    assert [p.abbreviation for p in PROTOCOLS.values() if not p.is_pipe] == [
        "scsi", "ide", "fc", "net", "vpci", "keyboard", "balloon",
    ]  # fmt: skip
    assert set(PROTOCOLS) <= set(guids.INTERFACES) and len(ABBREVIATIONS) == len(PROTOCOLS) + 2


def test_the_log_differs_from_the_emulation_transport_by_instance_and_sockets_by_their_service() -> None:
    assert protocol_of(guids.GUEST_EMULATION, GEL_INSTANCE) is GEL
    assert protocol_of(guids.GUEST_EMULATION, UUID(int=5)) is PROTOCOLS[guids.GUEST_EMULATION]
    assert protocol_of(guids.vsock_service(1024)) is HVSOCKET and HVSOCKET.framing is Framing.STREAM
    assert protocol_of(UUID(int=99)) is None


def test_every_root_format_reads_any_message_to_its_last_byte() -> None:
    for protocol in ABBREVIATIONS.values():
        for root in (protocol.guest_to_host, protocol.host_to_guest):
            assert root is not None
            noise = b"\xee" * 96
            assert root.parse(noise).build() == noise

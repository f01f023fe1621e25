"""Which format belongs to which command, and what sense data looks like."""

from __future__ import annotations

import pytest

from vmbus.wire.schema import Format
from vmbus.wire.scsi import (
    CDB_FORMATS,
    MMC_CDB_FORMATS,
    block,
    capacity,
    cdb_format,
    cdb_length,
    disc,
    inquiry,
    mmc,
    mode,
    opcodes,
    parameter_format,
    primary,
    reservation,
    response_format,
    sense_format,
)  # fmt: skip
from vmbus.wire.scsi.opcodes import DeviceType, Opcode
from vmbus.wire.scsi.sense import DescriptorSense, FixedSense
from vmbus.wire.vstor import (
    COMPLETION_FORMATS,
    PlainCompletion,
    ScsiCompletion,
    ScsiCompletionV1,
    VersionCompletion,
    VstorOperation,
    completion_format,
    request_size,
)  # fmt: skip

LENGTHS = {0: 6, 1: 10, 2: 10, 4: 16, 5: 12}


@pytest.mark.parametrize("opcode", sorted(CDB_FORMATS))
def test_every_command_block_has_the_length_of_its_group(opcode: int) -> None:
    assert CDB_FORMATS[opcode].SIZE == LENGTHS[opcode >> 5]


@pytest.mark.parametrize("opcode", [0x01, 0x20, 0x59, 0x7F, 0x81, 0xA7, 0xC0, 0xFF])
def test_a_command_that_has_no_format_is_taken_apart_by_its_group(opcode: int) -> None:
    fmt = cdb_format(bytes([opcode]))
    assert fmt.__name__.startswith("OtherCdb")
    assert cdb_length(bytes([opcode])) == fmt.SIZE


def test_a_code_that_means_something_else_to_a_dvd_has_another_format_there() -> None:
    for opcode, fmt in MMC_CDB_FORMATS.items():
        assert cdb_format(bytes([opcode]), DeviceType.DVD) is fmt
        assert cdb_format(bytes([opcode]), DeviceType.DISK) is not fmt


@pytest.mark.parametrize(
    ("cdb", "fmt"),
    [
        ("12 00 00 00 24 00", inquiry.StandardInquiry),
        ("12 00 00 00 05 00", inquiry.InquiryHead),
        ("12 01 83 00 04 00", inquiry.VpdHeader),
        ("12 01 b0 00 40 00", inquiry.BlockLimits),
        ("12 01 77 00 40 00", inquiry.OtherVpd),
        ("03 00 00 00 fc 00", FixedSense),
        ("03 01 00 00 fc 00", DescriptorSense),
        ("1a 00 3f 00 c0 00", mode.ModeParameters6),
        ("5a 00 3f 00 00 00 00 00 c0 00", mode.ModeParameters10),
        ("4d 00 40 00 00 00 00 00 c0 00", mode.LogPage),
        ("25 00 00 00 00 00 00 00 00 00", capacity.Capacity10),
        ("9e 10 00 00 00 00 00 00 00 00 00 00 00 20 00 00", capacity.Capacity16),
        ("9e 10 00 00 00 00 00 00 00 00 00 00 00 0c 00 00", capacity.ShortCapacity16),
        ("9e 12 00 00 00 00 00 00 00 00 00 00 00 20 00 00", capacity.LbaStatusList),
        ("9e 17 00 00 00 00 00 00 00 00 00 00 00 20 00 00", None),
        ("a0 00 00 00 00 00 00 00 10 00 00 00", capacity.LunList),
        ("a0 00 00 00 00 00 00 00 00 08 00 00", capacity.LunListHead),
        ("a3 0c 01 12 00 00 00 00 02 00 00 00", primary.OneSupportedCommand),
        ("a3 0c 00 00 00 00 00 00 02 00 00 00", primary.SupportedCommands),
        ("5e 00 00 00 00 00 00 00 08 00", reservation.ReserveInHead),
        ("5e 02 00 00 00 00 00 00 08 00", reservation.ReserveCapabilities),
        ("5e 01 00 00 00 00 00 00 80 00", reservation.Reservations),
        ("43 00 00 00 00 00 00 00 0c 00", mmc.Toc),
        ("43 00 00 00 00 00 00 00 04 00", mmc.TocHead),
        ("ad 00 00 00 00 00 00 01 00 20 00 00", disc.DvdCopyright),
        ("51 00 00 00 00 00 00 00 22 00", disc.DiscInformation),
        ("28 00 00 00 00 00 00 00 01 00", None),
        ("28 00", None),
    ],
)
def test_what_a_command_returns_has_a_format(cdb: str, fmt: type[Format] | None) -> None:
    assert response_format(bytes.fromhex(cdb)) is fmt


@pytest.mark.parametrize(
    ("opcode", "fmt"),
    [
        (Opcode.UNMAP, block.UnmapList),
        (Opcode.MODE_SELECT_10, mode.ModeParameters10),
        (Opcode.PERSISTENT_RESERVE_OUT, reservation.ReserveOutList),
        (Opcode.WRITE_10, None),
    ],
)
def test_what_a_command_sends_has_a_format(opcode: Opcode, fmt: type[Format] | None) -> None:
    assert parameter_format(bytes([opcode])) is fmt
    assert parameter_format(b"") is None


@pytest.mark.parametrize(
    ("first", "fmt"), [(0x70, FixedSense), (0xF1, FixedSense), (0x72, DescriptorSense), (0, None), (0x7F, None)]
)
def test_sense_data_says_its_layout_in_its_first_byte(first: int, fmt: type[Format] | None) -> None:
    assert sense_format(bytes([first])) is fmt
    assert sense_format(b"") is None


def test_the_longest_completion_that_fits_is_chosen() -> None:
    execute = VstorOperation.EXECUTE_SRB
    assert completion_format(execute, 64) is ScsiCompletion
    assert completion_format(execute, 48) is ScsiCompletionV1
    assert completion_format(execute, 12) is PlainCompletion
    assert completion_format(VstorOperation.RESET_BUS, 64) is PlainCompletion
    assert completion_format(VstorOperation.QUERY_PROTOCOL_VERSION, 64) is VersionCompletion
    assert all(formats[0] is PlainCompletion for formats in COMPLETION_FORMATS.values())


def test_packets_are_longer_since_windows_8() -> None:
    assert [request_size(version) for version in (0x0200, 0x0402, 0x0501, 0x0602)] == [0x24, 0x24, 0x34, 0x34]


def test_unknown_operation_codes_keep_their_number() -> None:
    assert str(opcodes.Opcode(0xD7)) == "UNKNOWN_0xd7"

"""A DVD drive: what Linux's sr asks, and discs that come and go."""

from __future__ import annotations

import pytest

from vmbus.devices.storage.dvd import ScsiDvd
from vmbus.devices.storage.dvd_drive import DiscLocked
from vmbus.devices.storage.identity import Identity
from vmbus.devices.storage.memory import MemoryBackend
from vmbus.devices.storage.result import BUS_RESET
from vmbus.testing.scsi import Initiator
from vmbus.wire.scsi import response_format
from vmbus.wire.scsi.block import Transfer10
from vmbus.wire.scsi.capacity import Capacity10, ReadCapacity10
from vmbus.wire.scsi.disc import (
    GetPerformance,
    MechanismStatus,
    ReadBufferCapacity,
    ReadDiscInformation,
    ReadDvdStructure,
    ReadTrackInformation,
)  # fmt: skip
from vmbus.wire.scsi.inquiry import Inquiry, StandardInquiry
from vmbus.wire.scsi.mmc import Configuration, EventStatus, GetConfiguration, GetEventStatus, MediaEvent, ReadToc, Toc
from vmbus.wire.scsi.mode import CapabilitiesPage, ModeParameters6, ModeSense6
from vmbus.wire.scsi.opcodes import Cdb, DeviceType, Opcode
from vmbus.wire.scsi.primary import PreventAllow, StartStopUnit, TestUnitReady
from vmbus.wire.scsi.sense import AdditionalSense, SenseKey
from vmbus.wire.vstor import ScsiStatus

EVENTS = GetEventStatus(opcode=Opcode.GET_EVENT_STATUS, polled=1, classes=1 << 4, allocation_length=8)
READY = TestUnitReady(opcode=Opcode.TEST_UNIT_READY)
LOCK = PreventAllow(opcode=Opcode.PREVENT_ALLOW, prevent=1)
EJECT = StartStopUnit(opcode=Opcode.START_STOP_UNIT, load_eject=1)


def disc(size: int = 4 << 20) -> MemoryBackend:
    backend = MemoryBackend(size)
    backend.write_from([memoryview(b"CD001" * 100)], 32768)
    backend.read_only = True
    return backend


@pytest.fixture
def drive() -> ScsiDvd:
    return ScsiDvd(disc(), Identity.of("dvd"))


@pytest.fixture
def guest(drive: ScsiDvd) -> Initiator:
    return Initiator(drive)


def media_event(guest: Initiator) -> tuple[MediaEvent, int]:
    status = guest.run(EVENTS, length=8).parse(EventStatus).status
    return status.event, status.present  # type: ignore[union-attr]


def test_it_is_a_removable_dvd_of_2048_byte_blocks(guest: Initiator) -> None:
    answer = guest.run(Inquiry(opcode=Opcode.INQUIRY, allocation_length=96), length=96).parse(StandardInquiry)
    assert (answer.device_type, answer.removable) == (DeviceType.DVD, 1)
    capacity = guest.run(ReadCapacity10(opcode=Opcode.READ_CAPACITY_10), length=8).parse(Capacity10)
    assert (capacity.last_lba, capacity.block_size) == (2047, 2048)


def test_blocks_are_read_and_never_written(guest: Initiator) -> None:
    assert guest.run(Transfer10(opcode=Opcode.READ_10, lba=16, length=1), length=2048).data.startswith(b"CD001")
    outcome = guest.run(Transfer10(opcode=Opcode.WRITE_10, lba=16, length=1), data=bytes(2048))
    assert outcome.sense == (SenseKey.ILLEGAL_REQUEST, AdditionalSense.INVALID_OPERATION_CODE)


@pytest.mark.parametrize(("msf", "start", "end"), [(0, 0, 2048), (1, 0x000200, 0x001D17)])
def test_the_table_of_contents_has_one_track_and_the_lead_out(guest: Initiator, msf: int, start: int, end: int) -> None:
    toc = guest.run(ReadToc(opcode=Opcode.READ_TOC, msf=msf, allocation_length=100), length=100).parse(Toc)
    assert [(entry.track, entry.address) for entry in toc.entries] == [
        (1, start),
        (0xAA, (29 << 8 | 23) if msf else end),
    ]


def test_a_drive_without_a_disc_says_so_by_the_position_of_its_tray() -> None:
    drive = ScsiDvd(None, Identity.of("empty"))
    guest = Initiator(drive)
    assert guest.run(READY).sense == (SenseKey.NOT_READY, AdditionalSense.MEDIUM_NOT_PRESENT_TRAY_CLOSED)
    guest.run(EJECT)
    assert guest.run(READY).sense == (SenseKey.NOT_READY, AdditionalSense.MEDIUM_NOT_PRESENT_TRAY_OPEN)


def test_a_changed_disc_is_a_media_event_and_a_unit_attention(drive: ScsiDvd, guest: Initiator) -> None:
    drive.change_disc(disc(8 << 20))
    assert media_event(guest) == (MediaEvent.MEDIA_REMOVAL, 1)
    assert media_event(guest) == (MediaEvent.NEW_MEDIA, 1)
    assert media_event(guest) == (MediaEvent.NO_CHANGE, 1)
    assert guest.run(READY).sense == (SenseKey.UNIT_ATTENTION, AdditionalSense.MEDIUM_MAY_HAVE_CHANGED)
    capacity = guest.run(ReadCapacity10(opcode=Opcode.READ_CAPACITY_10), length=8).parse(Capacity10)
    assert capacity.last_lba == 4095


def test_a_locked_tray_keeps_the_disc_until_the_guest_lets_go(drive: ScsiDvd, guest: Initiator) -> None:
    guest.run(LOCK)
    assert guest.run(EJECT).sense == (SenseKey.ILLEGAL_REQUEST, AdditionalSense.MEDIUM_REMOVAL_PREVENTED)
    with pytest.raises(DiscLocked):
        drive.change_disc(None)
    assert media_event(guest) == (MediaEvent.EJECT_REQUEST, 1)
    guest.run(PreventAllow(opcode=Opcode.PREVENT_ALLOW))
    assert guest.run(EJECT).status == ScsiStatus.GOOD
    assert media_event(guest) == (MediaEvent.MEDIA_REMOVAL, 0)


def test_force_changes_a_locked_disc(drive: ScsiDvd, guest: Initiator) -> None:
    guest.run(LOCK)
    drive.change_disc(None, force=True)
    assert not drive.is_ready


@pytest.mark.parametrize("how", ["reset", "lose"])
def test_a_tray_is_locked_until_a_reset_or_until_the_guest_has_gone(drive: ScsiDvd, guest: Initiator, how: str) -> None:
    guest.run(LOCK)
    if how == "reset":
        drive.reset(BUS_RESET, AdditionalSense.BUS_RESET_OCCURRED)
    else:
        drive.lose(guest.name)
    drive.change_disc(None)
    assert not drive.is_ready


def test_the_configuration_names_the_profile_only_with_a_disc(drive: ScsiDvd, guest: Initiator) -> None:
    ask = GetConfiguration(opcode=Opcode.GET_CONFIGURATION, allocation_length=512)
    answer = guest.run(ask, length=512)
    configuration = answer.parse(Configuration)
    assert configuration.profile == 0x10
    assert configuration.length == len(answer.data) - 4
    drive.change_disc(None)
    assert guest.run(ask, length=512).parse(Configuration).profile == 0


def test_the_capabilities_page_is_what_linux_reads(guest: Initiator) -> None:
    ask = ModeSense6(opcode=Opcode.MODE_SENSE_6, page=0x2A, allocation_length=128)
    page = guest.run(ask, length=128).parse(ModeParameters6).pages[0].parameters
    assert isinstance(page, CapabilitiesPage)
    assert (page.loading_mechanism, page.lock, page.eject) == (1, 1, 1)


@pytest.mark.parametrize(
    "command",
    [
        ReadDiscInformation(opcode=Opcode.READ_DISC_INFORMATION, allocation_length=100),
        ReadTrackInformation(opcode=Opcode.READ_TRACK_INFORMATION, address_type=1, address=1, allocation_length=100),
        ReadDvdStructure(opcode=Opcode.READ_DVD_STRUCTURE, format=0, allocation_length=100),
        ReadDvdStructure(opcode=Opcode.READ_DVD_STRUCTURE, format=1, allocation_length=100),
        MechanismStatus(opcode=Opcode.MECHANISM_STATUS, allocation_length=100),
        GetPerformance(opcode=Opcode.GET_PERFORMANCE, max_descriptors=1),
        ReadBufferCapacity(opcode=Opcode.READ_BUFFER_CAPACITY, allocation_length=100),
        ReadToc(opcode=Opcode.READ_TOC, format=1, allocation_length=100),
        GetEventStatus(opcode=Opcode.GET_EVENT_STATUS, polled=1, classes=0xFF, allocation_length=100),
    ],
)
def test_what_it_returns_decodes_to_the_last_byte(guest: Initiator, command: Cdb) -> None:
    data = guest.run(command, length=100).data
    fmt = response_format(command.build())
    assert fmt is not None and data
    parsed, end = fmt.parse_prefix(data)
    assert end == len(data) and parsed.build() == data

"""Multimedia commands of a DVD drive: what Linux's ``sr`` and Windows' ``cdrom`` ask to find and mount a disc.

Sources: openvmm ``scsidisk/src/scsidvd/mod.rs``; Linux 6.12 ``drivers/scsi/sr.c``, ``drivers/cdrom/cdrom.c``; T10's
MMC-6.
"""

from __future__ import annotations

from collections.abc import Mapping

from vmbus.devices.storage import block_commands
from vmbus.devices.storage.dvd_drive import DvdDrive
from vmbus.devices.storage.result import GOOD, CheckCondition, Result, illegal_request, invalid_field
from vmbus.devices.storage.task import Task
from vmbus.wire.schema import Format
from vmbus.wire.scsi.disc import (
    BufferCapacity,
    DiscInformation,
    DvdCopyright,
    DvdPhysical,
    GetPerformance,
    MechanismState,
    MechanismStatus,
    Performance,
    PerformanceDescriptor,
    ReadBufferCapacity,
    ReadDiscInformation,
    ReadDvdStructure,
    ReadTrackInformation,
    TrackInformation,
)  # fmt: skip
from vmbus.wire.scsi.mmc import (
    Configuration,
    EventClass,
    EventStatus,
    Feature,
    FeatureCode,
    GetConfiguration,
    GetEventStatus,
    MediaEvent,
    MediaStatus,
    OtherStatus,
    Profile,
    ReadToc,
    Toc,
    TocEntry,
    TocFormat,
)  # fmt: skip
from vmbus.wire.scsi.opcodes import Opcode
from vmbus.wire.scsi.primary import PreventAllow, StartStopUnit
from vmbus.wire.scsi.sense import AdditionalSense, SenseKey

_LEAD_OUT = 0xAA
_SPEED = 1350 * 24
"""24 times the speed of a DVD, in kB/s (openvmm ``PERFORMANCE_1000_BYTES_PER_SECOND``)."""
_EVENT_CLASSES = 0b111_1110


def read_toc(unit: DvdDrive, task: Task) -> Result:
    """One data track and the lead-out behind it; or one session."""
    command = ReadToc.parse(task.cdb)
    unit.check_ready()
    which = command.format or command.old_format
    if which == TocFormat.TOC and command.track in (0, 1, _LEAD_OUT):
        first = [TocEntry(track=1, address=_address(0, command.msf))] if command.track != _LEAD_OUT else []
        entries = (*first, TocEntry(track=_LEAD_OUT, address=_address(unit.blocks, command.msf)))
    elif which == TocFormat.SESSION:
        entries = (TocEntry(track=1, address=_address(0, command.msf)),)
    else:
        raise invalid_field(6 if which == TocFormat.TOC else 2)
    data = Toc(length=2 + 8 * len(entries), entries=entries)
    return task.give(data.build(), command.allocation_length)


def _address(lba: int, msf: int) -> int:
    """A block number, or its minute, second and frame in three bytes; two seconds lie before block 0."""
    if not msf:
        return min(lba, 0xFFFFFFFF)
    seconds, frame = divmod(lba + 150, 75)
    minute, second = divmod(seconds, 60)
    return min(minute, 255) << 16 | second << 8 | frame


def _features(unit: DvdDrive) -> list[Feature]:
    present = int(unit.is_ready)

    def feature(code: FeatureCode, version: int, always: bool, *words: int) -> Feature:
        return Feature(
            code=code, version=version, persistent=int(always), current=1 if always else present,
            length=4 * len(words), parameters=words,
        )  # fmt: skip

    return [
        feature(FeatureCode.PROFILE_LIST, 0, True, Profile.DVD_ROM << 16 | present << 8, Profile.CD_ROM << 16),
        feature(FeatureCode.CORE, 2, True, 1, 0),
        feature(FeatureCode.MORPHING, 1, True, 0x02000000),
        feature(FeatureCode.REMOVABLE_MEDIUM, 1, True, 0x39000000),
        feature(FeatureCode.RANDOM_READABLE, 0, False, 2048, 16 << 16 | 1 << 8),
        feature(FeatureCode.DVD_READ, 1, False, 0),
        feature(FeatureCode.POWER_MANAGEMENT, 0, True),
        feature(FeatureCode.TIMEOUT, 1, True, 0x01000200),
        feature(FeatureCode.REAL_TIME_STREAMING, 5, False, 0x10000000),
    ]


def get_configuration(unit: DvdDrive, task: Task) -> Result:
    command = GetConfiguration.parse(task.cdb)
    features = _features(unit)
    match command.request_type:
        case 0:
            chosen = [one for one in features if one.code >= command.starting_feature]
        case 1:
            chosen = [one for one in features if one.code >= command.starting_feature and one.current]
        case 2:
            chosen = [one for one in features if one.code == command.starting_feature]
        case _:
            raise invalid_field(1)
    length = 4 + sum(4 + one.length for one in chosen)
    profile = Profile.DVD_ROM if unit.is_ready else Profile.NONE
    data = Configuration(length=length, profile=profile, features=tuple(chosen))
    return task.give(data.build(), command.allocation_length)


def get_event_status(unit: DvdDrive, task: Task) -> Result:
    """The oldest media event, or "nothing happened" of the first class that was asked for; only polled."""
    command = GetEventStatus.parse(task.cdb)
    if not command.polled:
        raise invalid_field(1)
    wanted = command.classes & _EVENT_CLASSES
    event = MediaEvent.NO_CHANGE
    if wanted & 1 << EventClass.MEDIA and (event := unit.take_event()) != MediaEvent.NO_CHANGE:
        wanted = 1 << EventClass.MEDIA
    media = MediaStatus(event=event, present=int(unit.is_ready), tray_open=int(unit.is_open))
    if not wanted:
        data: Format = EventStatus(length=2, not_available=1, supported=_EVENT_CLASSES)
    elif wanted & -wanted == 1 << EventClass.MEDIA:
        data = EventStatus(length=6, event_class=EventClass.MEDIA, supported=_EVENT_CLASSES, status=media)
    else:
        event_class = EventClass((wanted & -wanted).bit_length() - 1)
        status = OtherStatus(state=int(event_class == EventClass.POWER_MANAGEMENT))
        data = EventStatus(length=6, event_class=event_class, supported=_EVENT_CLASSES, status=status)
    return task.give(data.build(), command.allocation_length)


def start_stop(unit: DvdDrive, task: Task) -> Result:
    """Load or eject the disc, unless the guest has locked the tray."""
    command = StartStopUnit.parse(task.cdb)
    if command.load_eject and command.start:
        unit.close_tray()
    elif command.load_eject:
        if unit.locked_by:
            key = SenseKey.ILLEGAL_REQUEST if unit.is_ready else SenseKey.NOT_READY
            raise CheckCondition(key, AdditionalSense.MEDIUM_REMOVAL_PREVENTED)
        unit.eject()
    return GOOD


def prevent_allow(unit: DvdDrive, task: Task) -> Result:
    """Lock the tray for this initiator, or let it go."""
    command = PreventAllow.parse(task.cdb)
    if command.persistent:
        raise invalid_field(4)
    unit.lock(task.initiator, locked=bool(command.prevent))
    return GOOD


def read_disc_information(unit: DvdDrive, task: Task) -> Result:
    command = ReadDiscInformation.parse(task.cdb)
    unit.check_ready()
    if command.data_type:
        raise invalid_field(1)
    return task.give(DiscInformation().build(), command.allocation_length)


def read_track_information(unit: DvdDrive, task: Task) -> Result:
    """There is one track, whichever way it is asked for."""
    command = ReadTrackInformation.parse(task.cdb)
    unit.check_ready()
    if command.address_type == 3 or (command.address_type and command.address not in (0, 1, 0xFF)):
        raise invalid_field(2)
    if not command.address_type and command.address >= unit.blocks:
        raise illegal_request(AdditionalSense.LBA_OUT_OF_RANGE)
    size = min(unit.blocks, 0xFFFFFFFF)
    data = TrackInformation(track_size=size, last_recorded=size - 1, last_recorded_valid=1)
    return task.give(data.build(), command.allocation_length)


def read_dvd_structure(unit: DvdDrive, task: Task) -> Result:
    command = ReadDvdStructure.parse(task.cdb)
    unit.check_ready()
    if command.media_type or command.layer:
        raise invalid_field(6 if command.layer else 1)
    match command.format:
        case 0:
            last = min(0x30000 + unit.blocks - 1, 0xFFFFFF)
            data: Format = DvdPhysical(last_sector=last)
        case 1:
            data = DvdCopyright()
        case _:
            raise invalid_field(7)
    return task.give(data.build(), command.allocation_length)


def mechanism_status(unit: DvdDrive, task: Task) -> Result:
    command = MechanismStatus.parse(task.cdb)
    return task.give(MechanismState(door_open=int(unit.is_open)).build(), command.allocation_length)


def get_performance(unit: DvdDrive, task: Task) -> Result:
    """One speed for the whole disc."""
    command = GetPerformance.parse(task.cdb)
    unit.check_ready()
    if command.performance_type or command.exceptions or command.write:
        raise invalid_field(10 if command.performance_type else 1)
    last = min(unit.blocks - 1, 0xFFFFFFFF)
    one = PerformanceDescriptor(start_lba=0, start_speed=_SPEED, end_lba=last, end_speed=_SPEED)
    descriptors = (one,) if command.max_descriptors else ()
    data = Performance(length=4 + 16 * len(descriptors), descriptors=descriptors)
    return task.give(data.build(), len(data.build()))


def read_buffer_capacity(unit: DvdDrive, task: Task) -> Result:
    command = ReadBufferCapacity.parse(task.cdb)
    size = 1 << 20
    total = size // 2048 if command.in_blocks else size
    data = BufferCapacity(in_blocks=command.in_blocks, total=total, available=total)
    return task.give(data.build(), command.allocation_length)


def take_speed(unit: DvdDrive, task: Task) -> Result:
    """SET CD SPEED and SET STREAMING: a file has one speed."""
    return GOOD


def seek(unit: DvdDrive, task: Task) -> Result:
    unit.check_ready()
    unit.check_range(int.from_bytes(task.cdb[2:6], "big"), 1)
    return GOOD


COMMANDS: Mapping[int, object] = {
    Opcode.READ_6: block_commands.read,
    Opcode.READ_10: block_commands.read,
    Opcode.READ_12: block_commands.read,
    Opcode.READ_16: block_commands.read,
    Opcode.READ_CAPACITY_10: block_commands.read_capacity_10,
    Opcode.READ_TOC: read_toc,
    Opcode.GET_CONFIGURATION: get_configuration,
    Opcode.GET_EVENT_STATUS: get_event_status,
    Opcode.START_STOP_UNIT: start_stop,
    Opcode.PREVENT_ALLOW: prevent_allow,
    Opcode.READ_DISC_INFORMATION: read_disc_information,
    Opcode.READ_TRACK_INFORMATION: read_track_information,
    Opcode.READ_DVD_STRUCTURE: read_dvd_structure,
    Opcode.MECHANISM_STATUS: mechanism_status,
    Opcode.GET_PERFORMANCE: get_performance,
    Opcode.READ_BUFFER_CAPACITY: read_buffer_capacity,
    Opcode.SET_CD_SPEED: take_speed,
    Opcode.SET_STREAMING: take_speed,
    Opcode.SEEK_10: seek,
}

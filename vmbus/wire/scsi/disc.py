"""SCSI multimedia commands (MMC) about the disc in a DVD drive: its tracks, its layout, how fast it is read.

Sources: openvmm ``scsi_defs/src/lib.rs`` (``DiscInformation``, ``TrackInformation3``, ``GetPerformance*``,
``MechanismStatusHeader``, ``ReadDVDStructure*``); Linux 6.12 ``include/uapi/linux/cdrom.h``, ``drivers/cdrom/cdrom.c``;
T10's MMC-6.
"""

from __future__ import annotations

from vmbus.wire.schema import Format, be16, be24, be32, bits, items, pad, raw, rest, u8
from vmbus.wire.scsi.opcodes import Cdb


class ReadDiscInformation(Cdb):
    """READ DISC INFORMATION."""

    reserved: int = bits(5, of=8, msb=True, default=0)
    data_type: int = bits(3, default=0)
    reserved2: bytes = pad(5, default=b"")
    allocation_length: int = be16(unit="bytes")
    control: int = u8(default=0)


class DiscInformation(Format):
    """What READ DISC INFORMATION returns, 34 bytes."""

    length: int = be16(default=32, unit="bytes")
    reserved: int = bits(3, of=8, msb=True, default=0)
    erasable: int = bits(1, default=0)
    last_session_state: int = bits(2, default=3)
    disc_status: int = bits(2, default=2, doc="2 is finalized")
    first_track: int = u8(default=1)
    sessions_low: int = u8(default=1)
    last_session_first_track_low: int = u8(default=1)
    last_session_last_track_low: int = u8(default=1)
    id_valid: int = bits(1, of=8, msb=True, default=0)
    bar_code_valid: int = bits(1, default=0)
    unrestricted: int = bits(1, default=1)
    reserved2: int = bits(2, default=0)
    mrw_dirty: int = bits(1, default=0)
    mrw_status: int = bits(2, default=0)
    disc_type: int = u8(default=0)
    sessions_high: int = u8(default=0)
    last_session_first_track_high: int = u8(default=0)
    last_session_last_track_high: int = u8(default=0)
    disc_id: int = be32(default=0)
    last_lead_in: int = be32(default=0xFFFFFFFF)
    last_lead_out: int = be32(default=0xFFFFFFFF)
    bar_code: bytes = raw(8, default=b"")
    reserved3: int = u8(default=0)
    power_entries: int = u8(default=0)


class LengthHead(Format):
    """How much there is to say, when there is room for no more; Linux asks this first."""

    length: int = be16(unit="bytes", doc="after this field")


class ReadTrackInformation(Cdb):
    """READ TRACK INFORMATION."""

    reserved: int = bits(5, of=8, msb=True, default=0)
    open: int = bits(1, default=0)
    address_type: int = bits(2, default=0, doc="0 block, 1 track, 2 session")
    address: int = be32(default=0)
    reserved2: int = u8(default=0)
    allocation_length: int = be16(unit="bytes")
    control: int = u8(default=0)


class TrackInformationHead(Format):
    """The first eight bytes of what READ TRACK INFORMATION returns."""

    length: int = be16(default=38, unit="bytes")
    track_low: int = u8(default=1)
    session_low: int = u8(default=1)
    reserved: int = u8(default=0)
    reserved2: int = bits(2, of=8, msb=True, default=0)
    damage: int = bits(1, default=0)
    copy: int = bits(1, default=0)
    track_mode: int = bits(4, default=4)
    reserved_track: int = bits(1, of=8, msb=True, default=0)
    blank: int = bits(1, default=0)
    packet: int = bits(1, default=0)
    fixed_packet: int = bits(1, default=0)
    data_mode: int = bits(4, default=1)
    reserved3: int = bits(6, of=8, msb=True, default=0)
    last_recorded_valid: int = bits(1, default=0)
    next_writable_valid: int = bits(1, default=0)


class TrackInformation(TrackInformationHead):
    """What READ TRACK INFORMATION returns, 40 bytes."""

    start: int = be32(default=0)
    next_writable: int = be32(default=0)
    free_blocks: int = be32(default=0)
    packet_size: int = be32(default=0)
    track_size: int = be32(default=0, unit="blocks")
    last_recorded: int = be32(default=0)
    track_high: int = u8(default=0)
    session_high: int = u8(default=0)
    reserved4: bytes = pad(2, default=b"")
    read_compatibility: int = be32(default=0)


class MechanismStatus(Cdb):
    """MECHANISM STATUS."""

    reserved: bytes = pad(7, default=b"")
    allocation_length: int = be16(unit="bytes")
    reserved2: int = u8(default=0)
    control: int = u8(default=0)


class MechanismState(Format):
    """What MECHANISM STATUS returns."""

    fault: int = bits(1, of=8, msb=True, default=0)
    changer_state: int = bits(2, default=0)
    slot_low: int = bits(5, default=0)
    mechanism_state: int = bits(3, of=8, msb=True, default=0)
    door_open: int = bits(1, default=0)
    reserved: int = bits(1, default=0)
    slot_high: int = bits(3, default=0)
    current_lba: int = be24(default=0)
    slots: int = u8(default=1)
    table_length: int = be16(default=0, unit="bytes")


class GetPerformance(Cdb):
    """GET PERFORMANCE."""

    reserved: int = bits(3, of=8, msb=True, default=0)
    tolerance: int = bits(2, default=0)
    write: int = bits(1, default=0)
    exceptions: int = bits(2, default=0)
    start_lba: int = be32(default=0)
    reserved2: int = be16(default=0)
    max_descriptors: int = be16()
    performance_type: int = u8(default=0)
    control: int = u8(default=0)


class PerformanceDescriptor(Format):
    """Nominal performance between two blocks."""

    start_lba: int = be32()
    start_speed: int = be32(unit="kB/s")
    end_lba: int = be32()
    end_speed: int = be32(unit="kB/s")


class Performance(Format):
    """What GET PERFORMANCE returns."""

    length: int = be32(unit="bytes", doc="after this field")
    reserved: int = bits(6, of=8, msb=True, default=0)
    write: int = bits(1, default=0)
    exceptions: int = bits(1, default=0)
    reserved2: bytes = pad(3, default=b"")
    descriptors: tuple[PerformanceDescriptor, ...] = items(PerformanceDescriptor, count="(length - 4) // 16")


class ReadDvdStructure(Cdb):
    """READ DISC STRUCTURE."""

    reserved: int = bits(4, of=8, msb=True, default=0)
    media_type: int = bits(4, default=0)
    address: int = be32(default=0)
    layer: int = u8(default=0)
    format: int = u8(doc="0 physical, 1 copyright, 3 burst cutting area, 4 manufacturing")
    allocation_length: int = be16(unit="bytes")
    agid: int = bits(2, of=8, msb=True, default=0)
    reserved2: int = bits(6, default=0)
    control: int = u8(default=0)


class DvdPhysical(Format):
    """What READ DISC STRUCTURE returns in format 0."""

    length: int = be16(default=19, unit="bytes")
    reserved: int = be16(default=0)
    book_type: int = bits(4, of=8, msb=True, default=0)
    part_version: int = bits(4, default=1)
    disc_size: int = bits(4, of=8, msb=True, default=0)
    maximum_rate: int = bits(4, default=2)
    reserved2: int = bits(1, of=8, msb=True, default=0)
    layers: int = bits(2, default=0)
    track_path: int = bits(1, default=0)
    layer_type: int = bits(4, default=1)
    linear_density: int = bits(4, of=8, msb=True, default=0)
    track_density: int = bits(4, default=0)
    reserved3: int = u8(default=0)
    first_sector: int = be24(default=0x30000)
    reserved4: int = u8(default=0)
    last_sector: int = be24()
    reserved5: int = u8(default=0)
    last_sector_layer0: int = be24(default=0)
    bca: int = bits(1, of=8, msb=True, default=0)
    reserved6: int = bits(7, default=0)


class DvdCopyright(Format):
    """What READ DISC STRUCTURE returns in format 1."""

    length: int = be16(default=6, unit="bytes")
    reserved: int = be16(default=0)
    protection_system: int = u8(default=0)
    region: int = u8(default=0)
    reserved2: int = be16(default=0)


class ReadBufferCapacity(Cdb):
    """READ BUFFER CAPACITY."""

    reserved: int = bits(7, of=8, msb=True, default=0)
    in_blocks: int = bits(1, default=0)
    reserved2: bytes = pad(5, default=b"")
    allocation_length: int = be16(unit="bytes")
    control: int = u8(default=0)


class BufferCapacity(Format):
    """What READ BUFFER CAPACITY returns."""

    length: int = be16(default=10, unit="bytes")
    reserved: int = u8(default=0)
    reserved2: int = bits(7, of=8, msb=True, default=0)
    in_blocks: int = bits(1, default=0)
    total: int = be32(unit="bytes")
    available: int = be32(unit="bytes")


class SetCdSpeed(Cdb):
    """SET CD SPEED."""

    reserved: int = bits(6, of=8, msb=True, default=0)
    rotation: int = bits(2, default=0)
    read_speed: int = be16(unit="kB/s")
    write_speed: int = be16(default=0, unit="kB/s")
    reserved2: bytes = pad(5, default=b"")
    control: int = u8(default=0)


class SetStreaming(Cdb):
    """SET STREAMING."""

    reserved: bytes = pad(7, default=b"")
    data_type: int = u8(default=0)
    list_length: int = be16(unit="bytes")
    control: int = u8(default=0)


class StreamingDescriptor(Format):
    """The parameter list of SET STREAMING."""

    reserved: int = bits(3, of=8, msb=True, default=0)
    write_rotation: int = bits(2, default=0)
    restore_defaults: int = bits(1, default=0)
    exact: int = bits(1, default=0)
    random_access: int = bits(1, default=0)
    reserved2: bytes = pad(3, default=b"")
    start_lba: int = be32()
    end_lba: int = be32()
    read_size: int = be32(unit="KiB")
    read_time: int = be32(unit="ms")
    write_size: int = be32(default=0, unit="KiB")
    write_time: int = be32(default=0, unit="ms")
    padding: bytes = rest(default=b"")


class ReadSubChannel(Cdb):
    """READ SUB-CHANNEL."""

    reserved: int = bits(6, of=8, msb=True, default=0)
    msf: int = bits(1, default=0)
    reserved2: int = bits(1, default=0)
    reserved3: int = bits(1, of=8, msb=True, default=0)
    sub_q: int = bits(1, default=0)
    reserved4: int = bits(6, default=0)
    parameter_list: int = u8(default=0)
    reserved5: int = be16(default=0)
    track: int = u8(default=0)
    allocation_length: int = be16(unit="bytes")
    control: int = u8(default=0)


class ReadCd(Cdb):
    """READ CD."""

    reserved: int = bits(3, of=8, msb=True, default=0)
    sector_type: int = bits(3, default=0)
    dap: int = bits(1, default=0)
    relative: int = bits(1, default=0)
    lba: int = be32()
    length: int = be24(unit="blocks")
    sync: int = bits(1, of=8, msb=True, default=0)
    headers: int = bits(2, default=0)
    user_data: int = bits(1, default=1)
    edc: int = bits(1, default=0)
    c2: int = bits(2, default=0)
    reserved2: int = bits(1, default=0)
    sub_channel: int = u8(default=0)
    control: int = u8(default=0)

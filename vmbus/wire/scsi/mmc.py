"""SCSI multimedia commands (MMC) about a DVD drive: table of contents, features, events.

Sources: openvmm ``scsi_defs/src/lib.rs`` (``CdbReadToc``, ``GetConfiguration*``, ``Feature*``, ``Notification*``);
Linux 6.12 ``include/uapi/linux/cdrom.h``, ``drivers/scsi/sr.c``, ``sr_ioctl.c``, ``drivers/cdrom/cdrom.c``; T10's
MMC-6.
"""

from __future__ import annotations

from vmbus.wire.enums import OpenEnum
from vmbus.wire.schema import Format, be16, be32, bits, items, pad, u8, variant
from vmbus.wire.scsi.opcodes import Cdb


class TocFormat(OpenEnum):
    """Formats of READ TOC/PMA/ATIP."""

    TOC = 0
    SESSION = 1
    FULL_TOC = 2
    PMA = 3
    ATIP = 4
    CD_TEXT = 5


class ReadToc(Cdb):
    """READ TOC/PMA/ATIP."""

    reserved: int = bits(6, of=8, msb=True, default=0)
    msf: int = bits(1, default=0, doc="addresses in minutes, seconds and frames")
    reserved2: int = bits(1, default=0)
    reserved3: int = bits(4, of=8, msb=True, default=0)
    format: TocFormat = bits(4, TocFormat, default=0)
    reserved4: bytes = pad(3, default=b"")
    track: int = u8(default=0)
    allocation_length: int = be16(unit="bytes")
    old_format: TocFormat = bits(2, TocFormat, of=8, msb=True, default=0, doc="where SFF-8020 had the format")
    control: int = bits(6, default=0)


class TocEntry(Format):
    """One track of the table of contents."""

    reserved: int = u8(default=0)
    adr: int = bits(4, of=8, msb=True, default=1)
    control: int = bits(4, default=4, doc="4 is a data track")
    track: int = u8(doc="AAh is the lead-out")
    reserved2: int = u8(default=0)
    address: int = be32(doc="a block, or minute, second and frame")


class Toc(Format):
    """What READ TOC returns in formats 0 and 1."""

    length: int = be16(unit="bytes", doc="after this field")
    first: int = u8(default=1, doc="track, or session")
    last: int = u8(default=1)
    entries: tuple[TocEntry, ...] = items(TocEntry, count="(length - 2) // 8")


class TocHead(Format):
    """The head of a table of contents, when there is room for no more."""

    length: int = be16(unit="bytes")
    first: int = u8(default=1)
    last: int = u8(default=1)


class GetConfiguration(Cdb):
    """GET CONFIGURATION."""

    reserved: int = bits(6, of=8, msb=True, default=0)
    request_type: int = bits(2, default=0, doc="0 all features, 1 current ones, 2 one")
    starting_feature: int = be16(default=0)
    reserved2: bytes = pad(3, default=b"")
    allocation_length: int = be16(unit="bytes")
    control: int = u8(default=0)


class Profile(OpenEnum):
    """Kinds of media."""

    NONE = 0x0000
    CD_ROM = 0x0008
    DVD_ROM = 0x0010


class FeatureCode(OpenEnum):
    """What a drive can do."""

    PROFILE_LIST = 0x0000
    CORE = 0x0001
    MORPHING = 0x0002
    REMOVABLE_MEDIUM = 0x0003
    RANDOM_READABLE = 0x0010
    CD_READ = 0x001E
    DVD_READ = 0x001F
    POWER_MANAGEMENT = 0x0100
    TIMEOUT = 0x0105
    REAL_TIME_STREAMING = 0x0107


class Feature(Format):
    """One feature; its parameters are words of four bytes."""

    code: FeatureCode = be16(FeatureCode)
    reserved: int = bits(2, of=8, msb=True, default=0)
    version: int = bits(4, default=0)
    persistent: int = bits(1, default=0)
    current: int = bits(1, default=0)
    length: int = u8(default=0, unit="bytes")
    parameters: tuple[int, ...] = items(be32(), count="length // 4")


class Configuration(Format):
    """What GET CONFIGURATION returns."""

    length: int = be32(unit="bytes", doc="after this field")
    reserved: int = be16(default=0)
    profile: Profile = be16(Profile, default=0)
    features: tuple[Feature, ...] = items(Feature)


class GetEventStatus(Cdb):
    """GET EVENT STATUS NOTIFICATION."""

    reserved: int = bits(7, of=8, msb=True, default=0)
    polled: int = bits(1, default=0)
    reserved2: int = be16(default=0)
    classes: int = u8(doc="a bit for each class wanted; bit 4 is media")
    reserved3: int = be16(default=0)
    allocation_length: int = be16(unit="bytes")
    control: int = u8(default=0)


class EventClass(OpenEnum):
    """Classes of events."""

    NONE = 0
    OPERATIONAL_CHANGE = 1
    POWER_MANAGEMENT = 2
    EXTERNAL_REQUEST = 3
    MEDIA = 4
    MULTI_HOST = 5
    DEVICE_BUSY = 6


class MediaEvent(OpenEnum):
    """What happened to the medium."""

    NO_CHANGE = 0
    EJECT_REQUEST = 1
    NEW_MEDIA = 2
    MEDIA_REMOVAL = 3
    MEDIA_CHANGED = 4


class MediaStatus(Format):
    """The media event and the state of tray and medium."""

    reserved: int = bits(4, of=8, msb=True, default=0)
    event: MediaEvent = bits(4, MediaEvent, default=0)
    reserved2: int = bits(6, of=8, msb=True, default=0)
    present: int = bits(1, default=0)
    tray_open: int = bits(1, default=0)
    start_slot: int = u8(default=0)
    end_slot: int = u8(default=0)


class OtherStatus(Format):
    """An event of another class: code, state and two bytes of its own."""

    event: int = u8(default=0)
    state: int = u8(default=0)
    detail: int = be16(default=0)


class EventStatus(Format):
    """What GET EVENT STATUS NOTIFICATION returns."""

    length: int = be16(unit="bytes", doc="after this field")
    not_available: int = bits(1, of=8, msb=True, default=0)
    reserved: int = bits(4, default=0)
    event_class: EventClass = bits(3, EventClass, default=0)
    supported: int = u8(default=0, doc="a bit for each class there is")
    status: MediaStatus | OtherStatus | bytes = variant(
        on="event_class", cases={4: MediaStatus, **dict.fromkeys((1, 2, 3, 5, 6), OtherStatus)}, default=b""
    )

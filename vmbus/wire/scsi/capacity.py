"""SCSI commands that say how large a unit is, which of its blocks are there, and which units there are.

Sources: openvmm ``scsi_defs/src/lib.rs`` (``ReadCapacity*``, ``GetLbaStatus``, ``LbaStatus*``, ``ReportLuns``,
``LunList``); Linux 6.12 ``drivers/scsi/sd.c`` (``read_capacity_16``, ``read_capacity_10``), ``scsi_scan.c``
(``scsi_report_lun_scan``).
"""

from __future__ import annotations

from vmbus.wire.enums import OpenEnum
from vmbus.wire.schema import Format, be16, be32, be64, bits, items, pad, rest, u8
from vmbus.wire.scsi.opcodes import Cdb, ServiceActionIn


class ReadCapacity10(Cdb):
    """READ CAPACITY (10)."""

    reserved: int = bits(7, of=8, msb=True, default=0)
    relative: int = bits(1, default=0)
    lba: int = be32(default=0, doc="obsolete")
    reserved2: int = be16(default=0)
    reserved3: int = bits(7, of=8, msb=True, default=0)
    partial: int = bits(1, default=0, doc="obsolete: partial medium indicator")
    control: int = u8(default=0)


class Capacity10(Format):
    """What READ CAPACITY (10) returns. A last block of FFFFFFFFh means: ask with the 16-byte command."""

    last_lba: int = be32()
    block_size: int = be32(unit="bytes")


class ServiceActionIn16(Cdb):
    """SERVICE ACTION IN (16): READ CAPACITY (16), GET LBA STATUS and others."""

    reserved: int = bits(3, of=8, msb=True, default=0)
    service_action: ServiceActionIn = bits(5, ServiceActionIn)
    lba: int = be64(default=0)
    allocation_length: int = be32(unit="bytes")
    reserved2: int = bits(7, of=8, msb=True, default=0)
    partial: int = bits(1, default=0)
    control: int = u8(default=0)


class Capacity16(Format):
    """What READ CAPACITY (16) returns."""

    last_lba: int = be64()
    block_size: int = be32(unit="bytes")
    reserved: int = bits(2, of=8, msb=True, default=0)
    rc_basis: int = bits(2, default=0)
    protection_type: int = bits(3, default=0)
    protection_enabled: int = bits(1, default=0)
    protection_interval_exponent: int = bits(4, of=8, msb=True, default=0)
    physical_block_exponent: int = bits(4, default=0, doc="2^n logical blocks in a physical one")
    provisioned: int = bits(1, of=16, msb=True, default=0, doc="LBPME: blocks can be discarded")
    read_zeros: int = bits(1, default=0, doc="LBPRZ: discarded blocks read as zeros")
    lowest_aligned_lba: int = bits(14, default=0)
    reserved2: bytes = pad(16, default=b"")


class ShortCapacity16(Format):
    """What READ CAPACITY (16) returns into 12 bytes."""

    last_lba: int = be64()
    block_size: int = be32(unit="bytes")


class ProvisioningStatus(OpenEnum):
    """Whether blocks are there."""

    MAPPED = 0
    DEALLOCATED = 1
    ANCHORED = 2


class LbaStatus(Format):
    """Blocks of one status."""

    lba: int = be64()
    length: int = be32(unit="blocks")
    reserved: int = bits(4, of=8, msb=True, default=0)
    status: ProvisioningStatus = bits(4, ProvisioningStatus)
    reserved2: bytes = pad(3, default=b"")


class LbaStatusList(Format):
    """What GET LBA STATUS returns."""

    length: int = be32(unit="bytes", doc="after this field")
    reserved: bytes = pad(4, default=b"")
    descriptors: tuple[LbaStatus, ...] = items(LbaStatus, count="(length - 4) // 16")


class ReportLuns(Cdb):
    """REPORT LUNS."""

    reserved: int = u8(default=0)
    select_report: int = u8(default=0, doc="0 ordinary units, 1 well-known units, 2 all")
    reserved2: bytes = pad(3, default=b"")
    allocation_length: int = be32(unit="bytes")
    reserved3: int = u8(default=0)
    control: int = u8(default=0)


class LunEntry(Format):
    """One LUN, by the peripheral device or flat space method."""

    method: int = bits(2, of=16, msb=True, default=0)
    lun: int = bits(14)
    lower_levels: bytes = pad(6, default=b"")


class LunList(Format):
    """What REPORT LUNS returns."""

    length: int = be32(unit="bytes", doc="of the entries, also of those that did not fit")
    reserved: bytes = pad(4, default=b"")
    luns: tuple[LunEntry, ...] = items(LunEntry, count="length // 8")
    padding: bytes = rest(default=b"")


class LunListHead(Format):
    """What REPORT LUNS returns into fewer bytes than its list has."""

    length: int = be32(unit="bytes")
    reserved: bytes = pad(4, default=b"")


class ReadFormatCapacities(Cdb):
    """READ FORMAT CAPACITIES, of removable media."""

    reserved: bytes = pad(6, default=b"")
    allocation_length: int = be16(unit="bytes")
    control: int = u8(default=0)

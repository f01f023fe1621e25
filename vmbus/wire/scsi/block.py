"""SCSI block commands: the CDBs that move, check, flush and discard blocks, and the lists that UNMAP carries.

Sources: Linux 6.12 ``drivers/scsi/sd.c`` (``sd_setup_*``) and ``drivers/target/target_core_sbc.c``; openvmm
``scsi_defs/src/lib.rs`` (``Cdb10`` to ``Cdb16``, ``Unmap``); the bit names are those of T10's SBC-3.
"""

from __future__ import annotations

from vmbus.wire.schema import Format, be16, be32, be64, bits, items, pad, u8
from vmbus.wire.scsi.opcodes import Cdb


class Transfer6(Cdb):
    """READ (6), WRITE (6). A length of 0 means 256 blocks."""

    reserved: int = bits(3, of=8, msb=True, default=0)
    lba_high: int = bits(5, default=0)
    lba_low: int = be16()
    length: int = u8(unit="blocks")
    control: int = u8(default=0)


class _TransferFlags(Cdb):
    protect: int = bits(3, of=8, msb=True, default=0)
    dpo: int = bits(1, default=0, doc="disable page out")
    fua: int = bits(1, default=0, doc="force unit access: to the medium before completion")
    reserved: int = bits(1, default=0)
    fua_nv: int = bits(1, default=0)
    relative: int = bits(1, default=0, doc="obsolete: relative address")


class Transfer10(_TransferFlags):
    """READ (10), WRITE (10)."""

    lba: int = be32()
    reserved2: int = bits(3, of=8, msb=True, default=0)
    group: int = bits(5, default=0)
    length: int = be16(unit="blocks")
    control: int = u8(default=0)


class Transfer12(_TransferFlags):
    """READ (12), WRITE (12)."""

    lba: int = be32()
    length: int = be32(unit="blocks")
    reserved2: int = bits(3, of=8, msb=True, default=0)
    group: int = bits(5, default=0)
    control: int = u8(default=0)


class Transfer16(_TransferFlags):
    """READ (16), WRITE (16)."""

    lba: int = be64()
    length: int = be32(unit="blocks")
    reserved2: int = bits(3, of=8, msb=True, default=0)
    group: int = bits(5, default=0)
    control: int = u8(default=0)


class CompareAndWrite(_TransferFlags):
    """COMPARE AND WRITE."""

    lba: int = be64()
    reserved2: bytes = pad(3, default=b"")
    length: int = u8(unit="blocks")
    reserved3: int = bits(3, of=8, msb=True, default=0)
    group: int = bits(5, default=0)
    control: int = u8(default=0)


class WriteAtomic16(_TransferFlags):
    """WRITE ATOMIC (16)."""

    lba: int = be64()
    boundary: int = be16(default=0)
    length: int = be16(unit="blocks")
    reserved2: int = bits(3, of=8, msb=True, default=0)
    group: int = bits(5, default=0)
    control: int = u8(default=0)


class _VerifyFlags(Cdb):
    protect: int = bits(3, of=8, msb=True, default=0)
    dpo: int = bits(1, default=0)
    reserved: int = bits(1, default=0)
    byte_check: int = bits(2, default=0, doc="0 the medium alone, 1 against the data, 3 against one block of data")
    relative: int = bits(1, default=0)


class Verify10(_VerifyFlags):
    """VERIFY (10), WRITE AND VERIFY (10)."""

    lba: int = be32()
    reserved2: int = bits(3, of=8, msb=True, default=0)
    group: int = bits(5, default=0)
    length: int = be16(unit="blocks")
    control: int = u8(default=0)


class Verify12(_VerifyFlags):
    """VERIFY (12), WRITE AND VERIFY (12)."""

    lba: int = be32()
    length: int = be32(unit="blocks")
    reserved2: int = bits(3, of=8, msb=True, default=0)
    group: int = bits(5, default=0)
    control: int = u8(default=0)


class Verify16(_VerifyFlags):
    """VERIFY (16), WRITE AND VERIFY (16)."""

    lba: int = be64()
    length: int = be32(unit="blocks")
    reserved2: int = bits(3, of=8, msb=True, default=0)
    group: int = bits(5, default=0)
    control: int = u8(default=0)


class _WriteSameFlags(Cdb):
    protect: int = bits(3, of=8, msb=True, default=0)
    anchor: int = bits(1, default=0)
    unmap: int = bits(1, default=0)
    physical_data: int = bits(1, default=0, doc="obsolete")
    logical_data: int = bits(1, default=0, doc="obsolete")
    no_data: int = bits(1, default=0, doc="no data-out buffer: the block is zeros; only in the 16-byte command")


class WriteSame10(_WriteSameFlags):
    """WRITE SAME (10). A length of 0 means up to the end."""

    lba: int = be32()
    reserved: int = bits(3, of=8, msb=True, default=0)
    group: int = bits(5, default=0)
    length: int = be16(unit="blocks")
    control: int = u8(default=0)


class WriteSame16(_WriteSameFlags):
    """WRITE SAME (16). A length of 0 means up to the end."""

    lba: int = be64()
    length: int = be32(unit="blocks")
    reserved: int = bits(3, of=8, msb=True, default=0)
    group: int = bits(5, default=0)
    control: int = u8(default=0)


class _CacheFlags(Cdb):
    reserved: int = bits(5, of=8, msb=True, default=0)
    sync_nv: int = bits(1, default=0)
    immediate: int = bits(1, default=0)
    relative: int = bits(1, default=0)


class Cache10(_CacheFlags):
    """SYNCHRONIZE CACHE (10), PRE-FETCH (10). A length of 0 means up to the end."""

    lba: int = be32(default=0)
    reserved2: int = bits(3, of=8, msb=True, default=0)
    group: int = bits(5, default=0)
    length: int = be16(unit="blocks", default=0)
    control: int = u8(default=0)


class Cache16(_CacheFlags):
    """SYNCHRONIZE CACHE (16), PRE-FETCH (16). A length of 0 means up to the end."""

    lba: int = be64(default=0)
    length: int = be32(unit="blocks", default=0)
    reserved2: int = bits(3, of=8, msb=True, default=0)
    group: int = bits(5, default=0)
    control: int = u8(default=0)


class Unmap(Cdb):
    """UNMAP: discard what its list says."""

    reserved: int = bits(7, of=8, msb=True, default=0)
    anchor: int = bits(1, default=0)
    reserved2: bytes = pad(4, default=b"")
    reserved3: int = bits(3, of=8, msb=True, default=0)
    group: int = bits(5, default=0)
    list_length: int = be16(unit="bytes")
    control: int = u8(default=0)


class UnmapDescriptor(Format):
    """One range to discard."""

    lba: int = be64()
    length: int = be32(unit="blocks")
    reserved: bytes = pad(4, default=b"")


class UnmapList(Format):
    """The parameter list of UNMAP."""

    data_length: int = be16(unit="bytes", doc="after this field")
    descriptors_length: int = be16(unit="bytes")
    reserved: bytes = pad(4, default=b"")
    descriptors: tuple[UnmapDescriptor, ...] = items(UnmapDescriptor, count="descriptors_length // 16")


class Seek6(Cdb):
    """SEEK (6)."""

    reserved: int = bits(3, of=8, msb=True, default=0)
    lba_high: int = bits(5, default=0)
    lba_low: int = be16()
    reserved2: int = u8(default=0)
    control: int = u8(default=0)


class Seek10(Cdb):
    """SEEK (10)."""

    reserved: int = u8(default=0)
    lba: int = be32()
    reserved2: bytes = pad(3, default=b"")
    control: int = u8(default=0)


class FormatUnit(Cdb):
    """FORMAT UNIT."""

    protection: int = bits(2, of=8, msb=True, default=0)
    long_list: int = bits(1, default=0)
    format_data: int = bits(1, default=0)
    complete_list: int = bits(1, default=0)
    defect_list_format: int = bits(3, default=0)
    vendor_specific: int = u8(default=0)
    obsolete: int = be16(default=0)
    control: int = u8(default=0)

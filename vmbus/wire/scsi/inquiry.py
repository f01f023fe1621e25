"""SCSI INQUIRY: what a logical unit is, in standard data and in vital product data (VPD) pages.

Sources: openvmm ``scsi_defs/src/lib.rs`` (``InquiryData``, ``Vpd*``) and ``scsidisk/src/inquiry.rs``; Linux 6.12
``drivers/scsi/scsi.c`` (``scsi_attach_vpd``), ``scsi_lib.c`` (``scsi_vpd_lun_id``), ``sd.c``
(``sd_read_block_limits`` and its neighbours); T10's SPC-4 and SBC-3 for the bits in between.
"""

from __future__ import annotations

from vmbus.wire.enums import OpenEnum
from vmbus.wire.schema import (
    Format,
    array,
    be16,
    be32,
    be64,
    bits,
    blob,
    guid,
    items,
    located,
    pad,
    raw,
    rest,
    u8,
    variant,
)  # fmt: skip
from vmbus.wire.scsi.opcodes import Cdb, DeviceType


class VpdPage(OpenEnum):
    """VPD page codes; the last two are Microsoft's own."""

    SUPPORTED_PAGES = 0x00
    SERIAL_NUMBER = 0x80
    DEVICE_IDENTIFICATION = 0x83
    EXTENDED_INQUIRY = 0x86
    ATA_INFORMATION = 0x89
    THIRD_PARTY_COPY = 0x8F
    BLOCK_LIMITS = 0xB0
    BLOCK_DEVICE_CHARACTERISTICS = 0xB1
    LOGICAL_BLOCK_PROVISIONING = 0xB2
    MSFT_PAGING_EXTENT = 0xCE
    MSFT_VIRTUAL_DEVICE = 0xCF


class PeripheralQualifier(OpenEnum):
    """Whether there is a unit at this LUN."""

    CONNECTED = 0
    NOT_CONNECTED = 1
    NOT_CAPABLE = 3


class Inquiry(Cdb):
    """INQUIRY."""

    reserved: int = bits(6, of=8, msb=True, default=0)
    command_support: int = bits(1, default=0, doc="obsolete")
    vpd: int = bits(1, default=0)
    page: VpdPage = u8(VpdPage, default=0)
    allocation_length: int = be16(unit="bytes")
    control: int = u8(default=0)


class InquiryExtension(Format):
    """The part of standard INQUIRY data after the first 36 bytes."""

    vendor_specific: bytes = raw(20, default=b"")
    reserved: bytes = pad(2, default=b"")
    version_descriptors: tuple[int, ...] = array(be16(), 8, default=(0,) * 8)
    reserved2: bytes = pad(30, default=b"")


class ShortInquiryExtension(Format):
    """Nothing after the first 36 bytes."""


class StandardInquiry(Format):
    """Standard INQUIRY data."""

    qualifier: PeripheralQualifier = bits(3, PeripheralQualifier, of=8, msb=True, default=0)
    device_type: DeviceType = bits(5, DeviceType, default=0)
    removable: int = bits(1, of=8, msb=True, default=0)
    device_type_modifier: int = bits(7, default=0)
    version: int = u8(default=5, doc="5 is SPC-3")
    aerc: int = bits(1, of=8, msb=True, default=0)
    reserved: int = bits(1, default=0)
    normal_aca: int = bits(1, default=0)
    hierarchical: int = bits(1, default=0)
    response_format: int = bits(4, default=2)
    additional_length: int = u8(unit="bytes", doc="after this field")
    embedded_storage_array: int = bits(1, of=8, msb=True, default=0)
    access_controls: int = bits(1, default=0)
    target_port_groups: int = bits(2, default=0)
    third_party_copy: int = bits(1, default=0)
    reserved2: int = bits(2, default=0)
    protect: int = bits(1, default=0)
    reserved3: int = bits(1, of=8, msb=True, default=0)
    enclosure_services: int = bits(1, default=0)
    vendor_bit: int = bits(1, default=0)
    multi_port: int = bits(1, default=0)
    medium_changer: int = bits(1, default=0)
    ack_req_q: int = bits(1, default=0)
    address_32: int = bits(1, default=0)
    address_16: int = bits(1, default=0)
    relative_addressing: int = bits(1, of=8, msb=True, default=0)
    wide_32: int = bits(1, default=0)
    wide_16: int = bits(1, default=0)
    synchronous: int = bits(1, default=0)
    linked_commands: int = bits(1, default=0)
    transfer_disable: int = bits(1, default=0)
    command_queue: int = bits(1, default=0)
    soft_reset: int = bits(1, default=0)
    vendor: bytes = raw(8, text="ascii")
    product: bytes = raw(16, text="ascii")
    revision: bytes = raw(4, text="ascii")
    extension: ShortInquiryExtension | InquiryExtension = variant(
        on="0", cases={0: (ShortInquiryExtension, InquiryExtension)}
    )
    padding: bytes = rest(default=b"")


class InquiryHead(Format):
    """The first five bytes of standard INQUIRY data, when no more is asked for."""

    qualifier: PeripheralQualifier = bits(3, PeripheralQualifier, of=8, msb=True, default=0)
    device_type: DeviceType = bits(5, DeviceType, default=0)
    removable: int = bits(1, of=8, msb=True, default=0)
    device_type_modifier: int = bits(7, default=0)
    version: int = u8(default=5)
    flags: int = u8(default=2)
    additional_length: int = u8(unit="bytes")


class VpdHeader(Format):
    """Heads every VPD page."""

    qualifier: PeripheralQualifier = bits(3, PeripheralQualifier, of=8, msb=True, default=0)
    device_type: DeviceType = bits(5, DeviceType, default=0)
    page: VpdPage = u8(VpdPage)
    page_length: int = be16(unit="bytes", doc="after this field")


class SupportedPages(VpdHeader):
    """Page 00h: which pages there are."""

    pages: tuple[VpdPage, ...] = items(u8(VpdPage), count="page_length")


class SerialNumber(VpdHeader):
    """Page 80h."""

    serial: bytes = blob(length="page_length", text="ascii")


class CodeSet(OpenEnum):
    """How a designator is written."""

    BINARY = 1
    ASCII = 2
    UTF8 = 3


class DesignatorType(OpenEnum):
    """What a designator is."""

    VENDOR_SPECIFIC = 0
    T10_VENDOR_ID = 1
    EUI64 = 2
    NAA = 3
    RELATIVE_TARGET_PORT = 4
    TARGET_PORT_GROUP = 5
    LOGICAL_UNIT_GROUP = 6
    MD5 = 7
    SCSI_NAME = 8


class Designator(Format):
    """One name of the unit, of its port or of its device."""

    protocol: int = bits(4, of=8, msb=True, default=0)
    code_set: CodeSet = bits(4, CodeSet)
    protocol_valid: int = bits(1, of=8, msb=True, default=0)
    reserved: int = bits(1, default=0)
    association: int = bits(2, default=0, doc="0 the unit, 1 the port, 2 the device")
    designator_type: DesignatorType = bits(4, DesignatorType)
    reserved2: int = u8(default=0)
    length: int = u8(unit="bytes")
    designator: bytes = blob(length="length")


class DeviceIdentification(VpdHeader):
    """Page 83h: the names of the unit."""

    designators: bytes = blob(length="page_length")
    names: tuple[Designator, ...] = located(offset="4", length="page_length", element=Designator)


class BlockLimits(VpdHeader):
    """Page B0h: how much at once, and how discard works; 0 means no limit."""

    reserved: int = bits(7, of=8, msb=True, default=0)
    write_same_non_zero: int = bits(1, default=0, doc="WRITE SAME does not take a length of 0")
    max_compare_and_write: int = u8(default=0, unit="blocks")
    optimal_granularity: int = be16(default=0, unit="blocks")
    max_transfer: int = be32(default=0, unit="blocks")
    optimal_transfer: int = be32(default=0, unit="blocks")
    max_prefetch: int = be32(default=0, unit="blocks")
    max_unmap_blocks: int = be32(default=0, unit="blocks")
    max_unmap_descriptors: int = be32(default=0)
    unmap_granularity: int = be32(default=0, unit="blocks")
    unmap_alignment_valid: int = bits(1, of=32, msb=True, default=0)
    unmap_alignment: int = bits(31, default=0, unit="blocks")
    max_write_same: int = be64(default=0, unit="blocks")
    max_atomic_transfer: int = be32(default=0, unit="blocks")
    atomic_alignment: int = be32(default=0, unit="blocks")
    atomic_granularity: int = be32(default=0, unit="blocks")
    max_atomic_with_boundary: int = be32(default=0, unit="blocks")
    max_atomic_boundary: int = be32(default=0, unit="blocks")


class BlockDeviceCharacteristics(VpdHeader):
    """Page B1h: what kind of medium it is."""

    rotation_rate: int = be16(default=1, unit="rpm", doc="1: does not rotate; 0: not said")
    product_type: int = u8(default=0)
    write_after_block_erase: int = bits(2, of=8, msb=True, default=0)
    write_after_crypto_erase: int = bits(2, default=0)
    form_factor: int = bits(4, default=0)
    reserved: int = bits(2, of=8, msb=True, default=0)
    zoned: int = bits(2, default=0)
    reserved2: int = bits(2, default=0)
    force_unit_access_behavior: int = bits(1, default=0)
    verify_byte_check_behavior: int = bits(1, default=0)
    reserved3: bytes = pad(55, default=b"")


class ProvisioningType(OpenEnum):
    """How blocks that were never written are kept."""

    NOT_REPORTED = 0
    RESOURCE = 1
    THIN = 2


class LogicalBlockProvisioning(VpdHeader):
    """Page B2h: which commands discard, and what discarded blocks read as."""

    threshold_exponent: int = u8(default=0)
    unmap: int = bits(1, of=8, msb=True, default=0, doc="LBPU: UNMAP discards")
    write_same_16: int = bits(1, default=0, doc="LBPWS: WRITE SAME (16) discards")
    write_same_10: int = bits(1, default=0, doc="LBPWS10: WRITE SAME (10) discards")
    read_zeros: int = bits(3, default=0, doc="LBPRZ: discarded blocks read as zeros")
    anchored: int = bits(1, default=0)
    descriptor_present: int = bits(1, default=0)
    reserved: int = bits(5, of=8, msb=True, default=0)
    provisioning_type: ProvisioningType = bits(3, ProvisioningType, default=0)
    reserved2: int = u8(default=0)


class MsftPagingExtent(VpdHeader):
    """Page CEh: Microsoft paging extent properties."""

    version: int = u8(default=1)
    reserved: int = bits(7, of=8, msb=True, default=0)
    mode_select_extension: int = bits(1, default=0)
    reserved2: bytes = pad(2, default=b"")


class MsftVirtualDevice(VpdHeader):
    """Page CFh: Microsoft virtual device properties; Windows knows a virtual disk by the signature."""

    version: int = u8(default=1)
    reserved: int = bits(5, of=8, msb=True, default=0)
    is_space: int = bits(1, default=0)
    disable_retries: int = bits(1, default=0)
    read_zeros: int = bits(1, default=0)
    reserved2: bytes = pad(2, default=b"")
    signature: object = guid()


class OtherVpd(VpdHeader):
    """A page that has no format of its own here."""

    parameters: bytes = blob(length="page_length")


VPD_FORMATS: dict[int, type[VpdHeader]] = {
    VpdPage.SUPPORTED_PAGES: SupportedPages,
    VpdPage.SERIAL_NUMBER: SerialNumber,
    VpdPage.DEVICE_IDENTIFICATION: DeviceIdentification,
    VpdPage.BLOCK_LIMITS: BlockLimits,
    VpdPage.BLOCK_DEVICE_CHARACTERISTICS: BlockDeviceCharacteristics,
    VpdPage.LOGICAL_BLOCK_PROVISIONING: LogicalBlockProvisioning,
    VpdPage.MSFT_PAGING_EXTENT: MsftPagingExtent,
    VpdPage.MSFT_VIRTUAL_DEVICE: MsftVirtualDevice,
}

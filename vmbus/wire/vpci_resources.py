"""What virtual PCI messages are made of: slots, devices, memory resources, and message-signalled interrupts.

Sources: openvmm ``vm/devices/pci/vpci_protocol/src/lib.rs``; Linux 6.12 ``drivers/pci/controller/pci-hyperv.c``;
Mile.HyperV ``Mile.HyperV.Guest.Protocols.h`` (``VPCI_*``).
"""

from __future__ import annotations

from vmbus.wire.enums import OpenEnum, OpenFlags
from vmbus.wire.schema import Format, array, bits, nested, raw, u8, u16, u32, u64

MAX_BARS = 6
MAX_DEVICES = 255
MAX_INTERRUPTS = 494


class VpciStatus(OpenEnum):
    """NTSTATUS values that hosts send; negative ones, seen as signed, are failures."""

    SUCCESS = 0
    REVISION_MISMATCH = 0xC0000059
    NOT_SUPPORTED = 0xC00000BB
    BAD_DATA = 0xC000090B


class ResourceType(OpenEnum):
    """``CM_RESOURCE_TYPE``."""

    NULL = 0
    PORT = 1
    INTERRUPT = 2
    MEMORY = 3
    DMA = 4
    DEVICE_SPECIFIC = 5
    BUS_NUMBER = 6
    MEMORY_LARGE = 7


class ResourceFlags(OpenFlags):
    """In which unit the length of MEMORY_LARGE is: 256 bytes, 64 KiB or 4 GiB."""

    LARGE_40 = 0x0200
    LARGE_48 = 0x0400
    LARGE_64 = 0x0800


class DeliveryMode(OpenEnum):
    """How an interrupt picks its processor."""

    FIXED = 0
    LOWEST_PRIORITY = 1


class DevicePowerState(OpenEnum):
    """``DEVICE_POWER_STATE``; D0 is on, D3 off."""

    UNSPECIFIED = 0
    D0 = 1
    D1 = 2
    D2 = 3
    D3 = 4


class DescriptionFlags(OpenFlags):
    """What of a device's description is valid."""

    NUMA_AFFINITY_SPECIFIED = 1


class SlotNumber(Format):
    """A device and its function, as Windows numbers them; with ARI, Linux only uses the function."""

    device: int = bits(5, of=32)
    function: int = bits(3)
    reserved: int = bits(24, default=0)


class PnpId(Format):
    """What a device is, as its configuration space says."""

    vendor_id: int = u16()
    device_id: int = u16()
    revision_id: int = u8()
    prog_if: int = u8()
    sub_class: int = u8()
    base_class: int = u8()
    sub_vendor_id: int = u16()
    sub_system_id: int = u16()


class DeviceDescription(Format):
    """A device on the bus."""

    pnp_id: PnpId = nested(PnpId)
    slot: SlotNumber = nested(SlotNumber)
    serial_num: int = u32(doc="also the serial number in the offer of the network card that a VF belongs to")


class DeviceDescription2(DeviceDescription):
    """The same with its NUMA node, from 1.3 on."""

    flags: DescriptionFlags = u32(DescriptionFlags, default=0)
    numa_node: int = u16(default=0)
    reserved: int = u16(default=0)


class PartialResourceDescriptor(Format):
    """A resource of a device (``CM_PARTIAL_RESOURCE_DESCRIPTOR``, packed); NULL for a BAR that is not used."""

    resource_type: ResourceType = u8(ResourceType)
    share_disposition: int = u8(default=0)
    flags: ResourceFlags = u16(ResourceFlags, default=0)
    address: int = u64()
    adjusted_len: int = u32(doc="in the unit that flags say")
    padding: int = u32(default=0)


class MsiDescriptor(Format):
    """An interrupt that the guest wants, before 1.2."""

    vector: int = u8()
    delivery_mode: DeliveryMode = u8(DeliveryMode, default=0)
    vector_count: int = u16(default=1)
    reserved: int = u32(default=0)
    processor_mask: int = u64()


class MsiDescriptor2(Format):
    """An interrupt that the guest wants, from 1.2 on. Linux leaves the last two bytes out of a create message."""

    vector: int = u8()
    delivery_mode: DeliveryMode = u8(DeliveryMode, default=0)
    vector_count: int = u16(default=1)
    processor_count: int = u16()
    processor_array: tuple[int, ...] = array(u16(), 32)
    reserved: int = u16(default=0)


class MsiDescriptor3(Format):
    """An interrupt that the guest wants, from 1.4 on: with vectors as wide as Arm's."""

    vector: int = u32()
    delivery_mode: DeliveryMode = u8(DeliveryMode, default=0)
    reserved: int = u8(default=0)
    vector_count: int = u16(default=1)
    processor_count: int = u16()
    processor_array: tuple[int, ...] = array(u16(), 32)
    reserved2: int = u16(default=0)


class MsiDescriptor3Padded(MsiDescriptor3):
    """The same in a list of assigned resources, where each has 80 bytes."""

    padding: int = u32(default=0)


class MsiRemapped(Format):
    """An interrupt that the host made: what the device is to write, and where."""

    reserved: int = u16(default=0)
    message_count: int = u16()
    data_payload: int = u32()
    address: int = u64()


class MsiRemapped2(MsiRemapped):
    """The same in answers from 1.2 on, as wide as the guest's wishes were in 1.2."""

    padding: bytes = raw(56, default=b"")

"""Who a unit says it is: vendor, product and serial number, and the names that VPD page 83h gives it.

The defaults are Hyper-V's own ("Msft", "Virtual Disk"), because Linux looks at them: ``storvsc_device_configure``
turns on WRITE SAME for a vendor of ``Msft``. A unit's id is made from its name, so a disk keeps its
``/dev/disk/by-id`` links.

Sources: openvmm ``scsidisk/src/inquiry.rs`` (``handle_vpd_device_identifiers``); Linux 6.12
``drivers/scsi/storvsc_drv.c``.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID, uuid5

from vmbus.wire.scsi.inquiry import CodeSet, Designator, DesignatorType, DeviceIdentification, VpdPage
from vmbus.wire.scsi.opcodes import DeviceType

_NAMESPACE = UUID("6f1a3c52-8e1d-4c63-9d4c-0f8f6f1d7a10")
_MICROSOFT_NAA = bytes((0x60, 0x02, 0x24, 0x80))
"""NAA format 6 and Microsoft's company id 00-22-48."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Names of a unit. The texts are ASCII and padded with spaces to 8, 16 and 4 bytes."""

    unit_id: UUID
    vendor: bytes = b"Msft    "
    product: bytes = b"Virtual Disk    "
    revision: bytes = b"1.0 "
    serial: bytes = b""

    @classmethod
    def of(cls, name: str, *, product: bytes = b"Virtual Disk    ") -> Identity:
        """An identity that is the same whenever ``name`` is."""
        unit_id = uuid5(_NAMESPACE, name)
        return cls(unit_id, product=product, serial=unit_id.hex[:20].encode())

    def designation(self, device_type: DeviceType) -> DeviceIdentification:
        """VPD page 83h: a T10 vendor id with the whole id, and an NAA name with its most random bytes."""
        guid = self.unit_id.bytes_le
        names = (
            Designator(
                code_set=CodeSet.BINARY,
                designator_type=DesignatorType.T10_VENDOR_ID,
                length=24,
                designator=self.vendor + guid,
            ),
            Designator(
                code_set=CodeSet.BINARY,
                designator_type=DesignatorType.NAA,
                length=16,
                designator=_MICROSOFT_NAA + guid[:6] + guid[10:],
            ),
        )
        designators = b"".join(name.build() for name in names)
        return DeviceIdentification(
            device_type=device_type,
            page=VpdPage.DEVICE_IDENTIFICATION,
            page_length=len(designators),
            designators=designators,
        )

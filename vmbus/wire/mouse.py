"""The synthetic mouse: a HID device in the messages of a pipe.

The guest asks for a version; the host accepts it and sends the device's HID descriptors, which the guest
acknowledges; then the host sends input reports.

Sources: openvmm ``vm/devices/uidevices/src/mouse/protocol.rs``; Linux 6.12 ``drivers/hid/hid-hyperv.c``
(``synthhid_*``); Mile.HyperV ``Mile.HyperV.Guest.Protocols.h`` (``SYNTHHID_*``).
"""

from __future__ import annotations

from vmbus.wire.enums import OpenEnum, OpenFlags
from vmbus.wire.schema import Format, blob, i16, nested, raw, rest, u8, u16, u32, variant

MAX_MESSAGE_SIZE = 512
MAX_REPORT_DESCRIPTOR = 256

VENDOR_ID, PRODUCT_ID, VERSION_ID = 0x045E, 0x0621, 0x0001
"""What Hyper-V's mouse says it is."""

REPORT_DESCRIPTOR = bytes.fromhex(
    "05010902a1010901a10005091901290515002501950575018102950175038101050109300931150026ff7f7510950281"
    "020501093816018026ff7f751095018106c0c0"
)
"""Hyper-V's: five buttons, absolute x and y from 0 to 32767, and a relative wheel (openvmm ``REPORT_DESCRIPTOR``)."""


class MouseVersion(OpenEnum):
    """Major version in the high half, minor in the low one."""

    BETA = 0x00010000
    RELEASE = 0x00020000


class MouseMessageType(OpenEnum):
    """What a mouse message is."""

    PROTOCOL_REQUEST = 0
    PROTOCOL_RESPONSE = 1
    INITIAL_DEVICE_INFO = 2
    INITIAL_DEVICE_INFO_ACK = 3
    INPUT_REPORT = 4


class MouseButtons(OpenFlags):
    """Buttons that are down."""

    LEFT = 0x01
    RIGHT = 0x02
    MIDDLE = 0x04
    FOURTH = 0x08
    FIFTH = 0x10


class HidAttributes(Format):
    """Who made the device (``HID_DEVICE_ATTRIBUTES``)."""

    size: int = u32(default=32, unit="bytes", doc="of this structure")
    vendor_id: int = u16()
    product_id: int = u16()
    version_id: int = u16()
    padding: bytes = raw(22, default=b"")


class HidDescriptorList(Format):
    """The only entry of a HID descriptor's list."""

    report_type: int = u8(default=0x22)
    report_length: int = u16(unit="bytes", doc="of the report descriptor")


class HidDescriptor(Format):
    """The HID descriptor, as the USB HID specification draws it."""

    length: int = u8(default=9, unit="bytes")
    descriptor_type: int = u8(default=0x21)
    hid: int = u16(doc="version of HID, in binary-coded decimal")
    country: int = u8(default=0)
    num_descriptors: int = u8(default=1)
    descriptor_list: HidDescriptorList = nested(HidDescriptorList)


class MouseProtocolRequest(Format):
    """Guest to host: the version that the guest wants."""

    version_requested: MouseVersion = u32(MouseVersion)


class MouseProtocolResponse(Format):
    """Host to guest: whether it has that version."""

    version_requested: MouseVersion = u32(MouseVersion)
    accepted: int = u8()


class MouseDeviceInfo(Format):
    """Host to guest: the device's descriptors. Windows sends 128 bytes for the report descriptor, filled up or not."""

    device_attributes: HidAttributes = nested(HidAttributes)
    descriptor_info: HidDescriptor = nested(HidDescriptor)
    report_descriptor: bytes = blob(length="descriptor_info.descriptor_list.report_length")
    padding: bytes = rest()


class MouseDeviceInfoAck(Format):
    """Guest to host: got the descriptors."""

    acknowledged: int = u8()


class MouseInputReport(Format):
    """Host to guest: what :data:`REPORT_DESCRIPTOR` describes."""

    button_data: MouseButtons = u8(MouseButtons)
    x: int = u16(doc="0 to 32767 across the screen")
    y: int = u16(doc="0 to 32767 down the screen")
    z: int = i16(doc="turns of the wheel")


MOUSE_BODIES: dict[int, type[Format]] = {
    MouseMessageType.PROTOCOL_REQUEST: MouseProtocolRequest,
    MouseMessageType.PROTOCOL_RESPONSE: MouseProtocolResponse,
    MouseMessageType.INITIAL_DEVICE_INFO: MouseDeviceInfo,
    MouseMessageType.INITIAL_DEVICE_INFO_ACK: MouseDeviceInfoAck,
    MouseMessageType.INPUT_REPORT: MouseInputReport,
}


class MouseMessage(Format):
    """Any message of a mouse's pipe, in either direction."""

    message_type: MouseMessageType = u32(MouseMessageType)
    message_size: int = u32(unit="bytes", doc="of the body")
    body: Format | bytes = variant(on="message_type", cases=MOUSE_BODIES)
    trailing: bytes = rest()

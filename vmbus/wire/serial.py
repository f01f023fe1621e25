"""The VMBus serial port: bytes of a UART in the messages of a pipe; hosts offer it to VTL2 only.

What the *host* sends on its own is a guest notification here, and what the *guest* sends a host notification or
request: names tell who is to act.  Each response has its request's id; only one request is outstanding.

Source: openvmm ``vm/devices/serial/vmbus_serial_protocol/src/lib.rs``.
"""

from __future__ import annotations

from vmbus.wire.enums import OpenEnum
from vmbus.wire.schema import Format, raw, rest, u8, u16, u32, variant

MAX_MESSAGE_SIZE = 512
MAX_PAYLOAD = 64


class SerialVersion(OpenEnum):
    """Major version in the high half, minor in the low one."""

    MANGANESE = 0x00010000


class SerialHeaderVersion(OpenEnum):
    """Version of the header itself."""

    INVALID = 0
    HEADER_VERSION_1 = 1


class SerialMessageType(OpenEnum):
    """Which way a message goes and whether it wants an answer; also the scope of its ``message_id``."""

    INVALID = 0
    HOST_NOTIFICATION = 1
    HOST_REQUEST = 2
    HOST_RESPONSE = 3
    GUEST_NOTIFICATION = 4


class SerialHostNotification(OpenEnum):
    """From the guest, unanswered."""

    INVALID = 0
    RX_CLEAR_BUFFER = 1
    TX_DATA_AVAILABLE = 2


class SerialGuestNotification(OpenEnum):
    """From the host, unanswered."""

    INVALID = 0
    RX_DATA_AVAILABLE = 1
    SET_MODEM_STATUS = 2
    TX_COMPLETED = 3


class SerialHostRequest(OpenEnum):
    """From the guest, answered by a response of the same id."""

    INVALID = 0
    VERSION = 1
    GET_RX_DATA = 2


class TxDataAvailable(Format):
    """Guest to host: bytes to send. The next may follow after TX_COMPLETED."""

    buffer_length: int = u8(unit="bytes", doc="valid in the buffer")
    buffer: bytes = raw(MAX_PAYLOAD, payload=True)
    padding: int = u8(default=0)


class SetModemStatus(Format):
    """Host to guest: the other end came or went."""

    modem_status: int = u8(default=0, doc="as a 16550 has it; not heeded")
    is_connected: int = u8()


class SerialVersionRequest(Format):
    """Guest to host."""

    requested_version: SerialVersion = u32(SerialVersion)


class SerialVersionResponse(Format):
    """Host to guest."""

    version_accepted: int = u8()
    padding: int = u8(default=0)


class RxDataResponse(Format):
    """Host to guest: bytes received."""

    buffer_length: int = u8(unit="bytes", doc="valid in the buffer")
    more_data_available: int = u8()
    buffer: bytes = raw(MAX_PAYLOAD, payload=True)


class SerialHostNotificationBody(Format):
    """The rest of a HOST_NOTIFICATION."""

    message_id: SerialHostNotification = u16(SerialHostNotification)
    body: Format | bytes = variant(on="message_id", cases={SerialHostNotification.TX_DATA_AVAILABLE: TxDataAvailable})


class SerialHostRequestBody(Format):
    """The rest of a HOST_REQUEST."""

    message_id: SerialHostRequest = u16(SerialHostRequest)
    body: Format | bytes = variant(on="message_id", cases={SerialHostRequest.VERSION: SerialVersionRequest})


class SerialHostResponseBody(Format):
    """The rest of a HOST_RESPONSE."""

    message_id: SerialHostRequest = u16(SerialHostRequest)
    body: Format | bytes = variant(
        on="message_id",
        cases={SerialHostRequest.VERSION: SerialVersionResponse, SerialHostRequest.GET_RX_DATA: RxDataResponse},
    )


class SerialGuestNotificationBody(Format):
    """The rest of a GUEST_NOTIFICATION."""

    message_id: SerialGuestNotification = u16(SerialGuestNotification)
    body: Format | bytes = variant(on="message_id", cases={SerialGuestNotification.SET_MODEM_STATUS: SetModemStatus})


class SerialMessage(Format):
    """Any message of a serial port's pipe, in either direction."""

    message_version: SerialHeaderVersion = u8(SerialHeaderVersion, default=SerialHeaderVersion.HEADER_VERSION_1)
    message_type: SerialMessageType = u8(SerialMessageType)
    message: Format | bytes = variant(
        on="message_type",
        cases={
            SerialMessageType.HOST_NOTIFICATION: SerialHostNotificationBody,
            SerialMessageType.HOST_REQUEST: SerialHostRequestBody,
            SerialMessageType.HOST_RESPONSE: SerialHostResponseBody,
            SerialMessageType.GUEST_NOTIFICATION: SerialGuestNotificationBody,
        },
    )
    trailing: bytes = rest()

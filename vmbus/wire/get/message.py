"""The root of the guest emulation transport: four bytes of header in front of every message of its pipe.

The guest has one request outstanding at a time; notifications cross it in both directions.

Source: openvmm ``vm/devices/get/get_protocol/src/lib.rs`` (``HeaderRaw``).
"""

from __future__ import annotations

from vmbus.wire.get.notifications import GuestNotificationBody, HostNotificationBody
from vmbus.wire.get.requests import HostRequestBody
from vmbus.wire.get.responses import HostResponseBody
from vmbus.wire.get.values import GetHeaderVersion, GetMessageType
from vmbus.wire.schema import Format, rest, u8, variant


class GetMessage(Format):
    """Any message, in either direction: the header's first half, then its id and body by ``message_type``."""

    message_version: GetHeaderVersion = u8(GetHeaderVersion, default=GetHeaderVersion.HEADER_VERSION_1)
    message_type: GetMessageType = u8(GetMessageType)
    message: Format | bytes = variant(
        on="message_type",
        cases={
            GetMessageType.HOST_NOTIFICATION: HostNotificationBody,
            GetMessageType.HOST_REQUEST: HostRequestBody,
            GetMessageType.HOST_RESPONSE: HostResponseBody,
            GetMessageType.GUEST_NOTIFICATION: GuestNotificationBody,
        },
    )
    trailing: bytes = rest()

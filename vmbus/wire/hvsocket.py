"""hvsocket: stream sockets between guest and host, each connection a byte pipe on a channel of its own.

The payload of every packet is a pipe header and up to 16 KiB of the stream; a packet of no bytes says that its sender
will send no more (Linux's ``hvs_shutdown_lock_held``). A connection is asked for with the control message
TL_CONNECT_REQUEST and offered as a channel whose interface is the service, whose instance is the other end, and whose
user-defined data says which end asked. Ports of AF_VSOCK are services by a template: the port is the first 32 bits of
the GUID.

Sources: Linux 6.12 ``net/vmw_vsock/hyperv_transport.c``; openvmm ``vmbus_core/src/protocol.rs``
(``HvsockUserDefinedParameters``), ``vmbus_server/src/hvsock.rs`` and ``support/hybrid_vsock/src/lib.rs``.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

from vmbus.wire.enums import OpenEnum
from vmbus.wire.guids import VSOCK_TEMPLATE
from vmbus.wire.ring import PipePacketType
from vmbus.wire.schema import Format, blob, guid, pad, rest, u8, u32

MAX_PAYLOAD: Final = 16384
"""The most bytes of the stream in one packet."""


class HvsocketVersion(OpenEnum):
    """Which parameters follow."""

    PRE_RS5 = 0
    RS5 = 1


class HvsocketPipeType(OpenEnum):
    """How the pipe of an offer is read (``PipeType``)."""

    BYTE = 0
    MESSAGE = 4


class HvsocketOfferData(Format):
    """The first 28 of the 120 bytes of user-defined data of an hvsocket offer; the rest is zero."""

    pipe_type: HvsocketPipeType = u32(HvsocketPipeType, default=0)
    is_for_guest_accept: int = u8(doc="1: the host connects, and the guest is to accept")
    is_for_guest_container: int = u8(default=0)
    version: HvsocketVersion = u32(HvsocketVersion, default=1)
    silo_id: UUID = guid(default=UUID(int=0), doc="container that the connection belongs to")
    padding: bytes = pad(2, default=b"")


class HvsocketPacket(Format):
    """The payload of a ring packet of an hvsocket channel."""

    packet_type: PipePacketType = u32(PipePacketType, default=1)
    length: int = u32(unit="bytes", doc="of the stream in this packet; 0: end of the stream")
    stream: bytes = blob(length="length", payload=True)
    padding: bytes = rest(default=b"", doc="up to a multiple of 8 bytes")


def service_of_port(port: int) -> UUID:
    """The service GUID of an AF_VSOCK port."""
    return UUID(fields=(port & 0xFFFFFFFF, *VSOCK_TEMPLATE.fields[1:]))


def port_of_service(service: UUID) -> int | None:
    """The AF_VSOCK port that a service GUID stands for; None if it is some other service."""
    return service.fields[0] if service.fields[1:] == VSOCK_TEMPLATE.fields[1:] else None

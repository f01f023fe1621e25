"""The guest crash dump device: a guest that dies writes a dump through the messages of a pipe.

A write is announced by a request; the bytes themselves are the *next* message, without any header, so a decoder
that does not keep count sees them as a message of an unknown type.  The host answers a write only if it failed.

Source: openvmm ``vm/devices/get/get_protocol/src/crash.rs`` and ``guest_crash_device/src/lib.rs``.
"""

from __future__ import annotations

from uuid import UUID

from vmbus.wire.enums import OpenEnum, OpenFlags
from vmbus.wire.schema import Format, guid, i32, raw, rest, u8, u32, u64, variant


class CrashMessageType(OpenEnum):
    """What a message is; responses have bit 16 set."""

    INVALID = 0
    REQUEST_GET_CAPABILITIES_V1 = 0x00000001
    REQUEST_GET_WINDOWS_DUMP_CONFIG_V1 = 0x00000002
    REQUEST_WINDOWS_DUMP_START_V1 = 0x00000003
    REQUEST_WINDOWS_DUMP_WRITE_V1 = 0x00000004
    REQUEST_WINDOWS_DUMP_COMPLETE_V1 = 0x00000005
    REQUEST_GET_NIX_DUMP_CONFIG_V1 = 0x00000102
    REQUEST_NIX_DUMP_START_V1 = 0x00000103
    REQUEST_NIX_DUMP_WRITE_V1 = 0x00000104
    REQUEST_NIX_DUMP_COMPLETE_V1 = 0x00000105
    RESPONSE_GET_CAPABILITIES_V1 = 0x00010001
    RESPONSE_GET_WINDOWS_DUMP_CONFIG_V1 = 0x00010002
    RESPONSE_WINDOWS_DUMP_START_V1 = 0x00010003
    RESPONSE_WINDOWS_DUMP_WRITE_V1 = 0x00010004
    RESPONSE_WINDOWS_DUMP_COMPLETE_V1 = 0x00010005
    RESPONSE_GET_NIX_DUMP_CONFIG_V1 = 0x00010102
    RESPONSE_NIX_DUMP_START_V1 = 0x00010103
    RESPONSE_NIX_DUMP_WRITE_V1 = 0x00010104
    RESPONSE_NIX_DUMP_COMPLETE_V1 = 0x00010105


class CrashCapabilities(OpenFlags):
    """What the host takes."""

    WINDOWS_CONFIG_V1 = 1
    LINUX_CONFIG_V1 = 2


class DumpType(OpenEnum):
    """The dump's file format."""

    NONE = 0
    ELF = 1
    KDUMP = 2


class DumpCapabilitiesResponse(Format):
    """Host to guest."""

    capabilities: CrashCapabilities = u64(CrashCapabilities)


class DumpConfigResponse(Format):
    """Host to guest."""

    max_dump_size: int = u64(unit="bytes")
    dump_type: DumpType = u32(DumpType)


class DumpStatusResponse(Format):
    """Host to guest, after a start, and after a write that failed."""

    status: int = i32(doc="HRESULT")


class DumpWriteRequest(Format):
    """Guest to host: the next message is this part of the dump."""

    offset: int = u64(unit="bytes")
    size: int = u32(unit="bytes")


class DumpCompleteRequest(Format):
    """Guest to host: the dump is complete."""

    major_version: int = u32()
    minor_version: int = u32()
    version_banner: bytes = raw(256, text="utf-8", doc="of the guest's system")
    vtl: int = u8(doc="virtual trust level that crashed")


CRASH_BODIES: dict[int, type[Format]] = {
    CrashMessageType.REQUEST_NIX_DUMP_WRITE_V1: DumpWriteRequest,
    CrashMessageType.REQUEST_NIX_DUMP_COMPLETE_V1: DumpCompleteRequest,
    CrashMessageType.RESPONSE_GET_CAPABILITIES_V1: DumpCapabilitiesResponse,
    CrashMessageType.RESPONSE_GET_NIX_DUMP_CONFIG_V1: DumpConfigResponse,
    CrashMessageType.RESPONSE_NIX_DUMP_START_V1: DumpStatusResponse,
    CrashMessageType.RESPONSE_NIX_DUMP_WRITE_V1: DumpStatusResponse,
}
"""Layouts that are public; other requests are their header alone, and the Windows dump messages are not published."""


class CrashMessage(Format):
    """Any message of a crash device's pipe that has a header, in either direction."""

    activity_id: UUID = guid(doc="the same in all messages of one crash")
    message_type: CrashMessageType = u64(CrashMessageType)
    body: Format | bytes = variant(on="message_type", cases=CRASH_BODIES)
    trailing: bytes = rest()

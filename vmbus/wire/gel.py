"""The guest emulation log (GEL): trace events of a paravisor, in the messages of a pipe from guest to host.

It has the interface id of the guest emulation transport and an instance id of its own.

Source: openvmm ``vm/devices/get/get_protocol/src/lib.rs`` (``TraceLoggingNotificationHeader``) and
``guest_emulation_log/src/lib.rs``.
"""

from __future__ import annotations

from uuid import UUID

from vmbus.wire.enums import OpenEnum, OpenFlags
from vmbus.wire.get.values import LogLevel
from vmbus.wire.schema import NIL_GUID, Format, guid, located, nested, rest, u8, u16, u32, u64


class LogType(OpenEnum):
    """What is being told."""

    EVENT = 0
    SPAN_ENTER = 1
    SPAN_EXIT = 2


class LogFlags(OpenFlags):
    """Where it came from."""

    KMSG = 1


class LogBufferOffset(Format):
    """Where in the buffer a text lies."""

    size: int = u16(unit="bytes")
    offset: int = u16(unit="bytes", doc="from the buffer's start")


class LogMessage(Format):
    """One event, or the beginning or end of a span, with its texts in a buffer behind it."""

    log_type: LogType = u8(LogType)
    level: LogLevel = u8(LogLevel)
    flags: LogFlags = u16(LogFlags)
    name: LogBufferOffset = nested(LogBufferOffset)
    target: LogBufferOffset = nested(LogBufferOffset)
    fields: LogBufferOffset = nested(LogBufferOffset)
    message: LogBufferOffset = nested(LogBufferOffset)
    reserved: int = u32(default=0)
    activity_id: UUID = guid(default=NIL_GUID)
    related_activity_id: UUID = guid(default=NIL_GUID)
    correlation_id: UUID = guid(default=NIL_GUID)
    timestamp: int = u64()
    buffer: bytes = rest(text="utf-8")
    name_text: bytes = located(offset="80 + name.offset", length="name.size", text="utf-8")
    target_text: bytes = located(offset="80 + target.offset", length="target.size", text="utf-8")
    fields_text: bytes = located(offset="80 + fields.offset", length="fields.size", text="utf-8", doc="JSON")
    message_text: bytes = located(offset="80 + message.offset", length="message.size", text="utf-8")

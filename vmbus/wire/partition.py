"""The partition protocol: how a guest in one process and a host in another exchange synic operations.

Frames on a Unix stream socket; memory and interrupts are file descriptors passed with the hello.  Our own protocol,
specified in docs/partition-protocol.md.  Everything is little-endian.
"""

from __future__ import annotations

from uuid import UUID

from vmbus.wire.enums import OpenEnum, OpenFlags
from vmbus.wire.schema import Format, guid, rest, u16, u32, u64

MAGIC = 0x50424D56
"""``VMBP`` as bytes."""
VERSION_MAJOR, VERSION_MINOR = 1, 0
MAX_FRAME = 4096
REPLY = 0x8000
"""Set in the operation of a frame that answers one."""


class Operation(OpenEnum):
    """What a frame asks for."""

    HELLO = 1
    SET_REGISTER = 2
    GET_REGISTER = 3
    POST_MESSAGE = 4
    SIGNAL_EVENT = 5
    NOTE = 6
    HELLO_REPLY = 0x8001
    GET_REGISTER_REPLY = 0x8003
    POST_MESSAGE_REPLY = 0x8004


class FrameStatus(OpenEnum):
    """The outcome in a reply's header; 0 in requests."""

    OK = 0
    VERSION_NOT_SUPPORTED = 1
    BAD_MEMORY = 2
    BUSY = 3
    MALFORMED = 4
    UNKNOWN_GUEST = 5


class PartitionFeatures(OpenFlags):
    """What the ends can do beyond the basic protocol."""

    RECONNECT = 1
    HOST_PAGES = 2
    POLLING_WORD = 4


HOST_PAGE_COUNT = 2
"""So many pages at the end of its memory a guest with HOST_PAGES leaves to the host."""


POLLING_WORD_OFFSET = 4092
"""Where in the event flags page a guest with POLLING_WORD has the 32-bit word that says whether it polls them."""


class NoteKind(OpenEnum):
    """What a note of the guest is."""

    KERNEL_LOG = 1
    CRASH = 2


class FrameHeader(Format):
    """Heads every frame."""

    length: int = u32(unit="bytes", doc="of the whole frame, this header included")
    operation: Operation = u16(Operation)
    status: FrameStatus = u16(FrameStatus, default=0)
    vp: int = u32(default=0, doc="index of the virtual processor concerned")
    sequence: int = u32(default=0, doc="rises with each frame that wants a reply; 0 in posted frames")


class Hello(Format):
    """The guest's first frame; its memory and its processors' interrupts come with it (SCM_RIGHTS)."""

    magic: int = u32(default=MAGIC)
    major: int = u16(default=VERSION_MAJOR)
    minor: int = u16(default=VERSION_MINOR)
    features: PartitionFeatures = u64(PartitionFeatures, default=0)
    memory_size: int = u64(unit="bytes")
    first_gpa: int = u64(default=0, doc="lowest address whose page really is in the memory file")
    vp_count: int = u32(default=1)
    last_sequence: int = u32(default=0, doc="of a reconnecting guest: the request it waits for, or the last answered")
    guest_id: UUID = guid(doc="chosen at start, the same at each reconnect")


class HelloReply(Format):
    """The host takes the guest, or says in the header's status why not."""

    major: int = u16(default=VERSION_MAJOR)
    minor: int = u16(default=VERSION_MINOR)
    detail: int = u32(default=0)
    features: PartitionFeatures = u64(PartitionFeatures, default=0)
    capabilities: int = u64(default=0)


class SetRegister(Format):
    """The guest wrote a synthetic register; posted."""

    number: int = u32(doc="x86 MSR number")
    reserved: int = u32(default=0)
    value: int = u64()


class GetRegister(Format):
    """The guest wants a synthetic register's value."""

    number: int = u32(doc="x86 MSR number")
    reserved: int = u32(default=0)


class RegisterValue(Format):
    """Answers GET_REGISTER."""

    value: int = u64()


class PostMessage(Format):
    """HvCallPostMessage with its payload in the frame."""

    connection_id: int = u32()
    message_type: int = u32()
    payload_size: int = u32(unit="bytes")
    reserved: int = u32(default=0)
    payload: bytes = rest()


class PostMessageReply(Format):
    """The hypercall's status."""

    hv_status: int = u64()


class SignalEvent(Format):
    """HvCallSignalEvent; posted."""

    connection_id: int = u32()
    flag_number: int = u16(default=0)
    reserved: int = u16(default=0)


class Note(Format):
    """A line of text for whoever watches the guest; posted."""

    kind: NoteKind = u32(NoteKind)
    text: bytes = rest(text="utf-8")

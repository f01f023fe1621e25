"""vmbfs: read-only files that the host gives the guest's firmware, such as initial machine configuration (IMC).

A request and its response are messages of a pipe.  Reads by RDMA go into memory that the guest first gave a handle
(:class:`vmbus.wire.pipe.PipeSetupGpaDirect`).

Sources: openvmm ``vm/devices/vmbus/vmbfs/src/protocol.rs``; mu_msvm ``Include/Protocol/VmbusFileSystem.h`` and
``VmbfsDxe/VmbfsFile.c``.
"""

from __future__ import annotations

from vmbus.wire.enums import OpenEnum, OpenFlags
from vmbus.wire.schema import Format, rest, u32, u64, variant

MAX_MESSAGE_SIZE = 12288


class VmbfsVersion(OpenEnum):
    """Major version in the high half, minor in the low one."""

    WIN10 = 0x00010000


class VmbfsMessageType(OpenEnum):
    """What a message is."""

    INVALID = 0
    VERSION_REQUEST = 1
    VERSION_RESPONSE = 2
    GET_FILE_INFO_REQUEST = 3
    GET_FILE_INFO_RESPONSE = 4
    READ_FILE_REQUEST = 5
    READ_FILE_RESPONSE = 6
    READ_FILE_RDMA_REQUEST = 7
    READ_FILE_RDMA_RESPONSE = 8


class VmbfsVersionStatus(OpenEnum):
    """The host's answer to a version."""

    SUPPORTED = 0
    UNSUPPORTED = 1


class VmbfsStatus(OpenEnum):
    """How a request about a file ended."""

    SUCCESS = 0
    NOT_FOUND = 1
    END_OF_FILE = 2
    ERROR = 3


class FileInfoFlags(OpenFlags):
    """What a file is."""

    DIRECTORY = 1
    RDMA_CAPABLE = 2


class VmbfsVersionRequest(Format):
    """Guest to host."""

    requested_version: VmbfsVersion = u32(VmbfsVersion)


class VmbfsVersionResponse(Format):
    """Host to guest."""

    status: VmbfsVersionStatus = u32(VmbfsVersionStatus)


class GetFileInfoRequest(Format):
    """Guest to host."""

    file_path: bytes = rest(text="utf-16-le")


class GetFileInfoResponse(Format):
    """Host to guest."""

    status: VmbfsStatus = u32(VmbfsStatus)
    flags: FileInfoFlags = u32(FileInfoFlags)
    file_size: int = u64(unit="bytes")


class ReadFileRequest(Format):
    """Guest to host."""

    byte_count: int = u32(unit="bytes")
    offset: int = u64(unit="bytes")
    file_path: bytes = rest(text="utf-16-le")


class ReadFileResponse(Format):
    """Host to guest."""

    status: VmbfsStatus = u32(VmbfsStatus)
    payload: bytes = rest(payload=True)


class ReadFileRdmaRequest(Format):
    """Guest to host: read into memory with a handle."""

    handle: int = u32(doc="where to read to")
    byte_count: int = u32(unit="bytes")
    file_offset: int = u64(unit="bytes")
    token_offset: int = u64(unit="bytes", doc="in the memory of the handle")
    file_path: bytes = rest(text="utf-16-le")


class ReadFileRdmaResponse(Format):
    """Host to guest."""

    status: VmbfsStatus = u32(VmbfsStatus)
    byte_count: int = u32(unit="bytes")


VMBFS_BODIES: dict[int, type[Format]] = {
    VmbfsMessageType.VERSION_REQUEST: VmbfsVersionRequest,
    VmbfsMessageType.VERSION_RESPONSE: VmbfsVersionResponse,
    VmbfsMessageType.GET_FILE_INFO_REQUEST: GetFileInfoRequest,
    VmbfsMessageType.GET_FILE_INFO_RESPONSE: GetFileInfoResponse,
    VmbfsMessageType.READ_FILE_REQUEST: ReadFileRequest,
    VmbfsMessageType.READ_FILE_RESPONSE: ReadFileResponse,
    VmbfsMessageType.READ_FILE_RDMA_REQUEST: ReadFileRdmaRequest,
    VmbfsMessageType.READ_FILE_RDMA_RESPONSE: ReadFileRdmaResponse,
}


class VmbfsMessage(Format):
    """Any message of a vmbfs pipe, in either direction."""

    message_type: VmbfsMessageType = u32(VmbfsMessageType)
    reserved: int = u32(default=0)
    body: Format | bytes = variant(on="message_type", cases=VMBFS_BODIES)
    trailing: bytes = rest()

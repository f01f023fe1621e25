"""Guest services: the host copies a file into the guest, in fragments of 6 KiB.

Sources: Linux 6.12 ``include/uapi/linux/hyperv.h`` (``hv_fcopy_hdr``, ``hv_start_fcopy``, ``hv_do_fcopy``) and
``tools/hv/hv_fcopy_uio_daemon.c``.  The service's version is 1.1.
"""

from __future__ import annotations

from uuid import UUID

from vmbus.wire.enums import OpenEnum, OpenFlags
from vmbus.wire.schema import NIL_GUID, Format, blob, guid, raw, rest, u32, u64, variant

MAX_PATH = 260
DATA_FRAGMENT = 6 * 1024


class FcopyOperation(OpenEnum):
    """What the host does."""

    START_FILE_COPY = 0
    WRITE_TO_FILE = 1
    COMPLETE_FCOPY = 2
    CANCEL_FCOPY = 3


class FcopyFlags(OpenFlags):
    """How the file is made."""

    OVER_WRITE = 1
    CREATE_PATH = 2


class FcopyStart(Format):
    """A file to make."""

    file_name: bytes = raw(2 * MAX_PATH, text="utf-16-le")
    path_name: bytes = raw(2 * MAX_PATH, text="utf-16-le")
    copy_flags: FcopyFlags = u32(FcopyFlags)
    file_size: int = u64(unit="bytes")


class FcopyWrite(Format):
    """Part of its content."""

    padding: int = u32(default=0)
    offset: int = u64(unit="bytes")
    size: int = u32(unit="bytes")
    data: bytes = blob(length="size", payload=True)
    unused: bytes = rest(doc="up to a whole fragment")


class FcopyMessage(Format):
    """A request; the answer has the same layout, and its header the status."""

    operation: FcopyOperation = u32(FcopyOperation)
    service_id0: UUID = guid(default=NIL_GUID, doc="not used")
    service_id1: UUID = guid(default=NIL_GUID, doc="not used")
    body: Format | bytes = variant(
        on="operation", cases={FcopyOperation.START_FILE_COPY: FcopyStart, FcopyOperation.WRITE_TO_FILE: FcopyWrite}
    )
    trailing: bytes = rest()

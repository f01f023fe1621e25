"""What a pipe carries beside its data: guest memory that its messages then name by a handle.

The firmware's vmbfs driver sets a range up, asks for a read by RDMA into it, and tears it down.  Both messages have
the usual pipe header (:class:`vmbus.wire.ring.PipeHeader`); the structures are packed.

Sources: mu_msvm ``Include/Vmbus/VmbusPacketFormat.h`` (``VMPIPE_*_BODY``) and ``EmclDxe/Emcl.c``.
"""

from __future__ import annotations

from vmbus.wire.ring import GpaRange, PipePacketType
from vmbus.wire.schema import Format, items, u8, u32


class PipeSetupGpaDirect(Format):
    """Guest to host: from now on the handle stands for these pages."""

    handle: int = u32()
    is_writable: int = u8(doc="1: the host may write there")
    range_count: int = u32()
    ranges: tuple[GpaRange, ...] = items(GpaRange, count="range_count")


class PipeTeardownGpaDirect(Format):
    """Guest to host: the handle stands for nothing any more."""

    handle: int = u32()


PIPE_BODIES: dict[int, type[Format]] = {
    PipePacketType.SETUP_GPA_DIRECT: PipeSetupGpaDirect,
    PipePacketType.TEARDOWN_GPA_DIRECT: PipeTeardownGpaDirect,
}
"""By the header's packet type: what a packet of a pipe holds that is not data."""
